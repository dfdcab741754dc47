"""Damaged checkpoints: put aside loudly, and the one before is gone on from."""

import json
import pathlib

import pytest
import tensorflow as tf
from test_run import assert_identical, config
from toy_dataset import write_toy_dataset

from tl_distributed.commandline import UserError
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.workers import Workers

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
    assert checkpoints.latest_position().best_val_accuracy > 0
    (best,) = (folder / "best").glob("*.data*")
    flip(best)
    with caplog.at_level("WARNING", logger="tl_distributed"):
        position = checkpoints.latest_position()
    assert (position.best_val_accuracy, position.best_step) == (-1.0, 0)
    assert "best" in caplog.text and tf.train.latest_checkpoint(str(folder / "best")) is None
    for path in folder.glob("step-*.data*"):
        truncate(path)
    with pytest.raises(UserError, match="none of its 2 checkpoints can be read"):
        checkpoints.latest_position()
