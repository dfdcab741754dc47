"""Charts of a run, as Vega-Lite, with the numbers in them. Each has a static figure of the same (`plots`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from tl_distributed.reporting.drawing import MOST_CLASSES_DRAWN, MOST_ROWS, Style
from tl_distributed.reporting.page.encodings import PERCENT, POINTS, hover, quantity, rounded, thinned
from tl_distributed.reporting.page.series import scales

Spec = dict[str, Any]
SPLITS = ("training", "validation")


def curves(
    rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Style], metric: str = "accuracy"
) -> tuple[tuple[Spec, ...], dict[str, Spec]]:
    """Accuracy, or another metric, and loss of training and validation, and what their horizontal axis may be.

    Args:
      rows: Of `metrics.jsonl`.
      styles: Of `SPLITS`.
      metric: Beside the loss.
    """
    choices = {"by epoch": quantity("epoch", "epoch"), "by seconds": quantity("seconds", "training seconds")}
    panels = tuple(_curve(rows, styles, name, title) for name, title in
                   ((metric, metric.replace("_", " ")), ("loss", "loss (nats)")))  # fmt: skip
    return panels, choices


def _curve(rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Style], metric: str, title: str) -> Spec:
    columns: dict[str, list[Any]] = {name: [] for name in ("series", "epoch", "seconds", "phase", "value")}
    for split, key in zip(SPLITS, (metric, f"val_{metric}"), strict=True):
        own = [row for row in rows if row.get(key) is not None and row.get("epoch") is not None]
        for place in thinned(len(own)):
            row = own[place]
            cell = (
                split,
                rounded(row["epoch"]),
                rounded(row.get("seconds")),
                row.get("phase") or "",
                rounded(row[key]),
            )
            for name, value in zip(columns, cell, strict=True):
                columns[name].append(value)
    is_share = metric == "accuracy"
    look, form = scales(styles, SPLITS), PERCENT if is_share else ".4f"
    lines = hover(("series", "split"), ("epoch", "epoch", ".4~g"), ("seconds", "seconds", ".4~g"), ("phase", "phase"),
                  ("value", title, form))  # fmt: skip
    return {
        "data": {"columns": columns},
        "height": 230,
        "encoding": {"color": look["color"], "y": quantity("value", title, **({"format": "%"} if is_share else {}))},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {"strokeDash": look["strokeDash"]}},
            {"mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
             "encoding": {"shape": look["shape"], "tooltip": lines}},
        ],
    }  # fmt: skip


def reliability(
    bins: Sequence[Sequence[float]], calibrated: Sequence[Sequence[float]], styles: Mapping[str, Style]
) -> Spec:
    """Accuracy over confidence; on the diagonal, probabilities can be taken at their word.

    Args:
      bins: Of `calibration.reliability`: [mean confidence, accuracy, examples].
      calibrated: The same at the temperature; empty without one.
      styles: Of "as trained" and "at the temperature".
    """
    names = list(styles)
    rows = [(name, *one) for name, own in zip(names, (bins, calibrated), strict=True) for one in own]
    columns = {
        "series": [row[0] for row in rows], "confidence": [rounded(row[1]) for row in rows],
        "accuracy": [rounded(row[2]) for row in rows], "images": [row[3] for row in rows],
    }  # fmt: skip
    look, domain = scales(styles, names), {"scale": {"domain": [0, 1]}}
    lines = hover(("series", "probabilities"), ("confidence", "mean confidence", PERCENT),
                  ("accuracy", "accuracy", PERCENT), ("images", "images", ","))  # fmt: skip
    x = {"field": "confidence", "type": "quantitative", **domain, "axis": {"title": "confidence", "format": "%"}}
    y = {"field": "accuracy", "type": "quantitative", **domain, "axis": {"title": "accuracy", "format": "%"}}
    return {
        "data": {"columns": columns},
        "height": 320,
        "layer": [
            {"data": {"values": [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]},
             "mark": {"type": "line", "strokeDash": [2, 3], "color": "currentColor", "opacity": 0.5},
             "encoding": {"x": x, "y": y}},
            {"mark": {"type": "line", "strokeWidth": 1.5},
             "encoding": {"x": x, "y": y, "color": look["color"], "strokeDash": look["strokeDash"]}},
            {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
             "encoding": {"x": x, "y": y, "color": look["color"], "shape": look["shape"], "tooltip": lines}},
        ],
    }  # fmt: skip


def by_class(per_class: Mapping[str, Mapping[str, Any]], color: str) -> Spec:
    """Accuracy of each class, the worst on top; of many classes, the worst.

    Args:
      per_class: Of `results.json`.
      color: Of the bars.
    """
    measured = [(name, one) for name, one in per_class.items() if one["accuracy"] is not None]
    measured.sort(key=lambda pair: pair[1]["accuracy"])
    if len(measured) > MOST_CLASSES_DRAWN:
        measured = measured[:MOST_ROWS]
    columns = {
        "class": [name for name, _ in measured],
        **{key: [rounded(one[key]) for _, one in measured] for key in ("accuracy", "precision", "f1", "support")},
    }
    lines = hover(("class", "class"), ("accuracy", "accuracy", POINTS), ("precision", "precision", POINTS),
                  ("f1", "F1", POINTS), ("support", "images", ","))  # fmt: skip
    return {
        "data": {"columns": columns},
        "height": 18 * max(1, len(measured)),
        "mark": {"type": "bar", "color": color, "height": 11},
        "encoding": {
            "x": {"field": "accuracy", "type": "quantitative", "axis": {"title": "accuracy", "format": "%"}},
            "y": {"field": "class", "type": "nominal", "sort": columns["class"],
                  "axis": {"title": None, "labelLimit": 190, "ticks": False}},
            "tooltip": lines,
        },
    }  # fmt: skip
