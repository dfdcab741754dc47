"""Charts of a study, as Vega-Lite, with the numbers in them. Each has a static figure of the same (`figures`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_distributed.reporting.drawing import MOST_CLASSES_DRAWN, MOST_ROWS, Style
from tl_distributed.reporting.page.encodings import PERCENT, POINTS, hover, quantity, rounded, thinned
from tl_distributed.reporting.page.series import over_images, scales
from tl_distributed.studies.collect import ArmSummary

Spec = dict[str, Any]
_PANELS = (
    ("train_accuracy", "training accuracy"), ("val_accuracy", "validation accuracy"),
    ("train_loss", "training loss (nats)"), ("val_loss", "validation loss (nats)"),
)  # fmt: skip


def accuracy(arms: Sequence[ArmSummary], styles: Mapping[str, Style]) -> Spec:
    """Test accuracy of each arm with its 95 % interval, and a tick for each run; the best on top."""
    ordered = sorted(arms, key=lambda arm: -arm.test_accuracy.mean)
    names = [arm.name for arm in ordered]
    ends = [arm.test_interval for arm in ordered]
    runs = [(arm.name, record) for arm in ordered if len(arm.records) > 1 for record in arm.records]
    columns = {
        "series": names + [name for name, _ in runs],
        "accuracy": [arm.test_accuracy.mean for arm in ordered]
        + [record.results["test_accuracy"] for _, record in runs],
        "low": [low for low, _ in ends] + [None] * len(runs),
        "high": [high for _, high in ends] + [None] * len(runs),
        "seed": [None] * len(names) + [record.run.seed for _, record in runs],
    }
    look = scales(styles, list(styles))
    lines = hover(
        ("series", "arm"), ("accuracy", "test accuracy", POINTS), ("low", "from", POINTS), ("high", "to", POINTS)
    )  # fmt: skip
    of_arms, of_runs = {"filter": "datum.seed === null"}, {"filter": "datum.seed !== null"}
    axis = {"title": "test accuracy, 95 % interval", "format": "%"}
    of_run = hover(("series", "arm"), ("seed", "seed"), ("accuracy", "test accuracy", POINTS))
    ticks = [{
        "transform": [of_runs], "mark": {"type": "tick", "thickness": 1.5, "opacity": 0.7, "height": 14},
        "encoding": {"x": {"field": "accuracy", "type": "quantitative"}, "tooltip": of_run},
    }] if runs else []  # fmt: skip
    return {
        "data": {"columns": columns},
        "height": 26 * len(arms),
        "encoding": {
            "y": {"field": "series", "type": "nominal", "sort": names, "axis": {"title": None, "ticks": False,
                  "domain": False, "labelLimit": 190, "grid": False}},
            "color": look["color"],
        },
        "layer": [
            {"transform": [of_arms], "mark": {"type": "rule", "strokeWidth": 2.5}, "encoding": {
                "x": {"field": "low", "type": "quantitative", "scale": {"zero": False}, "axis": axis},
                "x2": {"field": "high"}, "tooltip": lines}},
            *ticks,
            {"transform": [of_arms], "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1}, "encoding": {
                "x": {"field": "accuracy", "type": "quantitative"}, "shape": look["shape"], "tooltip": lines}},
        ],
    }  # fmt: skip


def curves(arms: Sequence[ArmSummary], styles: Mapping[str, Style]) -> tuple[tuple[Spec, ...], dict[str, Any]]:
    """Accuracy and loss of training and validation: mean of the seeds and their range; by epochs or by seconds.

    Returns:
      The four panels, and the choices of their horizontal axis.
    """
    choices = {
        "by epoch": quantity("epoch", "epoch"),
        "by seconds": quantity("seconds", "training seconds"),
    }
    return tuple(_curve(arms, styles, attribute, title) for attribute, title in _PANELS), choices


def _curve(arms: Sequence[ArmSummary], styles: Mapping[str, Style], attribute: str, title: str) -> Spec:
    columns: dict[str, list[Any]] = {name: [] for name in ("series", "epoch", "seconds", "mean", "low", "high")}
    for arm in arms:
        runs = [record.epochs for record in arm.records if record.epochs]
        length = min(map(len, runs), default=0)
        for place in thinned(length):
            values = [getattr(run[place], attribute) for run in runs]
            columns["series"].append(arm.name)
            columns["epoch"].append(rounded(runs[0][place].epoch))
            columns["seconds"].append(rounded(np.mean([run[place].seconds for run in runs])))
            for name, value in (("mean", np.mean(values)), ("low", min(values)), ("high", max(values))):
                columns[name].append(rounded(value))
    form = PERCENT if "accuracy" in attribute else ".3f"
    axis = {"title": title, "format": "%"} if "accuracy" in attribute else {"title": title}
    look = scales(styles, list(styles))
    several = any(len(arm.records) > 1 for arm in arms)
    lines = hover(("series", "arm"), ("epoch", "epoch", ".4~g"), ("seconds", "seconds", ".4~g"), ("mean", title, form),
                  *((("low", "lowest seed", form), ("high", "highest seed", form)) if several else ()))  # fmt: skip
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": axis}
    band = {
        "mark": {"type": "area", "opacity": 0.14},
        "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}},
    }
    mean = {"y": {"field": "mean", **y}}
    return {
        "data": {"columns": columns},
        "height": 220,
        "encoding": {"color": look["color"]},
        "layer": [
            *([band] if several else []),
            {"mark": {"type": "line", "strokeWidth": 1.8},
             "encoding": {**mean, "strokeDash": look["strokeDash"]}},
            {"mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
             "encoding": {**mean, "shape": look["shape"], "tooltip": lines}},
        ],
    }  # fmt: skip


def against_seconds(arms: Sequence[ArmSummary], styles: Mapping[str, Style]) -> Spec:
    """Best validation accuracy so far over training seconds, a line for each run."""
    columns: dict[str, list[Any]] = {name: [] for name in ("series", "seed", "seconds", "best")}
    for arm in arms:
        for record in arm.records:
            best = np.maximum.accumulate([epoch.val_accuracy for epoch in record.epochs]) if record.epochs else []
            ends = (0, len(best) - 1)  # a step is drawn by its corners
            corners = [place for place in range(len(best)) if place in ends or best[place] > best[place - 1]]
            for place in (corners[number] for number in thinned(len(corners))):
                row = (arm.name, record.run.seed, record.epochs[place].seconds, best[place])
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(rounded(value) if isinstance(value, float) else value)
    look = scales(styles, list(styles))
    lines = hover(("series", "arm"), ("seed", "seed"), ("seconds", "seconds", ".4~g"),
                  ("best", "best validation accuracy", POINTS))  # fmt: skip
    return {
        "data": {"columns": columns},
        "height": 260,
        "encoding": {
            "x": {**quantity("seconds", "training seconds (logarithmic)"), "scale": {"type": "log"}},
            "y": quantity("best", "best validation accuracy so far", format="%"),
            "color": look["color"], "detail": {"field": "seed"},
        },
        "layer": [
            {"mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5},
             "encoding": {"strokeDash": look["strokeDash"]}},
            {"mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
             "encoding": {"shape": look["shape"], "tooltip": lines}},
        ],
    }  # fmt: skip


def data_efficiency(
    summaries: Sequence[ArmSummary], styles: Mapping[str, Style], sizes: Sequence[int], full_size: int
) -> Spec:
    """Test accuracy over images of each class; `full_size` is where "all" is drawn."""
    place = {size: size or full_size for size in sizes}
    columns = {
        "series": [arm.name for arm in summaries],
        "images": [place[arm.images_per_class] for arm in summaries],
        "mean": [rounded(arm.test_accuracy.mean) for arm in summaries],
        "low": [rounded(arm.test_accuracy.low) for arm in summaries],
        "high": [rounded(arm.test_accuracy.high) for arm in summaries],
    }
    title = "test accuracy"
    lines = hover(("series", "arm"), ("images", "images of each class", ","), ("mean", title, POINTS),
                  ("low", "lowest seed", POINTS), ("high", "highest seed", POINTS))  # fmt: skip
    return over_images(columns, styles, axis_values=sorted(place.values()), title=title, lines=lines, height=260)


def by_class(arms: Sequence[ArmSummary], styles: Mapping[str, Style], class_names: Sequence[str]) -> Spec:
    """Accuracy of each class with test images under each arm, the hardest on top; of many classes, the hardest."""
    accuracies = np.array([arm.per_class_accuracy for arm in arms])
    means = accuracies.mean(0)
    order = np.argsort(means, kind="stable")[: np.count_nonzero(~np.isnan(means))]  # NaN is last
    if len(order) > MOST_CLASSES_DRAWN:
        order = order[:MOST_ROWS]
    columns = {
        "series": [arm.name for arm in arms for _ in order],
        "class": [class_names[index] for _ in arms for index in order],
        "accuracy": [rounded(row[index]) for row in accuracies for index in order],
    }
    look = scales(styles, list(styles))
    lines = hover(("series", "arm"), ("class", "class"), ("accuracy", "test accuracy", POINTS))
    return {
        "data": {"columns": columns},
        "height": 18 * len(order),
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.9},
        "encoding": {
            "x": quantity("accuracy", "test accuracy of the class", format="%"),
            "y": {"field": "class", "type": "nominal", "sort": [class_names[index] for index in order],
                  "axis": {"title": None, "labelLimit": 170, "grid": True}},
            "color": look["color"], "shape": look["shape"], "tooltip": lines,
        },
    }  # fmt: skip
