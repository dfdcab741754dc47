"""The scores of `results.json` beside accuracy and loss: how they are called, and how they are written."""

from collections.abc import Mapping
from typing import Any

_PERCENT, _PLAIN = "percent", "plain"
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


def written(name: str, value: float) -> str:
    """Returns e.g. `93.10 %`, or `1.243` of what is no share."""
    form = next(form for known, _, form in SHOWN_SCORES if known == name)
    return f"{100 * value:.2f} %" if form == _PERCENT else f"{value:.3f}"
