"""Command: look whether training would run here, and say what is wrong where it would not.

  python -m tl_distributed.doctor [the flags that train is given] [--json=report.json]

Prints a report to send with a bug report: versions, devices, driver, precision and XLA as they come out, the measured
speed of matrix products and of the all-reduce, a few steps of the training engine, the data set, the disk. Exit code 1
where training would fail, else 0. Nothing is written but the file that --json names.
"""

import dataclasses
import functools
import json
import os
import sys
import time

from tl_distributed.diagnosis import devices, environment, gpus, storage
from tl_distributed.diagnosis.checks import Check
from tl_distributed.diagnosis.report import Finding, as_json, as_text, training_would_fail
from tl_distributed.diagnosis.settings import DoctorConfig
from tl_distributed.diagnosis.supervision import examine
from tl_distributed.errors import UserError
from tl_distributed.files import to_json_values
from tl_distributed.settings.command import refuse_positional, run_command, start_logging

_DATA = "data set"
CHECKS = (
    Check(environment.SOFTWARE, "versions", environment.software, remedy="install again: pip install -e ."),
    Check(environment.SOFTWARE, "requirements", environment.requirements, essential=False),
    Check(environment.SOFTWARE, "Keras backend", environment.keras_backend, remedy="unset KERAS_BACKEND"),
    Check(environment.MACHINE, "machine", environment.machine, essential=False),
    Check(gpus.GPUS, "GPUs", gpus.gpus, essential=False),
    Check(environment.ENVIRONMENT, "variables", environment.variables, essential=False),
    Check(devices.STRATEGY, "strategy", devices.strategy),
    Check(devices.STRATEGY, "precision and XLA", devices.precision),
    Check(devices.STRATEGY, "NCCL", devices.collectives, essential=False),
    Check(devices.SPEED, "matmul", devices.matmul),
    Check(devices.SPEED, "all-reduce", devices.all_reduce, remedy="NCCL_DEBUG=INFO makes NCCL say what it waits for"),
    Check(devices.TRAINING, "training step", devices.training_step, remedy=devices.NARROW_DOWN),
    Check(storage.FILES, _DATA, storage.data_set),
    Check(storage.FILES, "workdir", storage.workdir, remedy="check --workdir, and who may write there"),
)


def main(config: DoctorConfig, positional: list[str]) -> int:
    """Examines, and prints the report; returns the exit code."""
    refuse_positional(positional)
    config.validate()
    if config.json and "://" not in config.json and not os.path.isdir(os.path.dirname(config.json) or "."):
        raise UserError(f"--json={config.json}: no such folder; create it, or name a file in another")
    start_logging()
    checks = [dataclasses.replace(check, limited=check.name != _DATA or config.verify != "full") for check in CHECKS]
    findings = examine(config, checks, check_seconds=config.check_seconds)  # TensorFlow stays out of this process
    title = f"tl_distributed.doctor {time.strftime('%Y-%m-%d %H:%M:%S %z')}: {' '.join(sys.argv[1:]) or 'no flags'}"
    print(as_text(findings, title))
    if config.json:
        _write(
            _path_of_worker(config.json, findings),
            json.dumps(to_json_values(as_json(findings, title)), indent=2, allow_nan=False) + "\n",
        )
    return int(training_would_fail(findings))


def _path_of_worker(path: str, findings: list[Finding]) -> str:
    """Returns the file of this worker's report: of worker 1 report.worker1.json, where --json=report.json."""
    index = next((finding.data["index"] for finding in findings if finding.name == "worker"), 0)
    stem, extension = os.path.splitext(path)
    return f"{stem}.worker{index}{extension}" if index else path


def _write(path: str, text: str) -> None:
    """Writes a file, whole or not at all; a local one without TensorFlow, whose import may be what fails."""
    if "://" in path:
        from tl_distributed.files import write_file

        write_file(path, text.encode())
        return
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"--json={path}: cannot be written ({error.strerror}); name another file") from None


run = functools.partial(run_command, main, DoctorConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
