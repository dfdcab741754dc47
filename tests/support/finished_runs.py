"""Writes what a finished run leaves, with known numbers, in place of training: for the tests of the study."""

import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from tl_distributed.data.records import read_manifest
from tl_distributed.reporting.calibration import tempered
from tl_distributed.reporting.scores import calibrated_figures, classification_summary, score_examples
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments

ALWAYS_WRONG = 1e-3  # what a wrong class gets
TEMPERATURE = 2.0


def write_run(config: Config, accuracy: float, *, epochs: int = 4, epoch_seconds: float = 2.0) -> None:
    """Writes a run that gets the given share of the test images right; which ones follows from its seed."""
    info = read_manifest(config.data_dir)
    count, classes = info.splits["test"].num_examples, info.num_classes
    labels = np.arange(count, dtype=np.int32) % classes
    wrong = np.random.default_rng(config.seed).permutation(count)[: round((1 - accuracy) * count)]
    answers = labels.copy()
    answers[wrong] = (labels[wrong] + 1) % classes
    probabilities = np.full((count, classes), ALWAYS_WRONG, np.float32)
    probabilities[np.arange(count), answers] = 1 - ALWAYS_WRONG * (classes - 1)
    summary = classification_summary(labels=labels, probabilities=probabilities, class_names=info.class_names)
    folder = pathlib.Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "predictions_test.npz", labels=labels, probabilities=probabilities)
    rows = []
    for epoch in range(1, epochs + 1):
        share, seconds = epoch / epochs, epoch * epoch_seconds
        row = {"step": 10 * epoch, "epoch": float(epoch), "phase": "main", "seconds": seconds}
        rows.append({**row, "loss": 1 - share / 2, "accuracy": min(1.0, accuracy * share + 0.1)})
        rows.append({**row, "val_loss": 1.1 - share / 2, "val_accuracy": accuracy * share})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.json").write_text(json.dumps({"devices": ["/device:CPU:0"]}))
    at_temperature = score_examples(labels, tempered(probabilities, TEMPERATURE))
    calibrated = calibrated_figures(at_temperature, TEMPERATURE)
    figures = ("top5_accuracy", "macro_f1", "balanced_accuracy", "expected_calibration_error")
    results = {
        **{f"test_{name}": summary[name] for name in figures if name in summary},
        **{name if name == "temperature" else f"test_{name}": value for name, value in calibrated.items()},
        "reliability": summary["reliability"], "reliability_calibrated": at_temperature.reliability,
        "per_class": summary["per_class"], "most_confused": summary["most_confused"], "best_step": 10 * epochs,
        "test_accuracy": summary["accuracy"], "test_loss": summary["loss"], "val_accuracy": accuracy, "val_loss": 0.6,
        "steps": 10 * epochs, "epochs": float(epochs), "finished": True, "seconds": epochs * epoch_seconds,
        "images_seen": 10 * epochs * config.global_batch_size, "parameters": 1000, "trainable_parameters": 100,
        "forward_flops_per_image": 2_000_000, "num_examples": {"val": info.splits["val"].num_examples, "test": count},
        "confusion_matrix": summary["confusion_matrix"], "class_names": list(info.class_names),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))


def trainer(accuracy_of: Callable[[Config], float | str], calls: list[Config]) -> Callable[..., int]:
    """Returns a stand-in for `runner.train_in_process`.

    Args:
      accuracy_of: The run's test accuracy, or the line with which it fails.
      calls: Gets the config of every run that was asked for.
    """

    def train(arguments: Sequence[str], log: pathlib.Path, while_waiting: Callable[[], None]) -> int:
        config, _ = parse_arguments(Config, arguments)
        calls.append(config)
        while_waiting()
        outcome = accuracy_of(config)
        if isinstance(outcome, str):
            log.write_text(f"12:00:00 a line before\nerror: {outcome}\n")
            return 2
        log.write_text("12:00:00 trained\n")
        write_run(config, outcome, epoch_seconds=2.0 if config.backbone == "baseline_cnn" else 5.0)
        return 0

    return train
