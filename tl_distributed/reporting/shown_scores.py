"""The scores of `results.json` beside accuracy and loss: how they are called, and how they are written."""

from collections.abc import Mapping
from typing import Any

_PERCENT, _PLAIN = "percent", "plain"
_MOST_DECIMALS = 6  # an image in a hundred million
SHOWN_SCORES = (
    ("test_top5_accuracy", "top-5 accuracy", _PERCENT),
    ("test_macro_f1", "macro F1", _PERCENT),
    ("test_balanced_accuracy", "balanced accuracy", _PERCENT),
    ("test_negative_log_likelihood", "negative log-likelihood (nats)", _PLAIN),
    ("test_expected_calibration_error", "calibration error (ECE)", _PERCENT),
    ("temperature", "temperature", _PLAIN),
    ("test_expected_calibration_error_calibrated", "ECE at this temperature", _PERCENT),
)


def scores_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scores that a run has, by their names in `results.json`; one of an earlier version has fewer."""
    given = {**results}
    given.setdefault("test_negative_log_likelihood", results.get("test_loss"))
    return {name: given[name] for name, *_ in SHOWN_SCORES if given.get(name) is not None}


def is_classification(results: Mapping[str, Any]) -> bool:
    """Whether a run's scores are those of one label a picture; of other tasks they are the task's own metrics."""
    return results.get("task", "classification") == "classification"


def main_metric(results: Mapping[str, Any]) -> str:
    """Returns the name of the metric that a run is spoken of by: accuracy, or what chose its epoch, if not the loss."""
    if is_classification(results):
        return "accuracy"
    chosen = str(results.get("chosen_by", "val_loss")).removeprefix("val_")
    known = [name for split in ("test", "val") for name in metrics_of(results, split)]
    return next((name for name in (chosen, *known) if name != "loss"), "loss")


def shown_metric(results: Mapping[str, Any], split: str) -> str:
    """Returns e.g. `accuracy 93.10%`, or `mean average precision 0.8123` of what may be no share."""
    name = main_metric(results)
    value = results.get(f"{split}_{name}")
    if value is None:
        return f"{name.replace('_', ' ')} unknown"
    return (
        f"{name.replace('_', ' ')} {percentage(value, 2)}%"
        if name == "accuracy"
        else f"{name.replace('_', ' ')} {value:.4f}"
    )


def metrics_of(results: Mapping[str, Any], split: str) -> dict[str, float]:
    """Returns the metrics of a split by name, as the run's task has them."""
    start = f"{split}_"
    return {
        name.removeprefix(start): value
        for name, value in results.items()
        if name.startswith(start) and isinstance(value, float)
    }


def percentage(share: float, decimals: int = 1) -> str:
    """Returns e.g. `93.1`; 100 is written of nothing less than all, and 0 of none: what is near has more digits."""
    text = f"{100 * share:.{decimals}f}"
    if 0 < share < 1 and float(text) in (0, 100) and decimals < _MOST_DECIMALS:
        return percentage(share, decimals + 1)
    return text


def written(name: str, value: float) -> str:
    """Returns e.g. `93.10 %`, or `1.243` of what is no share."""
    form = next(form for known, _, form in SHOWN_SCORES if known == name)
    return f"{percentage(value, 2)} %" if form == _PERCENT else f"{value:.3f}"
