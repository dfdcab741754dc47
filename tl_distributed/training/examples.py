"""Images worth a look: what the backbone is given in training, and what the model got wrong."""

from collections.abc import Sequence

import numpy as np

from tl_distributed.data.splits import Split
from tl_distributed.errors import printable
from tl_distributed.training.evaluation import Evaluation
from tl_distributed.training.step import TrainStep

_PREVIEW_IMAGES = 16
_MISCLASSIFIED_IMAGES = 25
_READ_BATCH = 256
_CAPTION_LETTERS = 24  # of a file's name: what fits below a picture


def preview(step: TrainStep, split: Split, class_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Returns the first images of the split as the step augments them, uint8, and a caption each."""
    batch = next(iter(split.eval_batches(_PREVIEW_IMAGES)))
    pixels, targets = step.augmented(batch.images[: batch.num_valid], batch.labels[: batch.num_valid])
    captions = [
        ", ".join(f"{class_names[index]} {row[index]:.0%}" for index in np.argsort(-row)[:2] if row[index] > 0.005)
        for row in targets
    ]
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8), captions


def misclassified(
    split: Split | None, evaluation: Evaluation | None, class_names: Sequence[str], ids: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Returns the wrong answers that the model was surest of: uint8 images, and a caption each with the file's name."""
    if split is None or evaluation is None:
        return np.zeros((0, 1, 1, 3), np.uint8), []
    labels, predictions = evaluation.scores.labels, evaluation.scores.predictions
    sureness = evaluation.confidences * (predictions != labels)
    chosen = [index for index in np.argsort(-sureness, kind="stable")[:_MISCLASSIFIED_IMAGES] if sureness[index] > 0]
    images: dict[int, np.ndarray] = {}
    for number, batch in enumerate(split.eval_batches(_READ_BATCH)):
        for index in chosen:
            if 0 <= (row := index - number * _READ_BATCH) < batch.num_valid:
                images[index] = batch.images[row]
    captions = [
        f"{class_names[labels[index]]}, taken for\n{class_names[predictions[index]]} {sureness[index]:.0%}"
        + (f"\n{_end_of(printable(ids[index]))}" if ids else "")
        for index in chosen
    ]
    shape = (0, 1, 1, 3)
    return np.stack([images[index] for index in chosen]) if chosen else np.zeros(shape, np.uint8), captions


def _end_of(name: str) -> str:
    """Returns the last part of a path, and of a long one its end, where file names differ."""
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= _CAPTION_LETTERS else f"...{name[-_CAPTION_LETTERS:]}"
