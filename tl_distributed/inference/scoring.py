"""Scores a saved model on a split of a data set."""

from typing import Any

import numpy as np

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError, printable
from tl_distributed.inference.saved import open_model
from tl_distributed.progress import Progress
from tl_distributed.reporting.scores import classification_summary


def score_model(model_path: str, data_dir: str, *, split: str, batch_size: int) -> dict[str, Any]:
    """Returns `classification_summary` of a model on every example of a split.

    Args:
      model_path: What `open_model` takes.
      data_dir: Finished data set.
      split: train, val or test.
      batch_size: Images at once.

    Raises:
      UserError: A model or data set that cannot be read, a missing split, or shapes or classes that differ.
    """
    info, model = read_manifest(data_dir), open_model(model_path)
    if split not in info.splits:
        raise UserError(f"--split={split}: {data_dir} has {', '.join(info.splits)}")
    if model.image_shape != info.image_shape:
        raise UserError(f"{model.path} takes images of {model.image_shape}, {data_dir} has {info.image_shape}")
    if model.class_names and model.class_names != info.class_names:
        raise UserError(f"{model.path} was trained on other classes than those of {data_dir}")
    if model.num_classes != info.num_classes:
        raise UserError(f"{model.path} tells {model.num_classes} classes apart, {data_dir} has {info.num_classes}")
    examples = load_splits(data_dir, info, (split,), input_mode="stream", shuffle_buffer_examples=1)[split]
    labels, probabilities = [], []
    with Progress(total=examples.num_examples, unit="images", label=f"Scoring {split}") as progress:
        for batch in examples.eval_batches(batch_size):
            labels.append(batch.labels[: batch.num_valid])
            probabilities.append(model.predict(batch.images)[: batch.num_valid])
            progress.update(batch.num_valid)
    return classification_summary(
        labels=np.concatenate(labels), probabilities=np.concatenate(probabilities), class_names=info.class_names
    )


def class_table(summary: dict[str, Any]) -> str:
    """Returns a line a class: precision, recall, F1 and number of images."""
    rows = {printable(name): scores for name, scores in summary["per_class"].items()}
    width = max(len("class"), *map(len, rows))
    lines = [f"{'class':{width}}  precision  recall      F1  images"]
    for name, scores in rows.items():
        lines.append(
            f"{name:{width}}  {scores['precision']:9.4f}  {scores['recall']:6.4f}  {scores['f1']:6.4f}  "
            f"{scores['support']:6}"
        )
    return "\n".join(lines)
