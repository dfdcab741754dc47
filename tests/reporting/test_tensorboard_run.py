"""A short run in two phases, looked at with a real TensorBoard."""

import dataclasses
import io
import json
import pathlib
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from tensorboard_server import serve
from toy_dataset import write_toy_dataset

from tl_distributed.reporting import tensorboard as tags
from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate

TRAIN_SCALARS = {
    tags.LOSS, tags.ACCURACY, tags.LEARNING_RATE, tags.IMAGES_PER_SECOND, tags.STEP_SECONDS, tags.GRADIENT_NORM,
    tags.LOSS_SCALE,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in two phases from the weights of another: (folder of runs, its config, its results)."""
    folder = tmp_path_factory.mktemp("runs")
    data_dir = write_toy_dataset(folder / "data", counts={"train": 60, "val": 18, "test": 21})
    common = Config(
        backbone="tiny_norm", data_dir=data_dir, epochs=1, global_batch_size=20, strategy="one_device",
        learning_rate=0.002, finetune_learning_rate=0.001,
    )  # fmt: skip
    train_and_evaluate(dataclasses.replace(common, workdir=str(folder / "source")))
    config = dataclasses.replace(
        common, workdir=str(folder / "board" / "tuned"), weights=str(folder / "source"), transfer="two_phase",
        head_epochs=2, epochs=3, profile_steps=(2, 4), seed=1,
    )  # fmt: skip
    config.validate()
    return folder / "board", config, train_and_evaluate(config)


@pytest.fixture(scope="module")
def board(run):
    with serve(str(run[0]), expected_runs=3) as client:
        yield client


def test_curves(run, board):
    found = board.tags("scalars")
    assert found["tuned/train"] >= TRAIN_SCALARS
    assert found["tuned/validation"] >= {tags.LOSS, tags.ACCURACY}
    rows = [json.loads(line) for line in (run[0] / "tuned" / "metrics.jsonl").read_text().splitlines()]
    for split, prefix in (("train", ""), ("validation", "val_")):
        for tag in (tags.LOSS, tags.ACCURACY):
            expected = [(row["step"], pytest.approx(row[prefix + tag])) for row in rows if prefix + tag in row]
            assert board.scalar_points(f"tuned/{split}", tag) == expected
    assert [step for step, _ in board.scalar_points("tuned/validation", tags.LOSS)] == [3, 6, 9, 12, 15]
    assert {value for _, value in board.scalar_points("tuned/train", tags.LOSS_SCALE)} == {1.0}


def test_images_of_input_and_mistakes(run, board):
    assert run[2]["test_accuracy"] < 1, "no mistake to show: train for shorter"
    found = board.tags("images")["tuned/train"]
    assert found >= {tags.AUGMENTED_INPUT, tags.CONFUSION_MATRIX, tags.MISCLASSIFIED}
    for tag in (tags.AUGMENTED_INPUT, tags.CONFUSION_MATRIX, tags.MISCLASSIFIED):
        image = board.get("data/plugin/images/images", run="tuned/train", tag=tag, sample=0)[0]
        query = dict(urllib.parse.parse_qsl(image["query"]))
        content = board.get_bytes("data/plugin/images/individualImage", **query)
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert pixels.shape[0] > 50 and pixels.shape[1] > 50 and np.ptp(pixels) > 100
    previews = board.get("data/plugin/images/images", run="tuned/train", tag=tags.AUGMENTED_INPUT, sample=0)
    assert [image["step"] for image in previews] == [0, 6]  # at the start of each phase


def test_settings_as_text(run, board):
    assert tags.CONFIG in board.tags("text")["tuned/train"]
    text = board.get("data/plugin/text/text", run="tuned/train", tag=tags.CONFIG)[0]["text"]
    assert "two_phase" in text and "tensorflow" in text and "dataset_sha256" in text


def test_row_of_the_hparams_table(run, board):
    _, config, results = run
    (row,) = board.hparams_rows()
    assert row["hparams"]["learning_rate"] == config.learning_rate
    assert row["hparams"]["transfer"] == "two_phase"
    for name in ("val_accuracy", "test_accuracy", "test_loss"):
        assert row["metrics"][name] == pytest.approx(results[name])


def test_profile_covers_the_steps_asked_for(run):
    (session,) = (pathlib.Path(run[1].workdir) / "plugins" / "profile").iterdir()
    (trace,) = session.glob("*.xplane.pb")
    assert trace.stat().st_size > 1000
