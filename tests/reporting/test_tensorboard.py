"""TensorBoard events: read back by the real server through its HTTP data API."""

import io
import time
import urllib.parse

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard_server import serve

from tl_distributed.reporting import tensorboard as log
from tl_distributed.reporting.board_tags import chart_layout, scalars_of


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A server on one finished run, `first`, with everything that a run writes."""
    folder = tmp_path_factory.mktemp("runs")
    board = log.TensorBoardLog(f"{folder}/first", enabled=True, resume_step=0)
    for step in (10, 20):
        board.scalars(step, {"quality/training_loss": 1 / step, "optimizer/learning_rate": np.float32(0.5)})
    board.scalars(20, {"quality/validation_loss": 0.25})
    board.layout(chart_layout(), 0)
    board.text(log.CONFIG, "| backbone | vgg16 |\n|---|---|", 0)
    board.images(log.AUGMENTED_INPUT, _images(12), 0)
    board.images(log.MISCLASSIFIED, _images(3), 20, ["cat, not dog", "b", "c"])
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    board.figure(log.CONFUSION_MATRIX, figure, 20)
    settings = {"backbone": "vgg16", "learning_rate": 0.001, "epochs": 3, "augment": None, "sizes": (1, 2), "xla": True}
    board.hparams(settings, {"best/test_accuracy": 0.75, "best/validation_accuracy": None}, 20)
    board.close()
    with serve(str(folder), expected_runs=1) as client:
        yield client


def test_a_run_is_one_entry_with_tags_in_groups(board):
    assert board.get("data/runs") == ["first"]
    assert board.tags("scalars")["first"] == {
        "quality/training_loss", "quality/validation_loss", "optimizer/learning_rate", "best/test_accuracy",
    }  # fmt: skip
    points = board.scalar_points("first", "quality/training_loss")
    assert points == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert board.scalar_points("first", "quality/validation_loss") == [(20, 0.25)]


def test_custom_scalars_open_on_training_and_validation_in_one_chart(board):
    first, *others = board.get("data/plugin/custom_scalars/layout")["category"]
    assert not first.get("closed") and all(other["closed"] for other in others)
    loss, accuracy = first["chart"]
    assert [loss["title"], accuracy["title"]] == ["loss", "accuracy"]
    shown = set()
    for tag in loss["multiline"]["tag"]:
        answer = board.get("data/plugin/custom_scalars/scalars", run="first", tag=tag)
        assert answer["regex_valid"]
        shown |= set(answer["tag_to_events"])
    assert shown == {"quality/training_loss", "quality/validation_loss"}


def _served_image(board, tag: str, sample: int) -> tuple[int, np.ndarray]:
    """Returns the (step, pixels) of one image."""
    image = board.get("data/plugin/images/images", run="first", tag=tag, sample=sample)[0]
    content = board.get_bytes("data/plugin/images/individualImage", **dict(urllib.parse.parse_qsl(image["query"])))
    return image["step"], np.array(Image.open(io.BytesIO(content)))


def test_images_come_back_pixel_for_pixel(board):
    assert board.tags("images")["first"] == {log.AUGMENTED_INPUT, log.MISCLASSIFIED, log.CONFUSION_MATRIX}
    # All twelve, not only the three that tf.summary keeps unless told otherwise.
    served = [_served_image(board, log.AUGMENTED_INPUT, sample)[1] for sample in range(12)]
    np.testing.assert_array_equal(served, _images(12))


def test_captioned_images_are_one_grid(board):
    step, pixels = _served_image(board, log.MISCLASSIFIED, 0)
    assert step == 20
    assert pixels.shape[1] > 2 * pixels.shape[0] > 2 * 8  # three images side by side, enlarged


def test_config_text(board):
    assert log.CONFIG in board.tags("text")["first"]
    text = board.get("data/plugin/text/text", run="first", tag=log.CONFIG)[0]["text"]
    assert "<table>" in text and "vgg16" in text


def test_hparams_row(board):
    (row,) = board.hparams_rows()
    assert row["hparams"] == {
        "backbone": "vgg16", "learning_rate": 0.001, "epochs": 3.0, "augment": "None", "sizes": "1,2", "xla": True
    }  # fmt: skip
    assert row["metrics"]["best/test_accuracy"] == 0.75
    assert "best/validation_accuracy" not in row["metrics"]


@pytest.mark.parametrize("fast_loading", [True, False])
def test_resumed_run_shows_each_step_once(tmp_path, fast_loading):
    killed = log.TensorBoardLog(str(tmp_path), enabled=True, resume_step=0)
    for step in (1, 2, 3, 4):
        killed.scalars(step, {"loss": 10.0 + step})
    killed.flush()  # and no close: killed after a checkpoint at step 2
    time.sleep(1.1)  # files are told apart by the second
    resumed = log.TensorBoardLog(str(tmp_path), enabled=True, resume_step=2)
    resumed.scalars(3, {"loss": 20.0 + 3})
    resumed.close()
    with serve(str(tmp_path), fast_loading=fast_loading) as client:
        assert client.scalar_points(".", "loss") == [(1, 11.0), (2, 12.0), (3, 23.0)]


def test_disabled_log_writes_nothing(tmp_path):
    board = log.TensorBoardLog(str(tmp_path / "run"), enabled=False, resume_step=0)
    board.scalars(1, {"loss": 1.0})
    board.layout(chart_layout(), 0)
    board.text(log.CONFIG, "text", 0)
    board.images(log.AUGMENTED_INPUT, _images(1), 0)
    board.figure(log.CONFUSION_MATRIX, Figure(), 0)
    board.hparams({"a": 1}, {"b": 1.0}, 0)
    board.flush()
    board.close()
    assert list(tmp_path.iterdir()) == []


def test_empty_image_batch_writes_nothing(tmp_path):
    log.TensorBoardLog(str(tmp_path), enabled=True, resume_step=0).images(log.MISCLASSIFIED, _images(0), 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("replicas", "precision", "wait", "expected"),
    [
        (1, "float32", None, set()),
        (1, "float32", 0.1, {"speed/input_wait_seconds", "speed/compute_seconds"}),
        (2, "mixed_bfloat16", None, {"speed/all_reduce_seconds", "speed/compute_seconds"}),
        (1, "mixed_float16", None, {"optimizer/loss_scale", "optimizer/skipped_updates"}),
    ],
)
def test_what_cannot_vary_is_not_written(replicas, precision, wait, expected):
    row = {
        "step": 3, "epoch": 0.5, "phase": "main", "seconds": 2.0, "loss": 1.0, "learning_rate": 0.1,
        "step_seconds": 0.2, "input_wait_seconds": wait, "all_reduce_seconds": 0.0, "compute_seconds": 0.2,
        "checkpoint_write_seconds": None, "loss_scale": 1.0, "skipped_updates": 0,
    }  # fmt: skip
    found = scalars_of(row, replicas=replicas, precision=precision)
    assert set(found) == {"quality/training_loss", "optimizer/learning_rate", "speed/step_seconds"} | expected
    assert found["quality/training_loss"] == 1.0


def test_scores_of_validation_have_their_own_tags():
    row = {"step": 3, "epoch": 0.5, "val_loss": 1.0, "val_macro_f1": 0.5}
    assert scalars_of(row, replicas=1, precision="float32") == {
        "quality/validation_loss": 1.0, "quality/validation_macro_f1": 0.5,
    }  # fmt: skip
