"""Checkpoints: written beside training, whole or not at all; a damaged one is put aside loudly."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import engine
import numpy as np
import pytest
import tensorflow as tf
from paths import PYTHONPATH, SUPPORT
from tiny_runs import assert_identical, config
from toy_dataset import write_toy_dataset

from tl_distributed.errors import UserError
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.position import Position
from tl_distributed.training.run import train_and_evaluate

SETTINGS = {"checkpoint_every_steps": 2, "epochs": 1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts={"train": 60, "val": 18, "test": 21})


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train_and_evaluate(config(data_dir, workdir, **SETTINGS))
    return workdir


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "suffix"), [(truncate, "data-00000-of-00001"), (flip, "data-00000-of-00001"), (truncate, "index")]
)
def test_the_one_before_a_damaged_one_is_taken_loudly(data_dir, tmp_path, whole, caplog, damage, suffix):
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=6, **SETTINGS))
    folder = tmp_path / "run" / "checkpoints"
    assert {path.stem for path in folder.glob("*.index")} == {"step-4", "step-6"}
    damage(folder / f"step-6.{suffix}")
    with caplog.at_level("WARNING", logger="tl_distributed"):
        position = Checkpoints(str(tmp_path / "run"), keep=2, workers=Workers()).latest_position()
    assert position.step == 4
    assert "DAMAGED CHECKPOINT" in caplog.text and "step-6" in caplog.text
    assert {path.name for path in folder.glob("step-6*")} == {
        "step-6.index.damaged",
        "step-6.data-00000-of-00001.damaged",
    }
    train_and_evaluate(config(data_dir, tmp_path / "run", resume="must", **SETTINGS))
    assert_identical(whole, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps))


def test_none_left_is_an_error_and_damaged_best_weights_are_chosen_anew(data_dir, tmp_path, caplog):
    train_and_evaluate(config(data_dir, tmp_path / "run", **SETTINGS))
    folder = tmp_path / "run" / "checkpoints"
    checkpoints = Checkpoints(str(tmp_path / "run"), keep=2, workers=Workers())
    assert checkpoints.latest_position().best_score > 0
    (best,) = (folder / "best").glob("*.data*")
    flip(best)
    with caplog.at_level("WARNING", logger="tl_distributed"):
        position = checkpoints.latest_position()
    assert (position.best_score, position.best_step) == (None, 0)
    assert "best" in caplog.text and tf.train.latest_checkpoint(str(folder / "best")) is None
    for path in folder.glob("step-*.data*"):
        truncate(path)
    with pytest.raises(UserError, match="none of its 2 checkpoints can be read"):
        checkpoints.latest_position()


@pytest.mark.parametrize("content", [None, b"", b"\x80\xff", b'model_checkpoint_path: "step-'])
def test_a_list_that_is_gone_or_damaged_is_made_anew(tmp_path, whole, caplog, content):
    """TensorFlow takes it for no checkpoint at all: a run would begin anew, over those that are there."""
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    folders = (tmp_path / "checkpoints", tmp_path / "checkpoints" / "best")
    before = [tf.train.get_checkpoint_state(str(folder)).all_model_checkpoint_paths for folder in folders]
    for folder in folders:
        (folder / "checkpoint").unlink() if content is None else (folder / "checkpoint").write_bytes(content)
    with caplog.at_level("WARNING", logger="tl_distributed"):
        position = of(tmp_path).latest_position()
    assert position == of(whole).latest_position() and position.step == 8
    assert caplog.text.count("is gone or damaged: made anew") == 2
    after = [tf.train.get_checkpoint_state(str(folder)).all_model_checkpoint_paths for folder in folders]
    assert after == before and len(after[0]) == 2


def test_a_damaged_list_of_nothing_is_no_obstacle(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint").touch()
    assert of(tmp_path).latest_position() is None
    assert not (tmp_path / "checkpoints" / "checkpoint").exists()  # TensorFlow could not add to it


SECONDS = 60


def of(workdir: pathlib.Path) -> Checkpoints:
    return Checkpoints(str(workdir), keep=2, workers=Workers())


def content(path: pathlib.Path | str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture
def slow_writing(monkeypatch):
    """Holds every write until the event is set."""
    release, save = threading.Event(), tf.train.CheckpointManager.save

    def held(self, **arguments):
        assert release.wait(SECONDS)
        return save(self, **arguments)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", held)
    yield release
    release.set()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_checkpoint_is_what_tensorflow_itself_saves(tmp_path, replicas):
    """Names, types and values, so that stock TensorFlow and earlier versions of this package read it."""
    made = engine.make_engine(
        engine.runtime(replicas), optimizer=lambda: tf.keras.optimizers.Adam(), dropout=0.1,
        step_settings=engine.settings(ema_decay=0.9),
    )  # fmt: skip
    made.train(2)
    step, weights = made.step, [value.value for value in made.model.weights if "seed_generator" not in value.path]
    position = Position(step=2, best_score=0.5, best_loss=1.5, best_step=1)
    text = '{"step": 2, "phase": 0, "phase_first_step": 0, "best_score": 0.5, "best_loss": 1.5, '
    text += '"best_step": 1, "stale_epochs": 0, "phase_best_score": null, "validated_epochs": 0, '
    text += '"seconds": 0.0, "banks_counted": 0}'
    live = tf.train.Checkpoint(
        weights=weights, optimizer=[variable.value for variable in step.optimizer.variables],
        averages=list(step.averages.values()), loss_scale=step.loss_scale.scale,
        loss_scale_good_steps=step.loss_scale.good_steps, position=tf.Variable(text),
    )  # fmt: skip
    stock = tf.train.CheckpointManager(live, tmp_path / "stock", max_to_keep=2, checkpoint_name="step")
    expected = content(stock.save(checkpoint_number=2))
    with of(tmp_path) as checkpoints:
        checkpoints.save(made.model, step, position)
        checkpoints.save_best(made.model, step, 2)
        made.train(1)  # does not reach what was saved
    found = content(tmp_path / "checkpoints" / "step-2")
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    assert found.keys() == expected.keys() and len(found) > 20
    for name in found.keys() - {graph}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        assert np.asarray(found[name]).dtype == np.asarray(expected[name]).dtype
    best = content(tmp_path / "checkpoints" / "best" / "step-2")
    places = list(step.averages)
    averaged = [variable for variable in made.model.weights if "seed_generator" not in variable.path]
    assert len(places) == len(averaged)  # BatchNorm's statistics are averaged too
    for index, variable in enumerate(averaged):
        average = expected[f"averages/{places.index(id(variable))}/.ATTRIBUTES/VARIABLE_VALUE"]
        np.testing.assert_array_equal(best[f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE"], average)
    # And back: stock TensorFlow puts it into the variables, which have moved on.
    live.restore(str(tmp_path / "checkpoints" / "step-2")).assert_consumed()
    np.testing.assert_array_equal(weights[0].numpy(), expected["weights/0/.ATTRIBUTES/VARIABLE_VALUE"])


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, slow_writing):
    made = engine.make_engine(engine.runtime(), backbone="tiny")
    made.train(1)
    before = made.weights()
    checkpoints = of(tmp_path)
    checkpoints.save(made.model, made.step, Position(step=1))
    made.train(3)
    assert not (tmp_path / "checkpoints" / "checkpoint").exists() and checkpoints.written == 0
    slow_writing.set()
    checkpoints.wait()
    assert checkpoints.written == 1
    assert of(tmp_path).latest_position().step == 1
    assert not np.array_equal(made.weights()[0], before[0])
    checkpoints.latest_position()
    checkpoints.restore(made.model, made.step)
    for now, then in zip(made.weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_best_weights_are_there_before_they_are_restored(tmp_path, slow_writing):
    made = engine.make_engine(engine.runtime(), backbone="tiny")
    checkpoints = of(tmp_path)
    checkpoints.save_best(made.model, made.step, 7)
    best = made.weights()
    made.train(2)
    threading.Timer(0.2, slow_writing.set).start()
    checkpoints.restore_best(made.model, made.step, Position(step=9, best_score=0.5, best_step=7))
    for now, then in zip(made.weights(), best, strict=True):
        np.testing.assert_array_equal(now, then)
    assert checkpoints.blocking_seconds > 0.1


class WorkerOfThreads(Workers):
    """One of two workers, each a thread."""

    def __init__(self, index: int, barrier: threading.Barrier):
        self.index, self.count, self._barrier = index, 2, barrier

    def exchange(self, topic, value):
        self._barrier.wait(SECONDS)
        return [None, None]


def test_other_workers_wait_for_the_chief_to_write_the_best_weights(tmp_path, slow_writing):
    """Weights of the same step may be there already: of a start before, which other devices computed."""
    barrier = threading.Barrier(2)
    chief, other = (Checkpoints(str(tmp_path), keep=2, workers=WorkerOfThreads(index, barrier)) for index in (0, 1))
    made = engine.make_engine(engine.runtime(), backbone="tiny")
    slow_writing.set()
    chief.save_best(made.model, made.step, 7)
    chief.wait()
    slow_writing.clear()
    made.train(1)
    best, position = made.weights(), Position(step=9, best_score=0.5, best_step=7)
    chief.save_best(made.model, made.step, 7)
    made.train(1)
    threading.Timer(0.2, slow_writing.set).start()
    writing = threading.Thread(target=chief.restore_best, args=(made.model, made.step, position))
    writing.start()
    other.restore_best(made.model, made.step, position)
    found = made.weights()
    writing.join()
    for now, then in zip(found, best, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_signal_ends_the_run_when_its_checkpoint_is_complete(data_dir, tmp_path, monkeypatch):
    save = tf.train.CheckpointManager.save

    def signalled(self, **arguments):
        """The first write is under way when the signal comes."""
        if not (tmp_path / "run" / "checkpoints" / "checkpoint").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return save(self, **arguments)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", signalled)
    with pytest.raises(SystemExit) as ended:
        train_and_evaluate(config(data_dir, tmp_path / "run", steps_per_loop=1, **SETTINGS))
    assert ended.value.code == 128 + signal.SIGTERM
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert of(tmp_path / "run").latest_position().step == json.loads(rows[-1])["step"] >= 2


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_line(data_dir, tmp_path, whole, monkeypatch):
    save, calls = tf.train.CheckpointManager.save, []

    def full(self, **arguments):
        calls.append(arguments)
        if arguments["checkpoint_number"] == 4:
            raise tf.errors.ResourceExhaustedError(None, None, "step-4: No space left on device")
        return save(self, **arguments)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", full)
    with pytest.raises(UserError, match=r"checkpoints: the checkpoint of step 4 .* No space left on device.*make room"):
        train_and_evaluate(config(data_dir, tmp_path / "run", steps_per_loop=1, **SETTINGS))
    assert calls[-1]["checkpoint_number"] == 4  # nothing after it
    assert of(tmp_path / "run").latest_position().step == 2
    monkeypatch.undo()
    train_and_evaluate(config(data_dir, tmp_path / "run", resume="must", **SETTINGS))
    assert_identical(whole, tmp_path / "run")


@pytest.mark.parametrize("how", ["data", "list", "error"])
def test_a_write_that_is_cut_short_leaves_the_checkpoint_before(tmp_path, how):
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    ended = subprocess.run(
        [sys.executable, str(SUPPORT / "checkpoint_killed.py"), str(tmp_path), how],
        env=environment, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    expected = {"data": -signal.SIGXFSZ, "list": -signal.SIGKILL, "error": 1}[how]
    assert ended.returncode == expected, ended.stderr
    folder = tmp_path / "checkpoints"
    left = {path.name for path in folder.iterdir()}
    assert ("step-2_temp" in left) == (how == "data")
    assert ("step-2.index" in left) == (how == "list")
    if how == "error":
        assert "UserError" in ended.stderr and "the checkpoint of step 2 could not be written" in ended.stderr
    assert of(tmp_path).latest_position().step == 1
    assert not list(folder.glob("*_temp"))
    reader = tf.train.load_checkpoint(str(folder / "step-1"))
    assert all(
        np.all(np.isfinite(reader.get_tensor(f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE"))) for index in (0, 1)
    )


def test_a_workdir_may_be_moved(data_dir, tmp_path):
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=6, **SETTINGS))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert of(tmp_path / "moved").latest_position().step == 6
    listed = tf.train.get_checkpoint_state(str(tmp_path / "moved" / "checkpoints"))
    assert [pathlib.Path(path).name for path in listed.all_model_checkpoint_paths] == ["step-4", "step-6"]
    text = (tmp_path / "moved" / "checkpoints" / "checkpoint").read_text()
    assert str(tmp_path) not in text


def test_keeping_checkpoints_says_nothing(data_dir, tmp_path, caplog):
    """TensorFlow calls its own function for this deprecated, on every start."""
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=4, **SETTINGS))
    assert not [record for record in caplog.records if "Checkpoint" in record.getMessage()]


def test_best_weights_that_are_gone_are_chosen_anew(data_dir, tmp_path, caplog):
    caplog.set_level("WARNING")
    train_and_evaluate(config(data_dir, tmp_path / "run", **SETTINGS))
    for path in (tmp_path / "run" / "checkpoints" / "best").iterdir():
        path.unlink()
    position = of(tmp_path / "run").latest_position()
    assert (position.step, position.best_score, position.best_step) == (8, None, 0)
    assert "the best weights so far are gone; they are chosen anew" in caplog.text
