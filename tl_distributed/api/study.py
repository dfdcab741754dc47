"""Studies from Python: several ways of training on equal terms, and what they show."""

import dataclasses
import functools
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tl_distributed.api.calls import api_call, kept_path
from tl_distributed.api.keywords import as_arguments, settings_of
from tl_distributed.api.run import Run
from tl_distributed.errors import UserError
from tl_distributed.studies.plan import Plan, StudyConfig, make_plan, plan_of_arm, plan_of_run

if TYPE_CHECKING:
    from tl_distributed.studies.collect import ArmSummary, Record


class Table(list):
    """Rows as dictionaries of the same keys; a notebook shows them as a table, and `pandas.DataFrame` takes them."""

    def _repr_html_(self) -> str:
        header = "".join(f"<th>{html.escape(str(name))}</th>" for name in (self[0] if self else ()))
        rows = ("".join(f"<td>{html.escape(_shown(value))}</td>" for value in row.values()) for row in self)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"

    def __str__(self) -> str:
        texts = [list(map(str, self[0])), *([_shown(value) for value in row.values()] for row in self)] if self else []
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = ("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)) for row in texts)
        return "\n".join(line.rstrip() for line in lines)


@dataclasses.dataclass(frozen=True)
class Study:
    """A study and the runs that it has.

    Attributes:
      workdir: Its folder, from the root, with report.html, report.md, results.csv and plots.
      plan: Of the runs that this call was to bring to their end, at the rates that were found.
      num_asked: Runs that this call was to bring to their end.
      num_failed: Those of them that failed.
      records: Of every run of the plan; empty on a worker that is not the first, and where only one arm was trained.
    """

    workdir: str
    plan: Plan = dataclasses.field(repr=False)
    num_asked: int
    num_failed: int
    records: tuple["Record", ...] = dataclasses.field(repr=False)

    def __post_init__(self):
        object.__setattr__(self, "workdir", kept_path(self.workdir))
        records = tuple(dataclasses.replace(one, folder=kept_path(one.folder)) for one in self.records)
        object.__setattr__(self, "records", records)

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The runs that are done, by the name of their arm, in the order of sizes and seeds."""
        found: dict[str, list[Run]] = {arm.name: [] for arm in self.plan.arms}
        for record in self.records:
            if record.status == "done":
                found[record.run.arm.name].append(Run(record.folder, record.results))
        return found

    @property
    def failures(self) -> dict[str, str]:
        """Why runs failed, by their name."""
        return {str(record.run): record.reason for record in self.records if record.status == "failed"}

    @property
    def table(self) -> Table:
        """A row for each arm and size of the training set that has runs.

        `test_accuracy` and `val_accuracy` are means over the seeds, in [0, 1]; `test_accuracy_std` is the standard
        deviation over seeds, `None` of one; `parameters` and `trainable_parameters` are numbers of weights;
        `seconds` is the mean training time.
        """
        return Table(_row(summary) for summary in self._summaries)

    @property
    def pairs(self) -> Table:
        """A row for every two arms, compared on the same test images at the largest size of the training set.

        `difference` is of test accuracies, `low` and `high` are its 95 % interval, all as shares; `p` allows for the
        number of pairs (Holm).
        """
        with api_call():
            from tl_distributed.studies.collect import at_largest_size, compare_all

            pairs = compare_all(at_largest_size(self.plan, self._summaries))
        return Table(
            {
                "first": pair.first, "second": pair.second, "difference": pair.comparison.difference,
                "low": pair.comparison.low, "high": pair.comparison.high, "p": pair.adjusted_p,
            }
            for pair in pairs
        )  # fmt: skip

    @functools.cached_property
    def _summaries(self) -> list["ArmSummary"]:
        with api_call():
            from tl_distributed.studies.collect import summarise

            return summarise(self.plan, self.records)


def study(
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    common: Mapping[str, Any] | None = None,
    **flags: Any,
) -> Study:
    """Compares ways of training as `python -m tl_distributed.study` does; the same call goes on where it stopped.

    Each run trains in a process of its own, which imports what an arm names by itself.

    Args:
      arms: The flags of `train` of each way, by its name: `{"frozen": {"transfer": "frozen"}, "full": {...}}`. The
        name of a recipe stands for its flags. `None`: of `recipe="NAME"`.
      common: Flags of `train` for every arm; an arm's own win.
      **flags: Of the study: `data_dir`, `workdir`, `seeds`, `images_per_class`, `baseline` and so on.

    Raises:
      UserError: An arm that cannot be meant, or a study in the workdir of other settings; where every run failed, why.
      Stopped: A signal stopped the study after a checkpoint of the run that was going on.
    """
    config = settings_of(StudyConfig, flags)
    if config.list_arms or config.list_runs:  # which would train all of them here
        raise UserError("--list_arms and --list_runs: the command prints them; drop them here")
    if arms is None:
        if common:
            raise UserError("common: give it together with arms; for a recipe of a study there is --common of its own")
        return run_study(config, make_plan(config))
    if not isinstance(arms, Mapping) or not all(isinstance(own, Mapping) for own in arms.values()):
        raise UserError('arms takes the flags of each way by its name: {"frozen": {"backbone": "mobilenet_v2"}, ...}')
    given = {name: as_arguments({**(common or {}), **own}) for name, own in arms.items()}
    return run_study(config, make_plan(config, given))


def run_study(config: StudyConfig, plan: Plan) -> Study:
    """Runs what is left of a plan and reports; command and API alike end here. Raises as `study`."""
    with api_call():
        return _run(config, plan, _own_part(plan, config))


def _own_part(plan: Plan, config: StudyConfig) -> Plan:
    """Returns what this process trains of the plan."""
    if config.arm_index is not None:
        return plan_of_arm(plan, config.arm_index)
    return plan if config.run_index is None else plan_of_run(plan, config.run_index)


def _refuse_sizes_beyond(most: int, plan: Plan, data_dir: str) -> None:
    """Raises `UserError` for a size that no class has: its runs would be those of all images under another number."""
    size = max(run.images_per_class for run in plan.runs)
    if size > most:
        raise UserError(
            f"--images_per_class={size}: no class of --data_dir={data_dir} has more than {most:,} training images; "
            "0 is all of them"
        )


def _run(config: StudyConfig, plan: Plan, own: Plan) -> Study:
    from tl_distributed.data.records import read_manifest
    from tl_distributed.studies import runner
    from tl_distributed.studies.devices import devices_of_runs
    from tl_distributed.studies.report import write_report
    from tl_distributed.studies.together import join_study
    from tl_distributed.studies.tuning import at_tuned_rates, grid_factors, tune_arms

    grid_factors(config.tune)
    info = read_manifest(config.data_dir)
    missing = [name for name in ("train", "val", "test") if name not in info.splits]
    if missing:
        raise UserError(
            f"--data_dir={config.data_dir}: no {missing[0]} split; a study needs train, val and test (build the data "
            f"set with --{missing[0]}_fraction=0.2)"
        )
    if info.is_multi_label:
        raise UserError(
            f"--data_dir={config.data_dir}: a study compares by accuracy, and its pictures have any number of labels; "
            "train the arms one by one and compare their results.json"
        )
    _refuse_sizes_beyond(max(info.splits["train"].counts_per_class.values()), plan, config.data_dir)
    workdir = (config.workdir or f"runs/{config.recipe or 'study'}").rstrip("/")
    folders = {"data_dir": config.data_dir, "workdir": workdir}
    is_part, failed, records = own is not plan, 0, []
    with join_study(config) as workers:
        if workers.is_chief:
            runner.open_study(workdir, plan, info)

        def train(part: Plan) -> int:
            return runner.run_plan(
                part, info, **folders, data_copy_dir=config.data_copy_dir, train=runner.train_in_process,
                workers=workers, cluster_arguments=config.cluster_arguments(),
                devices=devices_of_runs(config.runs_per_node),
            )  # fmt: skip

        if not config.report_only:
            tune_arms(own, config.tune, workdir, workers, train, may_train=config.run_index is None)
        own = at_tuned_rates(own, workdir, workers)
        if not config.report_only:
            failed = train(own)
        if not is_part and workers.is_chief:
            records = write_report(own, info, **folders)
    return Study(workdir, own, len(own.runs), failed, tuple(records))


def _row(summary: "ArmSummary") -> dict[str, Any]:
    test = summary.test_accuracy
    return {
        "arm": summary.name,
        "images_per_class": summary.images_per_class or "all",
        "runs": test.count,
        "test_accuracy": test.mean,
        "test_accuracy_std": test.deviation,
        "val_accuracy": summary.spread_of("val_accuracy").mean,
        "parameters": round(summary.spread_of("parameters").mean),
        "trainable_parameters": round(summary.spread_of("trainable_parameters").mean),
        "seconds": summary.spread_of("seconds").mean,
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
