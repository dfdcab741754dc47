"""Flags of `python -m tl_distributed.doctor`: those of train, about which it answers, and a few of its own."""

import dataclasses

from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import setting

DOCTOR = "Doctor"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Flags of the command."""

    json: str = setting(
        "",
        "Write the report, with every single measurement, as this JSON file too (worker N of several: "
        "NAME.workerN.json).",
        topic=DOCTOR,
    )
    verify: str = setting(
        "auto", "sizes compares the shards' sizes and counts with dataset.json; full reads every record and hash too; "
        "auto is full for data sets up to 256 MB.", topic=DOCTOR, choices=("auto", "sizes", "full"),
    )  # fmt: skip
    check_seconds: float = setting(
        300.0, "A check that takes longer is ended and counts as failed; --verify=full may take its time.",
        topic=DOCTOR, minimum=1,
    )  # fmt: skip

    def of_train(self) -> Config:
        """Returns the settings that train has too, which are the same on all workers."""
        return self.part(Config)
