"""MLflow and Weights & Biases without a network: the scalars of TensorBoard, once each, also through a kill."""

import json
import pathlib
import time

import pytest
from tiny_runs import config
from toy_dataset import write_toy_dataset
from wandb_files import read_wandb

from tl_distributed.errors import UserError
from tl_distributed.reporting import trackers
from tl_distributed.reporting.board_tags import scalars_of
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.reporting.run_log import RunLog
from tl_distributed.training.run import train_and_evaluate

START = {"replicas": 1, "precision": "float32", "config": {"backbone": "tiny", "learning_rate": 0.1, "augment": None}}


class MlflowFiles:
    """MLflow's file store."""

    name = "mlflow"

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        pytest.importorskip("mlflow", reason="an extra: pip install -e .[mlflow]")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{folder}/mlruns")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it is kept as it is, says MLflow 3

    def _runs(self, workdir: pathlib.Path) -> list:
        from mlflow.tracking import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name("tl_distributed")
        return client.search_runs([experiment.experiment_id], f"tags.mlflow.runName = '{workdir}'")

    def statuses(self, workdir: pathlib.Path) -> list[str]:
        return [run.info.status for run in self._runs(workdir)]

    def settings(self, workdir: pathlib.Path) -> dict[str, str]:
        (run,) = self._runs(workdir)
        return run.data.params

    def points(self, workdir: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
        """Returns every point of the one run, by tag, in the order of its steps."""
        from mlflow.tracking import MlflowClient

        (run,) = self._runs(workdir)
        history = {tag: MlflowClient().get_metric_history(run.info.run_id, tag) for tag in run.data.metrics}
        return {tag: sorted((metric.step, metric.value) for metric in metrics) for tag, metrics in history.items()}


class WandbOffline:
    """The files that `wandb sync` sends later: one for each start of the run, all of one number."""

    name = "wandb"

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        pytest.importorskip("wandb", reason="an extra: pip install -e .[wandb]")
        monkeypatch.setenv("WANDB_MODE", "offline")

    def _starts(self, workdir: pathlib.Path) -> list:
        paths = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"))
        deadline = time.monotonic() + 20  # its service writes the end a moment after it says so
        while (starts := [read_wandb(path) for path in paths]) and any(start.exit_code is None for start in starts):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len({start.run_id for start in starts}) == 1
        return starts

    def statuses(self, workdir: pathlib.Path) -> list[str]:
        return ["KILLED" if self._starts(workdir)[-1].exit_code else "FINISHED"]

    def settings(self, workdir: pathlib.Path) -> dict[str, str]:
        return {name: str(value) for name, value in self._starts(workdir)[0].config.items()}

    def points(self, workdir: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
        found: dict[str, list[tuple[int, float]]] = {}
        for start in self._starts(workdir):
            for step, tag, value in start.points:
                found.setdefault(tag, []).append((step, value))
        return {tag: sorted(points) for tag, points in found.items()}


@pytest.fixture(params=[pytest.param(one, id=one.name, marks=pytest.mark.extra) for one in (MlflowFiles, WandbOffline)])
def tracker(request, tmp_path, monkeypatch):
    return request.param(tmp_path, monkeypatch)


def row(step: int, *, of_validation: bool = False) -> dict:
    values = {"val_loss": 2.0 / step} if of_validation else {"loss": 1.0 / step, "learning_rate": 0.5}
    return {"step": step, "epoch": step / 4, "seconds": 1.0 * step, **values}


def test_a_killed_run_goes_on_as_one_with_every_point_once(tracker, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    killed = RunLog(str(workdir), last_step=0, track=tracker.name)
    killed.start(START)
    for step in (1, 2, 3, 4):
        killed.row(row(step))
    killed.row(row(4, of_validation=True))
    killed.row(row(5))
    _let_go_of(killed)
    with RunLog(str(workdir), last_step=3, track=tracker.name) as log:  # its checkpoint
        log.start({**START, "config": {**START["config"], "learning_rate": 0.2}})
        for step in (4, 5, 6):
            log.row(row(step))
            log.row(row(step, of_validation=True))
    points = tracker.points(workdir)
    assert points["quality/training_loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 7)]
    assert points["quality/validation_loss"] == [(step, pytest.approx(2 / step)) for step in (4, 5, 6)]
    assert tracker.statuses(workdir) == ["FINISHED"]
    assert tracker.settings(workdir) == {"backbone": "tiny", "learning_rate": "0.1"}


def _let_go_of(log: RunLog) -> None:
    """What a kill leaves: MLflow's files are complete at any time, and wandb's service ends its own."""
    log._metrics.close()
    log._board.close()
    if log._track == "wandb":
        log._tracker.close(SystemExit)


def test_a_run_that_begins_anew_in_its_folder_is_another_run(tracker, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    numbers = []
    for _ in range(2):
        with RunLog(str(workdir), last_step=0, track=tracker.name) as log:
            log.start(START)
            log.row(row(1))
        numbers.append(json.loads((workdir / trackers.TRACKER_FILE).read_text())[tracker.name])
    assert numbers[0] != numbers[1]


@pytest.mark.parametrize(("error", "status"), [(None, "FINISHED"), (SystemExit(143), "KILLED"), (ValueError(), None)])
def test_how_a_run_ended_is_told(tracker, tmp_path, error, status):
    workdir = tmp_path / "run"
    workdir.mkdir()
    try:
        with RunLog(str(workdir), last_step=0, track=tracker.name) as log:
            log.start(START)
            if error is not None:
                raise error
    except (SystemExit, ValueError):
        pass
    assert tracker.statuses(workdir) == [status or {"mlflow": "FAILED", "wandb": "KILLED"}[tracker.name]]


def test_a_run_and_its_resumption_track_what_tensorboard_shows(tracker, tmp_path):
    data_dir, workdir = (
        write_toy_dataset(tmp_path / "data", counts={"train": 24, "val": 9, "test": 9}),
        tmp_path / "run",
    )
    common = {"epochs": 2, "log_every_steps": 1, "track": tracker.name}
    train_and_evaluate(config(data_dir, workdir, max_steps=4, checkpoint_every_steps=2, **common))
    train_and_evaluate(config(data_dir, workdir, **common))
    expected: dict[str, list] = {}
    for one in read_metrics(f"{workdir}/metrics.jsonl"):
        for tag, value in scalars_of(one, replicas=1, precision="float32").items():
            expected.setdefault(tag, []).append((one["step"], pytest.approx(value)))
    points = tracker.points(workdir)
    assert {tag: found for tag, found in points.items() if not tag.startswith("best/")} == expected
    results = json.loads((workdir / "results.json").read_text())
    assert points["best/test_accuracy"][-1] == (results["steps"], pytest.approx(results["test_accuracy"]))
    assert tracker.settings(workdir)["backbone"] == "tiny_norm" and tracker.statuses(workdir) == ["FINISHED"]


def test_a_tracker_that_fails_in_the_middle_lets_the_training_go_on(tmp_path, monkeypatch, caplog):
    class Broken:
        id = "1"

        def __init__(self, *_):
            self.calls = 0

        def scalars(self, step, values):
            self.calls += 1
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr(trackers, "_Mlflow", Broken)
    with RunLog(str(tmp_path), last_step=0, track="mlflow") as log:
        log.start(START)
        log.row(row(1))
        log.row(row(2))
    (line,) = [record.getMessage() for record in caplog.records if "--track" in record.getMessage()]
    assert line == "--track=mlflow: no route to host; the run goes on untracked, metrics.jsonl has everything."
    assert [one["step"] for one in read_metrics(f"{tmp_path}/metrics.jsonl")] == [1, 2]


def test_a_tracker_that_cannot_begin_is_one_line(tmp_path, monkeypatch):
    def refuse(workdir, settings, known):
        raise ConnectionError(f"no\nroute; known: {known}")

    monkeypatch.setattr(trackers, "_Wandb", refuse)
    with pytest.raises(UserError, match=r"^--track=wandb: no route; known: None; check its settings$"):
        trackers.open_tracker("wandb", str(tmp_path), {}, resumed=False)
    (tmp_path / trackers.TRACKER_FILE).write_text('{"wandb": "abc"}')
    with pytest.raises(
        UserError, match=r"known: abc; check its settings, or delete .*tracker\.json to begin a new run"
    ):
        trackers.open_tracker("wandb", str(tmp_path), {}, resumed=True)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_tracker_is_refused_before_anything_starts(name, tmp_path, monkeypatch):
    """A folder of its name is no package: wandb leaves one where it runs."""
    folder = tmp_path / "elsewhere"
    (folder / name).mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(folder)])
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    with pytest.raises(
        UserError, match=rf"^--track={name}: .* is not installed; pip install -e '.\[{name}\]' in the package's folder$"
    ):
        trackers.refuse_without_tracker(name)
