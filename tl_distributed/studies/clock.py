"""How long the rest of a study will take, from the runs that are done."""

from collections.abc import Mapping

from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.subset import subset_counts
from tl_distributed.settings.config import Config
from tl_distributed.studies.plan import Run
from tl_distributed.training.phases import Phase, plan_phases

# Cost of a training image in forward passes of the whole net, by what a phase trains: rough, and soon replaced by what
# the arm's own runs took. From a feature bank only what follows the frozen part is computed.
_UNKNOWN_GMACS = 1.0  # of a network of one's own, until its first run shows its pace
_COST = {"scratch": 3.0, "full": 3.0, "norms": 2.5, "lora": 3.0, "partial": 2.0, "frozen": 1.0}
_COST_FROM_BANK = {**_COST, "partial": 1.0, "frozen": 0.01}


def planned_images(config: Config, info: DatasetInfo, images_per_class: int) -> int:
    """Returns how many images a run trains on if it is not stopped early: epochs times training images."""
    return sum(phase.total_steps for phase in _phases(config, info, images_per_class)) * config.global_batch_size


def planned_work(config: Config, info: DatasetInfo, images_per_class: int) -> float:
    """Returns a rough relative cost of a run: the arithmetic of its training, and of its feature bank if it has one."""
    backbone = config.backbone_row()
    native_size = max(info.image_shape[:2])
    size = config.image_size or backbone.default_size or native_size
    forward = (backbone.gmacs or _UNKNOWN_GMACS) * (size / (backbone.default_size or native_size)) ** 2
    banked = config.feature_bank != "off" and not config.why_nothing_to_bank()
    cost = _COST_FROM_BANK if banked else _COST
    phases = _phases(config, info, images_per_class)
    passes = sum(cost[phase.freezing] * phase.total_steps for phase in phases) * config.global_batch_size
    if banked:
        others = sum(split.num_examples for name, split in info.splits.items() if name != "train")
        passes += _train_images(info, images_per_class) * max(config.bank_views, 1) + others
    return forward * passes


def _phases(config: Config, info: DatasetInfo, images_per_class: int) -> tuple[Phase, ...]:
    resolved = config.resolved(native_size=max(info.image_shape[:2]))
    return plan_phases(resolved, num_examples=_train_images(info, images_per_class))


def _train_images(info: DatasetInfo, images_per_class: int) -> int:
    return sum(subset_counts(info.splits["train"].counts_per_class, images_per_class).values())


class PlanClock:
    """Estimates seconds: a start that every run has, and training, which grows with its work.

    The rate is that of the arm's own runs where there are any, else that of all runs.
    """

    def __init__(self, works: Mapping[Run, float]):
        """Takes the relative cost of every run, in the order in which they are run."""
        self._works = dict(works)
        self._waiting = list(works)
        self._measured: dict[str, tuple[float, float]] = {}  # by arm: work done and its training seconds
        self._starts: list[float] = []

    def skip(self, run: Run) -> None:
        """Takes out a run that needs no time."""
        self._waiting.remove(run)

    def finish(self, run: Run, *, seconds: float, training_seconds: float) -> None:
        """Notes a run that took `seconds` in all; `training_seconds` is 0 for one that failed."""
        self._waiting.remove(run)
        work, before = self._measured.get(run.arm.name, (0.0, 0.0))
        self._measured[run.arm.name] = (work + self._works[run], before + training_seconds)
        self._starts.append(max(0.0, seconds - training_seconds))

    def seconds_left(self, current: Run, *, elapsed_seconds: float, share_done: float) -> float | None:
        """Returns the expected seconds until the end of the plan; `None` while there is nothing to go by.

        Args:
          current: The run that is going on.
          elapsed_seconds: Since it began.
          share_done: Of it, in [0, 1].
        """
        start = sum(self._starts) / len(self._starts) if self._starts else 0.0
        measured = dict(self._measured)
        if share_done > 0:
            work, before = measured.get(current.arm.name, (0.0, 0.0))
            training = max(0.0, elapsed_seconds - start)
            measured[current.arm.name] = (work + share_done * self._works[current], before + training)
        if not measured:
            return None
        all_work, all_seconds = (sum(column) for column in zip(*measured.values(), strict=True))
        left = 0.0
        for run in self._waiting:
            work, seconds = measured.get(run.arm.name, (all_work, all_seconds))
            training = self._works[run] * seconds / work
            if run != current:
                left += start + training
            elif share_done > 0:
                left += (1 - share_done) * training
            else:
                left += max(0.0, start + training - elapsed_seconds)
        return left
