"""Rankings of backbones from Python."""

import dataclasses
import functools
from typing import Any

from tl_distributed.api.calls import api_call, kept_path, quiet_tensorflow
from tl_distributed.api.keywords import settings_of
from tl_distributed.api.study import Table
from tl_distributed.ranking.settings import RankConfig


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Backbones in the order of what simple classifiers make of their frozen features.

    Attributes:
      workdir: Its folder, from the root, with report.html, ranking.csv, few_shot.csv, ranking.json and plots.
      left_out: Why backbones could not be measured, by their name.
    """

    workdir: str
    left_out: dict[str, str]
    _results: tuple[dict[str, Any], ...] = dataclasses.field(repr=False)
    _config: RankConfig = dataclasses.field(repr=False)

    def __post_init__(self):
        object.__setattr__(self, "workdir", kept_path(self.workdir))

    @property
    def table(self) -> Table:
        """A row for each backbone, the best on the validation images first.

        Accuracies are of logistic regression (`val_accuracy`, `test_accuracy` where there is a test split) and of the
        nearest neighbours on validation, in [0, 1]; `logme` is in nats an image; `macs` are multiply-accumulates an
        image; `level` says that the first is not told apart from it.
        """
        from tl_distributed.ranking.order import level_with_first

        level = level_with_first(self._results)
        return Table(
            {
                "backbone": one["candidate"],
                "val_accuracy": one["logistic_val_accuracy"],
                **({"test_accuracy": one["logistic_test_accuracy"]} if "logistic_test_accuracy" in one else {}),
                "knn_accuracy": one["knn_val_accuracy"],
                "logme": one["logme"],
                "seconds_per_1000_images": one["seconds_per_1000_images"],
                "macs": one["macs"],
                "parameters": one["parameters"],
                "image_size": one["image_size"],
                "level": one["candidate"] in level,
            }
            for one in self._results
        )

    @property
    def few_shot(self) -> Table:
        """A row for each backbone and number of training images of each class.

        `accuracy` is the mean over the draws, on test where there is such a split, else on validation; `std` their
        standard deviation, `None` of one.
        """
        import numpy as np

        return Table(
            {
                "backbone": one["candidate"],
                "images_per_class": shots["images_per_class"],
                "draws": len(found := shots["accuracies"]),
                "accuracy": float(np.mean(found)),
                "std": float(np.std(found, ddof=1)) if len(found) > 1 else None,
            }
            for one in self._results
            for shots in one["few_shot"]
        )

    @functools.cached_property
    def best_at_each_cost(self) -> dict[str, str]:
        """The command that trains each backbone that none beats at its `cost` or less, the most accurate first."""
        from tl_distributed.ranking.order import pareto_front, train_command

        front = reversed(pareto_front(self._results, self._config.cost))
        return {one["candidate"]: train_command(one, self._config) for one in front}

    def text(self) -> str:
        """Returns what the command prints: the table, who was left out, and how to train the best at each cost."""
        from tl_distributed.ranking.report import PAGE_FILE, finding

        rows = Table({name: value for name, value in row.items() if name != "level"} for row in self.table)
        commands = [f"  {command}" for command in self.best_at_each_cost.values()]
        return "\n".join([
            str(rows), "", finding(self._results),
            *(f"Left out: {name}: {reason}" for name, reason in self.left_out.items()),
            f"Train the best at each cost ({self._config.cost}):", *commands,
            f"Report: {self._config.folder}/{PAGE_FILE}",
        ])  # fmt: skip


def rank(**flags: Any) -> Ranking:
    """Ranks backbones as `python -m tl_distributed.rank` does; the same call goes on where it stopped.

    Each backbone is measured in a process of its own.

    Args:
      **flags: The flags of the command, e.g. `data_dir="data/photos", backbones=["mobilenet_v2", "resnet50"]`.

    Raises:
      UserError: A backbone that is not there, a data set without train or val; where none could be measured, why.
      Stopped: A signal stopped it.
    """
    return rank_with(settings_of(RankConfig, flags))


def rank_with(config: RankConfig) -> Ranking:
    """Ranks with settings as they are; command and API alike end here. Raises as `rank`."""
    if config.plugin or any(":" in name for name in config.backbones):
        quiet_tensorflow()  # before they import it themselves
    config.validate()
    with api_call():
        from tl_distributed.ranking import runner
        from tl_distributed.ranking.order import by_rank
        from tl_distributed.ranking.report import write_ranking

        info = runner.read_data_set(config)
        measured = runner.measure_candidates(config, info, runner.measure_job)
        write_ranking(config, info, measured)
    return Ranking(config.folder, measured.left_out, tuple(by_rank(measured.results)), config)
