"""A confusion matrix as a chart of which one arm is chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_distributed.reporting.page.encodings import PERCENT, hover, rounded


def confusion(shares: Mapping[str, np.ndarray], class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the chart.

    Args:
      shares: By the name of what answered, `[classes, classes]` in [0, 1] of the true class (rows).
      class_names: Names of the classes.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("series", "true", "predicted", "share")}
    for name, own in shares.items():
        for row, column in zip(*np.nonzero(own), strict=True):
            cell = (name, class_names[row], class_names[column], rounded(own[row, column]))
            for key, value in zip(columns, cell, strict=True):
                columns[key].append(value)
    names = list(shares)
    choice = {"bind": {"input": "select", "options": names}} if len(names) > 1 else {}
    axis = {"labelLimit": 110, "grid": False}
    classes = {"scale": {"domain": list(class_names)}}
    return {
        "data": {"columns": columns},
        "params": [{"name": "arm", "value": names[0], **choice}],
        "transform": [{"filter": "datum.series === arm"}],
        "height": max(12, min(24, 480 // len(class_names))) * len(class_names),
        "mark": {"type": "rect"},
        "encoding": {
            "x": {"field": "predicted", "type": "nominal", **classes, "axis": {"title": "predicted class", **axis}},
            "y": {"field": "true", "type": "nominal", **classes, "axis": {"title": "true class", **axis}},
            "color": {"field": "share", "type": "quantitative", "legend": None,
                      "scale": {"type": "sqrt", "domain": [0, 1], "scheme": "blues"}},
            "tooltip": hover(("true", "true class"), ("predicted", "predicted class"), ("share", "share", PERCENT)),
        },
    }  # fmt: skip
