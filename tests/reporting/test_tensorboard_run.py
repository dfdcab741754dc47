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

SCALARS = {
    "quality/training_loss", "quality/training_accuracy", "quality/validation_loss", "quality/validation_accuracy",
    "optimizer/learning_rate", "optimizer/gradient_norm", "speed/images_per_second", "speed/step_seconds",
    "checkpoints/blocking_seconds", "best/test_accuracy", "best/validation_accuracy",
}  # fmt: skip
NEVER_VARYING = {"optimizer/loss_scale", "speed/all_reduce_seconds", "speed/images_per_second_per_replica"}


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
        head_epochs=2, epochs=3, profile_steps=(2, 4), seed=1, batch_norm="train", finetune_warmup_fraction=0.0,
    )  # fmt: skip
    config.validate()
    return folder / "board", config, train_and_evaluate(config)


@pytest.fixture(scope="module")
def board(run):
    with serve(str(run[0]), expected_runs=1) as client:
        yield client


def test_curves(run, board):
    assert board.get("data/runs") == ["tuned"]
    found = board.tags("scalars")["tuned"]
    assert found >= SCALARS and not found & NEVER_VARYING
    rows = [json.loads(line) for line in (run[0] / "tuned" / "metrics.jsonl").read_text().splitlines()]
    for split, prefix in (("training", ""), ("validation", "val_")):
        for score in ("loss", "accuracy"):
            expected = [(row["step"], pytest.approx(row[prefix + score])) for row in rows if prefix + score in row]
            assert board.scalar_points("tuned", f"quality/{split}_{score}") == expected
    assert [step for step, _ in board.scalar_points("tuned", "quality/validation_loss")] == [3, 6, 9, 12, 15]


def test_images_of_input_and_mistakes(run, board):
    assert run[2]["test_accuracy"] < 1, "no mistake to show: train for shorter"
    found = board.tags("images")["tuned"]
    assert found >= {tags.AUGMENTED_INPUT, tags.CONFUSION_MATRIX, tags.MISCLASSIFIED}
    for tag in (tags.AUGMENTED_INPUT, tags.CONFUSION_MATRIX, tags.MISCLASSIFIED):
        image = board.get("data/plugin/images/images", run="tuned", tag=tag, sample=0)[0]
        query = dict(urllib.parse.parse_qsl(image["query"]))
        content = board.get_bytes("data/plugin/images/individualImage", **query)
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert pixels.shape[0] > 50 and pixels.shape[1] > 50 and np.ptp(pixels) > 100
    previews = board.get("data/plugin/images/images", run="tuned", tag=tags.AUGMENTED_INPUT, sample=0)
    assert [image["step"] for image in previews] == [0, 6]  # at the start of each phase


def test_settings_as_text(run, board):
    assert tags.CONFIG in board.tags("text")["tuned"]
    text = board.get("data/plugin/text/text", run="tuned", tag=tags.CONFIG)[0]["text"]
    assert "two_phase" in text and "tensorflow" in text and "dataset_sha256" in text


def test_row_of_the_hparams_table(run, board):
    _, config, results = run
    (row,) = board.hparams_rows()
    assert row["hparams"]["learning_rate"] == config.learning_rate
    assert row["hparams"]["transfer"] == "two_phase"
    assert not {"workdir", "checkpoint_every_steps", "resume"} & row["hparams"].keys()
    names = {"val_accuracy": "validation_accuracy", "test_accuracy": "test_accuracy", "test_loss": "test_loss"}
    for name, tag in names.items():
        assert row["metrics"][f"best/{tag}"] == pytest.approx(results[name])


def test_profile_covers_the_steps_asked_for(run):
    (session,) = (pathlib.Path(run[1].workdir) / "plugins" / "profile").iterdir()
    (trace,) = session.glob("*.xplane.pb")
    assert trace.stat().st_size > 1000
