"""Figures of a run, drawn with matplotlib's object interface: no window system and no global state."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tl_distributed.files import write_file
from tl_distributed.reporting.calibration import expected_calibration_error
from tl_distributed.reporting.drawing import (
    BLUE,
    GREY,
    MOST_CLASSES_DRAWN,
    MOST_ROWS,
    ORANGE,
    cells_figure,
    confusion_figure,
    figure_png,
    largest_cells,
    new_figure,
    shortened,
)
from tl_distributed.reporting.shown_scores import percentage

# Tiles have fixed places on one pair of axes: axes and a layout for each took a quarter of a short run's time.
_TILE_INCHES, _GAP_INCHES = 1.8, 0.12
_CAPTION_POINTS, _LINE_HEIGHT, _POINTS_PER_INCH = 6.5, 1.25, 72
_CAPTION_CHARACTERS = 34  # a line this long is nearly as wide as a tile


def learning_curves(rows: Sequence[dict[str, Any]], metric: str = "accuracy") -> Figure:
    """Draws accuracy, or another metric, and loss of training and validation over epochs.

    Args:
      rows: As in `metrics.jsonl`: `epoch` (a fraction within an epoch), and any of `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, `phase`. Rows without `epoch` and null values are left out. Where `phase` changes, a line
        marks the new phase by its name.
      metric: Beside the loss; of other tasks than classification.
    """
    figure = new_figure(11, 4.2)
    metric_axes, loss_axes = figure.subplots(1, 2)
    _curves(metric_axes, rows, metric)
    _curves(loss_axes, rows, "loss")
    if metric == "accuracy":
        metric_axes.set_ylabel("accuracy (%)")
        metric_axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        metric_axes.set_ylim(0, 1.02)
    else:
        metric_axes.set_ylabel(metric.replace("_", " "))
    loss_axes.set_ylabel("loss (nats)")
    return figure


def _curves(axes: Axes, rows: Sequence[dict[str, Any]], metric: str) -> None:
    styles = (("training", metric, BLUE, "-", ""), ("validation", f"val_{metric}", ORANGE, "--", "o"))
    for label, key, colour, line_style, marker in styles:
        points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None and row.get("epoch") is not None]
        if points:
            epochs, values = zip(*points, strict=True)
            lone_marker = marker or ("o" if len(points) == 1 else "")
            axes.plot(epochs, values, line_style, color=colour, marker=lone_marker, markersize=4, label=label)
    _mark_phases(axes, rows)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=GREY)


def _mark_phases(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    staged = [row for row in rows if row.get("phase") is not None and row.get("epoch") is not None]
    changes = [
        (before["epoch"], after["phase"])
        for before, after in itertools.pairwise(staged)
        if before["phase"] != after["phase"]
    ]
    if not changes:
        return
    for epoch, phase in [(staged[0]["epoch"], staged[0]["phase"]), *changes]:
        axes.annotate(f" {phase}", (epoch, 0.02), xycoords=axes.get_xaxis_transform(), color=GREY, fontsize=8)
    for epoch, _ in changes:
        axes.axvline(epoch, color=GREY, linestyle=":", linewidth=1)


def confusion_matrix(matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix, coloured by the share of the true class, with counts in it; of many classes, the pairs
    that are confused most.

    Args:
      matrix: `[classes, classes]` counts; rows: true class, columns: predicted class.
      class_names: Names of the classes.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(class_names) > MOST_CLASSES_DRAWN:
        supports = dict(zip(class_names, counts.sum(1).tolist(), strict=True))
        return most_confused(largest_cells(counts, class_names), supports)
    numbers = np.where(counts > 0, counts.astype(str), "")
    return confusion_figure(shares, class_names, label="share of the true class (%)", numbers=numbers)[0]


def most_confused(pairs: Sequence[Sequence[Any]], supports: Mapping[str, int]) -> Figure:
    """Draws the mistakes that were made most often, as shares of the true class.

    Args:
      pairs: (true class, predicted class, count), the most frequent first.
      supports: Examples of each class, by name.
    """
    cells = [(true, predicted, count / supports[true]) for true, predicted, count in pairs[:MOST_ROWS]]
    return cells_figure(cells, label="share of the true class (%)")[0]


def per_class_accuracy(per_class: dict[str, dict[str, Any]]) -> Figure:
    """Draws the accuracy of each class, the worst first; of many classes, the worst.

    Args:
      per_class: Of `classification_summary`: name to `accuracy` (in [0, 1]; None or NaN where there are no examples)
        and `support`.
    """
    measured = [
        (name, scores["accuracy"])
        for name, scores in per_class.items()
        if scores["accuracy"] is not None and not math.isnan(scores["accuracy"])
    ]
    measured.sort(key=lambda pair: pair[1])
    accuracies = [accuracy for _, accuracy in measured]
    drawn = measured if len(measured) <= MOST_CLASSES_DRAWN else measured[:MOST_ROWS]
    names = [name for name, _ in drawn]
    figure = new_figure(7, max(2.0, 1.0 + 0.28 * len(names)))
    axes = figure.subplots()
    axes.barh(range(len(names)), accuracies[: len(names)], color=BLUE)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names], fontsize=9)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)  # downwards
    axes.set_xlim(0, 1)
    if accuracies:
        mean = float(np.mean(accuracies))
        axes.axvline(mean, color=ORANGE, linestyle="--", label=f"mean of the classes: {percentage(mean)} %")
        axes.legend(loc="lower right", fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel("accuracy (%)")
    axes.set_ylabel("class" if drawn is measured else f"class, the {len(names)} worst of {len(measured):,}")
    return figure


def reliability_diagram(
    bins: Sequence[Sequence[float]], calibrated: Sequence[Sequence[float]] = (), temperature: float | None = None
) -> Figure:
    """Draws accuracy over confidence: on the diagonal, probabilities can be taken at their word.

    Args:
      bins: Of `calibration.reliability`: [mean confidence, accuracy, examples].
      calibrated: The same at the temperature; none without one.
      temperature: That fits the validation split.
    """
    figure = new_figure(5.2, 4.8)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1, label="as sure as right")
    series = [("as trained", bins, BLUE, "-", "o")]
    if calibrated:
        series.append((f"at temperature {temperature:.3g}", calibrated, ORANGE, "--", "s"))
    for label, rows, colour, line_style, marker in series:
        if rows:
            confidences, accuracies, _ = zip(*rows, strict=True)
            error = 100 * expected_calibration_error(rows)
            label = f"{label}: expected error {error:.1f} points"
            axes.plot(confidences, accuracies, line_style, color=colour, marker=marker, markersize=4, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel("confidence (%), bins of as many images each")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    return figure


def image_grid(images: np.ndarray, captions: Sequence[str], columns: int) -> Figure:
    """Draws images in rows of `columns`, each under its caption.

    Args:
      images: `[n, height, width, 3]` uint8; n may be 0.
      captions: n texts, or none at all; a long line is cut.
      columns: Images a row, at least 1.
    """
    columns = max(1, min(columns, len(images)))
    grid_rows = max(1, math.ceil(len(images) / columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    caption_inches = lines * _CAPTION_POINTS * _LINE_HEIGHT / _POINTS_PER_INCH
    width, height = _TILE_INCHES + _GAP_INCHES, _TILE_INCHES + caption_inches + _GAP_INCHES
    figure = new_figure(width * columns, height * grid_rows, layout="none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width * columns), ylim=(height * grid_rows, 0))
    axes.set_axis_off()
    axes.autoscale(False)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        middle, top = (column + 0.5) * width, row * height + caption_inches + _GAP_INCHES / 2
        _draw_tile(axes, np.asarray(image), middle, top + _TILE_INCHES / 2)
        if place < len(captions):
            text = shortened(captions[place], _CAPTION_CHARACTERS)
            axes.text(middle, top - 0.02, text, ha="center", va="bottom", fontsize=_CAPTION_POINTS)
    return figure


def _draw_tile(axes: Axes, image: np.ndarray, x: float, y: float) -> None:
    """Draws an image around its middle, in inches, as large as a tile has room for."""
    height, width = image.shape[:2]
    inches = _TILE_INCHES / max(height, width)
    right, bottom = width * inches / 2, height * inches / 2
    extent = (x - right, x + right, y + bottom, y - bottom)
    axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest")


def save_figure(figure: Figure, path: str) -> bytes:
    """Writes a PNG to any file system, where it appears whole or not at all; returns its bytes."""
    png = figure_png(figure)
    write_file(path, png)
    return png
