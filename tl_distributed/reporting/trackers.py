"""Experiment trackers: the scalars that TensorBoard gets, in MLflow or Weights & Biases too.

Where they go is theirs to know: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; WANDB_PROJECT, WANDB_MODE=offline and so
on. A run that resumes goes on as the run it was: its number is kept in `tracker.json` of the workdir.
"""

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tl_distributed.errors import UserError, one_line
from tl_distributed.files import is_remote, read_json, write_json

TRACKERS = ("none", "mlflow", "wandb")
TRACKER_FILE = "tracker.json"
_NAMES = {"mlflow": "MLflow", "wandb": "Weights & Biases"}
_PROJECT = "tl_distributed"  # unless the tracker's own variable names another
_MOST_PARAMS = 100  # in one call of MLflow's


class Tracker(Protocol):
    """One run in a tracker."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to the curve of each tag."""

    def close(self, outcome: type[BaseException] | None) -> None:
        """Says how the run ended: by which exception, or by none."""


def refuse_without_tracker(name: str) -> None:
    """Raises `UserError` where the package of a tracker is not installed."""
    if name != "none":
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # without an origin: a folder `wandb`, as that package leaves some
            raise UserError(
                f"--track={name}: {_NAMES[name]} is not installed; pip install -e '.[{name}]' in the package's folder"
            )


def open_tracker(name: str, workdir: str, settings: Mapping[str, Any], *, resumed: bool) -> Tracker:
    """Begins a run in a tracker, or goes on with the one that `workdir` names.

    Args:
      name: One of `TRACKERS`.
      workdir: The run's folder, which is there.
      settings: By which runs are compared; stored when a run begins.
      resumed: Whether the training goes on from a checkpoint.

    Raises:
      UserError: The tracker cannot be reached, or refuses.
    """
    if name == "none":
        return _NoTracker()
    path = f"{workdir}/{TRACKER_FILE}"
    known = (read_json(path) or {}).get(name) if resumed else None
    shown = {key: plain for key, value in settings.items() if (plain := _plain(value)) != ""}
    try:
        tracker = (_Mlflow if name == "mlflow" else _Wandb)(workdir, shown, known)
    except Exception as error:  # each has its own, and those of its HTTP library
        there = f", or delete {path} to begin a new run there" if known else ""
        raise UserError(f"--track={name}: {one_line(error)[:300]}; check its settings{there}") from None
    write_json(path, {**(read_json(path) or {}), name: tracker.id})
    return _LetGo(tracker, name)


class _NoTracker:
    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, outcome: type[BaseException] | None) -> None: ...


class _LetGo:
    """A tracker that fails in the middle is told goodbye: the training goes on without it."""

    def __init__(self, tracker: Tracker, name: str):
        self._tracker, self._name = tracker, name

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda tracker: tracker.scalars(step, values))

    def close(self, outcome: type[BaseException] | None) -> None:
        self._try(lambda tracker: tracker.close(outcome))

    def _try(self, call: Callable[[Tracker], None]) -> None:
        try:
            call(self._tracker)
        except Exception as error:  # as above
            logging.getLogger(__name__).warning(
                "--track=%s: %s; the run goes on untracked, metrics.jsonl has everything.", self._name,
                one_line(error)[:300],
            )  # fmt: skip
            self._tracker = _NoTracker()


class _Mlflow:
    def __init__(self, workdir: str, settings: Mapping[str, Any], known: str | None):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if known:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        run = self._client.create_run(self._experiment(), run_name=workdir)
        self.id = run.info.run_id
        params = [Param(key, str(value)) for key, value in settings.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.id, params=params[first : first + _MOST_PARAMS])

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        try:
            found = self._client.get_experiment_by_name(name)
            return found.experiment_id if found else self._client.create_experiment(name)
        except MlflowException:  # a run beside this one made it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(tag, float(value), now, step) for tag, value in values.items()]
        if metrics:
            self._client.log_batch(self.id, metrics=metrics)

    def close(self, outcome: type[BaseException] | None) -> None:
        self._client.set_terminated(self.id, {None: "FINISHED", SystemExit: "KILLED"}.get(outcome, "FAILED"))


class _Wandb:
    def __init__(self, workdir: str, settings: Mapping[str, Any], known: str | None):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), name=workdir, config=dict(settings),
            id=known, resume="allow" if known else None,
            dir=os.environ.get("WANDB_DIR") or (None if is_remote(workdir) else workdir),
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        self.id = self._run.id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({tag: float(value) for tag, value in values.items()}, step=step)

    def close(self, outcome: type[BaseException] | None) -> None:
        self._run.finish(exit_code=0 if outcome is None else 1)


def _plain(value: Any) -> Any:
    """Returns what a tracker stores of a setting; nothing of one that says nothing."""
    if value is None or isinstance(value, bool | int | float | str):
        return "" if value is None else value
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
