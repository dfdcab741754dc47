"""Scores a saved model on a split of a data set."""

from typing import Any

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError, printable
from tl_distributed.inference.pictures import fitted_squares
from tl_distributed.inference.saved import open_model
from tl_distributed.progress import Progress
from tl_distributed.reporting.calibration import tempered
from tl_distributed.reporting.scores import ExampleScores, calibrated_figures, score_examples, summarise


def score_model(model_path: str, data_dir: str, *, split: str, batch_size: int) -> dict[str, Any]:
    """Returns `scores.summarise` of a model on every example of a split; no array grows with examples times classes.

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
    if info.storage == "pixels" and model.image_shape != info.image_shape:
        raise UserError(f"{model.path} takes images of {model.image_shape}, {data_dir} has {info.image_shape}")
    if model.class_names and model.class_names != info.class_names:
        raise UserError(f"{model.path} was trained on other classes than those of {data_dir}")
    if model.num_classes != info.num_classes:
        raise UserError(f"{model.path} tells {model.num_classes} classes apart, {data_dir} has {info.num_classes}")
    examples = load_splits(data_dir, info, (split,), input_mode="auto")[split]
    temperature = None if model.calibrated else model.temperature
    plain, calibrated = [], []
    with Progress(total=examples.num_examples, unit="images", label=f"Scoring {split}") as progress:
        for batch in examples.eval_batches(batch_size):
            labels = batch.labels[: batch.num_valid]
            images = fitted_squares(batch.images, batch.sizes, size=model.image_shape[0], fit=model.fit or info.fit)
            probabilities = model.predict(images)[: batch.num_valid]
            plain.append(score_examples(labels, probabilities))
            if temperature is not None:
                calibrated.append(score_examples(labels, tempered(probabilities, temperature)))
            progress.update(batch.num_valid)
    summary = summarise(ExampleScores.concatenate(plain), info.class_names)
    if temperature is not None:
        scores = ExampleScores.concatenate(calibrated)
        summary |= {**calibrated_figures(scores, temperature), "reliability_calibrated": scores.reliability}
    return summary


def figures_line(summary: dict[str, Any]) -> str:
    """Returns the figures of `score_model` in one line, and a second one of the temperature where there is one."""
    top = f"top-5 {summary['top5_accuracy']:.2%}, " if "top5_accuracy" in summary else ""
    line = (
        f"accuracy {summary['accuracy']:.2%} of {summary['num_examples']} images, {top}"
        f"balanced {summary['balanced_accuracy']:.2%}, macro F1 {summary['macro_f1']:.4f}, loss {summary['loss']:.4f}, "
        f"expected calibration error {summary['expected_calibration_error']:.4f}"
    )
    if "temperature" not in summary:
        return line
    return (
        f"{line}\nat temperature {summary['temperature']:.4g} (export --calibrated): loss "
        f"{summary['loss_calibrated']:.4f}, expected calibration error "
        f"{summary['expected_calibration_error_calibrated']:.4f}"
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
