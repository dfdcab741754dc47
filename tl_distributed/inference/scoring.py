"""Scores a saved model on a split of a data set."""

import logging
from typing import Any

import numpy as np

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import DatasetInfo, read_manifest
from tl_distributed.errors import UserError, printable
from tl_distributed.inference.class_order import in_order_of_data, why_other_classes, why_other_order
from tl_distributed.inference.pictures import fitted_squares
from tl_distributed.inference.saved import SavedModel, open_model
from tl_distributed.models.plugins import is_own
from tl_distributed.progress import Progress
from tl_distributed.reporting import label_scores
from tl_distributed.reporting.calibration import tempered
from tl_distributed.reporting.label_scores import multi_hot
from tl_distributed.reporting.scores import ExampleScores, calibrated_figures, score_examples, summarise
from tl_distributed.reporting.shown_scores import percentage

_LOG = logging.getLogger(__name__)
_SHARES = (("accuracy", "accuracy"), ("top-5", "top5_accuracy"), ("balanced", "balanced_accuracy"))


def score_model(model_path: str, data_dir: str, *, split: str, batch_size: int) -> dict[str, Any]:
    """Returns `scores.summarise` of a model on every example of a split; no array grows with examples times classes.

    On a data set whose pictures have any number of labels, it is `label_scores.summarise`, and one array does.

    Where the model stores a temperature that is not applied, `temperature`, `loss_calibrated`,
    `expected_calibration_error_calibrated` and `reliability_calibrated` say what it would make of the split.

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
    check_data_set(model, info, data_dir)
    _check_task(model, info, data_dir)
    if info.storage == "pixels" and model.fit not in (None, info.fit):
        _LOG.warning(
            "%s was trained on pictures of --fit=%s, and those of %s were stored by --fit=%s: its scores are of "
            "pictures cut in another way than it knows.", model.path, model.fit, data_dir, info.fit,
        )  # fmt: skip
    if model.class_names and (why := why_other_order(model.class_names, info.class_names)):
        _LOG.warning("%s has the classes of %s in another order (%s): matched by name.", model.path, data_dir, why)
    examples = load_splits(data_dir, info, (split,), input_mode="auto")[split]
    temperature = None if model.calibrated else model.temperature
    plain, calibrated, rows = [], [], []
    with Progress(total=examples.num_examples, unit="images", label=f"Scoring {split}") as progress:
        for batch in examples.eval_batches(batch_size):
            labels = batch.labels[: batch.num_valid]
            images = fitted_squares(batch.images, batch.sizes, size=model.image_shape[0], fit=model.fit or info.fit)
            answers = model.predict(images)[: batch.num_valid]
            probabilities = in_order_of_data(answers, model.class_names, info.class_names)
            if info.is_multi_label:
                rows.append((multi_hot(labels, info.num_classes), probabilities))
            else:
                plain.append(score_examples(labels, probabilities))
            if temperature is not None:
                calibrated.append(score_examples(labels, tempered(probabilities, temperature)))
            progress.update(batch.num_valid)
    if info.is_multi_label:
        truth, probabilities = (np.concatenate(part) for part in zip(*rows, strict=True))
        return label_scores.summarise(truth, probabilities, info.class_names)
    summary = summarise(ExampleScores.concatenate(plain), info.class_names)
    if temperature is not None:
        scores = ExampleScores.concatenate(calibrated)
        summary |= {**calibrated_figures(scores, temperature), "reliability_calibrated": scores.reliability}
    return summary


def check_data_set(model: SavedModel, info: DatasetInfo, data_dir: str) -> None:
    """Raises `UserError` where a data set's shapes or classes are not those of a model; their order may be another."""
    if info.storage == "pixels" and model.image_shape != info.image_shape:
        raise UserError(f"{model.path} takes images of {model.image_shape}, {data_dir} has {info.image_shape}")
    why = why_other_classes(model.class_names, info.class_names) if model.class_names else ""
    if why:
        raise UserError(f"{model.path} was trained on other classes than those of {data_dir}: {why}")
    if model.num_classes != info.num_classes:
        raise UserError(f"{model.path} tells {model.num_classes} classes apart, {data_dir} has {info.num_classes}")


def _check_task(model: SavedModel, info: DatasetInfo, data_dir: str) -> None:
    """Raises `UserError` where the model's outputs are not scored by the labels of the data set; says what is taken."""
    expected = "sigmoid" if info.is_multi_label else "softmax"
    if model.activation != expected:
        labels = "any number of labels" if info.is_multi_label else "one label each"
        raise UserError(
            f"{model.path}: was trained with --task={model.task} and returns what {model.activation} makes, and the "
            f"pictures of {data_dir} have {labels}; a run's results.json has the scores of its own task"
        )
    if is_own(model.task):
        _LOG.warning(
            "%s was trained with --task=%s, whose scores are in its run's results.json; these are of a %s.",
            model.path, model.task, "set of labels" if info.is_multi_label else "classification",
        )  # fmt: skip


def figures_line(summary: dict[str, Any]) -> str:
    """Returns the figures of `score_model` in one line, and a second one of the temperature where there is one."""
    if "mean_average_precision" in summary:
        return f"of {summary['num_examples']} images: " + ", ".join(
            f"{name.replace('_', ' ')} {summary[name]:.4f}" for name in label_scores.FIGURES
        )
    accuracy, *others = (f"{name} {percentage(summary[key], 2)}%" for name, key in _SHARES if key in summary)
    line = (
        f"{accuracy} of {summary['num_examples']} images, {', '.join(others)}, macro F1 {summary['macro_f1']:.4f}, "
        f"loss {summary['loss']:.4f}, expected calibration error {summary['expected_calibration_error']:.4f}"
    )
    if "temperature" not in summary:
        return line
    return (
        f"{line}\nat temperature {summary['temperature']:.4g} (export --calibrated): loss "
        f"{summary['loss_calibrated']:.4f}, expected calibration error "
        f"{summary['expected_calibration_error_calibrated']:.4f}"
    )


def class_table(summary: dict[str, Any]) -> str:
    """Returns a line a class: precision, recall, F1 (of any number of labels average precision too), and images."""
    columns = {"precision": "precision", "recall": "recall", "f1": "    F1"}
    if "mean_average_precision" in summary:
        columns = {"average_precision": "av. precision", **columns}
    rows = {printable(name): scores for name, scores in summary["per_class"].items()}
    width = max(len("class"), *map(len, rows))
    lines = ["  ".join([f"{'class':{width}}", *columns.values(), "images"])]
    for name, scores in rows.items():
        found = (f"{scores[key]:{len(title)}.4f}" for key, title in columns.items())
        lines.append("  ".join([f"{name:{width}}", *found, f"{scores['support']:6}"]))
    return "\n".join(lines)
