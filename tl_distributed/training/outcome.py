"""What a run leaves: `results.json`, `model.keras` and the predictions of the test split."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tl_distributed.data.records import DatasetInfo
from tl_distributed.files import write_file
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.inference.packaging import package_model
from tl_distributed.inference.saved import save_model
from tl_distributed.models.flops import count_macs
from tl_distributed.models.freezing import parameter_counts
from tl_distributed.reporting.calibration import fit_temperature
from tl_distributed.reporting.scores import calibrated_figures
from tl_distributed.settings.config import Config
from tl_distributed.training.evaluation import Evaluation
from tl_distributed.training.position import Position
from tl_distributed.training.tasks import Task

_OLDER_NAME = "top_5_accuracy"  # of a summary; results.json has it by the newer name alone


def temperature_of(evaluation: Evaluation | None) -> float | None:
    """Returns the temperature that fits the validation split, evaluated at `calibration.TEMPERATURES`.

    `None` without such a split, or where its logits are not finite.
    """
    if evaluation is None or not math.isfinite(float(evaluation.slopes.sum(dtype="float64"))):
        return None
    return fit_temperature(evaluation.slopes)


def make_results(
    position: Position,
    evaluations: Mapping[str, Evaluation],
    info: DatasetInfo,
    *,
    images_per_second: float | None,
    images_per_epoch: int,
    finished: bool,
    model: keras.Model,
    config: Config,
    temperature: float | None,
    task: Task,
) -> dict[str, Any]:
    """Returns the content of `results.json`.

    Args:
      position: Where the run ended.
      evaluations: Of the best weights, by split; `val` and `test` where the data set has them.
      info: The data set's manifest.
      images_per_second: Training speed over all replicas without compilation and evaluation; `None` where
        too few steps were run to tell.
      images_per_epoch: Examples of the training split.
      finished: False where `--max_steps` ended the run before its last phase did.
      model: As it trained in the last phase.
      config: Resolved.
      temperature: That fits the validation split, at which `test` was evaluated too; `None` without such a split.
      task: By which they were scored.
    """
    summaries = {name: task.summary(evaluation.scored, info.class_names) for name, evaluation in evaluations.items()}
    trainable, frozen = parameter_counts(model)
    shown = summaries.get("test") or summaries.get("val") or {}
    results = {
        "task": config.task,
        "chosen_by": config.select_by,
        "steps": position.step,
        "epochs": position.step * config.global_batch_size / images_per_epoch,
        "finished": finished,
        "best_step": position.step if position.best_score is None else position.best_step,
        "images_per_second": images_per_second,
        "seconds": position.seconds,
        "images_seen": position.step * config.global_batch_size,
        "parameters": trainable + frozen,
        "trainable_parameters": trainable,
        "forward_flops_per_image": 2 * count_macs(model),
        "per_class": shown.get("per_class", {}),
        "confusion_matrix": shown.get("confusion_matrix", []),
        "most_confused": shown.get("most_confused", []),
        "reliability": shown.get("reliability", []),
        "class_names": list(info.class_names),
        "fit": config.fit,
        "workdir": config.workdir,
        "num_examples": {name: evaluation.num_examples for name, evaluation in evaluations.items()},
    }
    names = [name for name, value in shown.items() if isinstance(value, float) and name != _OLDER_NAME]
    names = list(dict.fromkeys([*task.metric_names, *names]))
    figures = {
        f"{name}_{figure}": summaries[name][figure] if name in summaries else None
        for name in ("val", "test")
        for figure in names
        if name not in summaries or figure in summaries[name]
    }
    return {**figures, **_calibration(evaluations.get("test"), temperature), **results}


def _calibration(test: Evaluation | None, temperature: float | None) -> dict[str, Any]:
    """Returns the temperature, and what it makes of the test split; `None` where there is neither."""
    names = ("test_loss_calibrated", "test_expected_calibration_error_calibrated", "reliability_calibrated")
    if test is None or temperature is None:
        return {"temperature": temperature, **dict.fromkeys(names)}
    (scores,) = test.tempered
    figures = calibrated_figures(scores, temperature)
    values = (figures["loss_calibrated"], figures["expected_calibration_error_calibrated"], scores.reliability)
    return {"temperature": temperature, **dict(zip(names, values, strict=True))}


def save_packaged_model(
    model: keras.Model, config: Config, *, normalization: str, info: DatasetInfo, temperature: float | None, task: Task
) -> None:
    """Writes `model.keras` (and the file that `--export_h5` names), each with class names, fitting rule, temperature.

    The model takes uint8 images and returns probabilities (of a task of one's own, what its activation makes), by stock
    layers only. The images are of the data set's shape
    where it stores pixels; else squares as evaluation sees them. The temperature is stored with it and not applied:
    `export --calibrated` does that.
    """
    is_whole = info.storage != "pixels"
    shape = (config.image_size, config.image_size, 3) if is_whole else info.image_shape
    packaged = package_model(
        model, normalization=normalization, native_shape=shape, image_size=config.image_size,
        activation=task.activation,
    )  # fmt: skip
    stored = ModelInfo(
        info.class_names, config.fit, shape, info.storage, info.image_size if is_whole else 0,
        temperature=temperature, task=config.task, activation=task.activation,
    )  # fmt: skip
    save_model(packaged, f"{config.workdir}/model.keras", "keras", stored)
    if config.export_h5:
        save_model(packaged, f"{config.workdir}/{config.export_h5}", "h5", stored)


def save_predictions(path: str, evaluation: Evaluation, ids: Sequence[str] | None) -> None:
    """Writes a .npz file, whose rows are the examples in the split's order.

    It holds `labels [n] int32` (of pictures with any number of labels `[n, most_labels]`, -1 where one has fewer),
    `probabilities [n, num_classes] float32`, and, where the data set has them, `ids [n]`
    of text: the names of the images in their source.
    """
    buffer = io.BytesIO()
    arrays = {"labels": evaluation.scored.labels, "probabilities": evaluation.probabilities}
    if ids is not None:
        arrays["ids"] = np.array(ids, np.str_)
    np.savez_compressed(buffer, **arrays)
    write_file(path, buffer.getvalue())
