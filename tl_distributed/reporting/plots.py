"""Figures of a run, drawn with matplotlib's object interface: no window system and no global state.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any kind of colour
vision tell apart, and one map of a single hue; curves differ by line style as well.
"""

import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tl_distributed.reporting.report import write_file

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"
DOTS_PER_INCH = 120
_MOST_CELLS_WITH_NUMBERS = 20  # classes a side; beyond, numbers in a confusion matrix are too small to read
_MOST_NAMED_TICKS = 60
_NAME_CHARACTERS = 28
_TILE_INCHES, _CAPTION_POINTS = 1.9, 6.5
_CAPTION_CHARACTERS = 34  # a line this long is nearly as wide as a tile


def learning_curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draws accuracy and loss of training and validation over epochs.

    Args:
      rows: As in `metrics.jsonl`: `epoch` (a fraction within an epoch), and any of `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, `phase`. Rows without `epoch` and null values are left out. Where `phase` changes, a line
        marks the new phase by its name.
    """
    figure = _figure(11, 4.2)
    accuracy_axes, loss_axes = figure.subplots(1, 2)
    _curves(accuracy_axes, rows, "accuracy")
    _curves(loss_axes, rows, "loss")
    accuracy_axes.set_ylabel("accuracy (%)")
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    accuracy_axes.set_ylim(0, 1.02)
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
    """Draws a confusion matrix, coloured by the share of the true class; readable for 2 to 100 classes.

    Args:
      matrix: `[classes, classes]` counts; rows: true class, columns: predicted class.
      class_names: Names of the classes.
    """
    counts = np.asarray(matrix)
    num_classes = len(class_names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.5, 2.5 + 0.45 * num_classes), 14.0)
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    # The root lifts small shares off the white: a confusion of 2 % is what one looks for.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0)).set_label(
        "share of the true class (%)"
    )
    if num_classes <= _MOST_CELLS_WITH_NUMBERS:
        _number_cells(axes, counts, shares)
    _name_ticks(axes, class_names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure


def _number_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    size = 10 if len(counts) <= 10 else 7
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=size)


def _name_ticks(axes: Axes, class_names: Sequence[str]) -> None:
    num_classes = len(class_names)
    every = math.ceil(num_classes / _MOST_NAMED_TICKS)
    positions = range(0, num_classes, every)
    labels = [_shortened(class_names[position]) for position in positions]
    size = 10 if num_classes <= 12 else 8 if num_classes <= 30 else 6
    axes.set_xticks(positions, labels, rotation=90 if num_classes > 4 else 0, fontsize=size)
    axes.set_yticks(positions, labels, fontsize=size)


def per_class_accuracy(per_class: dict[str, dict[str, Any]]) -> Figure:
    """Draws the accuracy of each class, the worst first.

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
    names, accuracies = [name for name, _ in measured], [accuracy for _, accuracy in measured]
    figure = _figure(7, min(max(2.0, 1.0 + 0.28 * len(names)), 20.0))
    axes = figure.subplots()
    axes.barh(range(len(names)), accuracies, color=BLUE)
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names], fontsize=9 if len(names) <= 50 else 6)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)  # downwards
    axes.set_xlim(0, 1)
    if accuracies:
        mean = float(np.mean(accuracies))
        axes.axvline(mean, color=ORANGE, linestyle="--", label=f"mean of the classes: {100 * mean:.1f} %")
        axes.legend(loc="lower right", fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel("accuracy (%)")
    axes.set_ylabel("class")
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
    figure = _figure(_TILE_INCHES * columns, (_TILE_INCHES + 0.3) * grid_rows)
    all_axes = figure.subplots(grid_rows, columns, squeeze=False).ravel()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, image in zip(all_axes, images, strict=False):
        axes.imshow(image, interpolation="nearest")
    for axes, caption in zip(all_axes, captions, strict=False):
        lines = [_shortened(line, _CAPTION_CHARACTERS) for line in caption.splitlines()]
        axes.set_title("\n".join(lines), fontsize=_CAPTION_POINTS)
    return figure


def save_figure(figure: Figure, path: str) -> bytes:
    """Writes a PNG to any file system, where it appears whole or not at all; returns its bytes."""
    png = figure_png(figure)
    write_file(path, png)
    return png


def figure_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(width_inches: float, height_inches: float) -> Figure:
    return Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")


def _shortened(name: str, longest: int = _NAME_CHARACTERS) -> str:
    """Cuts the end off a long name; a bare `$` would start a formula."""
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return name.replace("$", r"\$")
