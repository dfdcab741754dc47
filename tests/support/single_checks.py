"""What the tests of the doctor share: settings, and single checks."""

import pathlib

from tl_distributed.diagnosis.checks import Check, Subject, run_check
from tl_distributed.diagnosis.report import Finding
from tl_distributed.diagnosis.settings import DoctorConfig


def doctor_config(**settings) -> DoctorConfig:
    return DoctorConfig(**{"global_batch_size": 16, **settings})


def run(function, *, essential: bool = True, **settings) -> list[Finding]:
    return run_check(Check("Topic", "check", function, essential=essential), Subject(doctor_config(**settings)))


def damage(data_dir: str, kind: str) -> str:
    """Breaks a shard; returns its name."""
    shard = sorted(pathlib.Path(data_dir).glob("train-*"))[1]
    content = shard.read_bytes()
    if kind == "missing":
        shard.unlink()
    elif kind == "cut":
        shard.write_bytes(content[:-5])
    else:
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    return shard.name
