"""Images worth a look: what the backbone is given in training, and what the model got wrong."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np

from tl_distributed.data.fit_rules import Fit
from tl_distributed.data.splits import Split
from tl_distributed.errors import printable
from tl_distributed.inference.pictures import fitted_squares
from tl_distributed.reporting.pictures import pictures_at
from tl_distributed.training.evaluation import Evaluation
from tl_distributed.training.step import TrainStep
from tl_distributed.training.tasks import Classification

_PREVIEW_IMAGES = 16
_MISCLASSIFIED_IMAGES = 25
_CAPTION_LETTERS = 24  # of a file's name: what fits below a picture


@dataclasses.dataclass(frozen=True)
class Misclassified:
    """Wrong answers: `[height, width, 3] uint8` pictures by their places in the split, and a caption each."""

    pictures: dict[int, np.ndarray]
    captions: list[str]


def preview(step: TrainStep, split: Split, class_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Returns the first images of the split as the step augments them, uint8, and a caption each."""
    batch = next(iter(split.eval_batches(_PREVIEW_IMAGES)))
    pixels, targets = step.augmented(batch.valid())
    captions = [
        ", ".join(f"{class_names[index]} {row[index]:.0%}" for index in np.argsort(-row)[:2] if row[index] > 0.005)
        for row in targets
    ]
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8), captions


def misclassified(
    split: Split | None, evaluation: Evaluation | None, class_names: Sequence[str], ids: Sequence[str] | None = None,
    *, image_size: int, fit: Fit | None,
) -> Misclassified:  # fmt: skip
    """Returns the wrong answers that the model was surest of, the surest first.

    Pictures that lie on canvases are shown as the model saw them, at `image_size` and by the rule `fit`. Of a task
    whose answers are not one class each there are none.
    """
    if split is None or evaluation is None or not isinstance(evaluation.task, Classification):
        return Misclassified({}, [])
    labels, predictions = evaluation.scores.labels, evaluation.scores.predictions
    sureness = evaluation.scores.confidences * (predictions != labels)
    chosen = [index for index in np.argsort(-sureness, kind="stable")[:_MISCLASSIFIED_IMAGES] if sureness[index] > 0]
    pictures = pictures_at(split, chosen, partial(fitted_squares, size=image_size, fit=fit))
    captions = [
        f"{class_names[labels[index]]}, taken for\n{class_names[predictions[index]]} {sureness[index]:.0%}"
        + (f"\n{_end_of(printable(ids[index]))}" if ids else "")
        for index in chosen
    ]
    return Misclassified({int(index): pictures[index] for index in chosen}, captions)


def _end_of(name: str) -> str:
    """Returns the last part of a path, and of a long one its end, where file names differ."""
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= _CAPTION_LETTERS else f"...{name[-_CAPTION_LETTERS:]}"
