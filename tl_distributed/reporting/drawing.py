"""What all figures share: colours, the style of a series, text that is no formula, and the confusion matrix.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any kind of colour vision tell
apart; beyond six series the marker and the line differ.
"""

import dataclasses
import functools
import io
import logging
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tl_distributed.errors import printable

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"
_COLOURS = (BLUE, ORANGE, "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS, _LINES = ("o", "s", "^", "D", "v", "P", "X", "*"), ("-", "--", "-.", ":")
_DOTS_PER_INCH = 120
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_LOG = logging.getLogger(__name__)
_MISSING_GLYPH = re.compile(r"Glyph .* missing from (current )?font(\(s\))?(?P<font>.*?)\.?$")
_NAME_CHARACTERS = 28
_MOST_CELLS_WITH_NUMBERS = 20  # classes a side; beyond, numbers in a confusion matrix are too small to read
MOST_CLASSES_DRAWN = 50  # in a matrix, or one under the other; of more, the worst are shown
MOST_ROWS = 40  # of the worst


@dataclasses.dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    color: str
    marker: str
    linestyle: str


def series_styles(names: Sequence[str]) -> dict[str, Style]:
    """Returns the style of each series, by its place."""
    return {
        name: Style(
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=_LINES[index // len(_COLOURS) % len(_LINES)],
        )
        for index, name in enumerate(names)
    }


def new_figure(width_inches: float, height_inches: float, layout: str = "constrained") -> Figure:
    """Returns an empty figure whose parts make room for one another; with "none" they stay where they are put."""
    size = (width_inches, height_inches)
    return Figure(figsize=size, dpi=_DOTS_PER_INCH, layout=layout, facecolor="white")


def figure_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG file; characters that the font lacks are boxes, which is said once."""
    return _saved(figure, format="png")


def figure_svg(figure: Figure, name: str) -> str:
    """Returns the figure as an SVG element, for the inside of a page: on its ground, in its ink, with text as text.

    Args:
      figure: Drawn in black.
      name: By which its parts are told from those of other figures of the page.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        text = _saved(figure, format="svg", transparent=True, metadata=_NO_METADATA).decode()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    # Text without a fill is black, whatever the page's ink.
    text = text.replace("<svg ", '<svg fill="currentColor" ', 1)
    return re.sub(r"\s*\n\s*", "\n", text)


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, **options)
    figure.set_layout_engine("none")  # its parts have their places: a second file does not look for them again
    for warning in caught:
        missing = _MISSING_GLYPH.match(str(warning.message))
        if missing is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        else:
            _say_missing(missing["font"])
    return buffer.getvalue()


@functools.cache  # once a process, whatever the number of characters and figures
def _say_missing(font: str) -> None:
    _LOG.warning("Figures show characters that the font %s lacks as boxes; all other output has them.", font.strip())


def escaped(text: str) -> str:
    """Returns the text as a figure shows it: a bare `$` would start a formula, and some characters end a line."""
    return "\n".join(map(printable, text.split("\n"))).replace("$", r"\$")


def shortened(text: str, longest: int = _NAME_CHARACTERS) -> str:
    """Cuts the end off each long line; the result is `escaped`."""
    lines = map(printable, text.split("\n"))
    return "\n".join(line if len(line) <= longest else line[: longest - 1] + "…" for line in lines).replace("$", r"\$")


def drawn_classes(num_scored: int, which: str) -> str:
    """Returns what a figure of accuracy by class shows: `each class`, or e.g. `the 40 worst of 1,000 classes`.

    Args:
      num_scored: Classes that have images.
      which: What those are called that are drawn of many.
    """
    return "each class" if num_scored <= MOST_CLASSES_DRAWN else f"the {MOST_ROWS} {which} of {num_scored:,} classes"


def confusion_figure(
    shares: np.ndarray, class_names: Sequence[str], *, label: str, numbers: np.ndarray
) -> tuple[Figure, Axes]:
    """Draws a confusion matrix; of more than `MOST_CLASSES_DRAWN` classes, its largest cells.

    Args:
      shares: `[classes, classes]` in [0, 1], of the true class (rows), by predicted class (columns).
      class_names: Names of the classes.
      label: Of the colours, whose scale is in per cent.
      numbers: `[classes, classes]` texts, empty where a cell has none; shown where there is room.
    """
    num_classes = len(class_names)
    if num_classes > MOST_CLASSES_DRAWN:
        return cells_figure(largest_cells(shares, class_names), label=label)
    side = min(max(4.5, 2.5 + 0.45 * num_classes), 14.0)
    figure = new_figure(side + 1.1, side)
    axes = figure.subplots()
    # The root lifts small shares off the white: a confusion of 2 % is what one looks for.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0, symbol=""))
    bar.set_label(label)
    if num_classes <= _MOST_CELLS_WITH_NUMBERS:
        size = 10 if num_classes <= 10 else 7
        for (row, column), text in np.ndenumerate(numbers):
            if text:
                colour = "white" if shares[row, column] > 0.4 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    _name_ticks(axes, class_names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure, axes


def _name_ticks(axes: Axes, class_names: Sequence[str]) -> None:
    num_classes = len(class_names)
    labels = [shortened(name) for name in class_names]
    size = 10 if num_classes <= 12 else 8 if num_classes <= 30 else 6
    axes.set_xticks(range(num_classes), labels, rotation=90 if num_classes > 4 else 0, fontsize=size)
    axes.set_yticks(range(num_classes), labels, fontsize=size)


def cells_figure(cells: Sequence[tuple[str, str, float]], *, label: str) -> tuple[Figure, Axes]:
    """Draws, in place of a confusion matrix of many classes, the mistakes that matter most, the first on top.

    Args:
      cells: (true class, predicted class, share); those beyond `MOST_ROWS` are left out.
      label: Of the shares.
    """
    cells = cells[:MOST_ROWS]
    figure = new_figure(9, 1.4 + 0.24 * max(len(cells), 1))
    axes = figure.subplots()
    axes.barh(range(len(cells)), [share for _, _, share in cells], color=BLUE)
    names = [f"{shortened(true)}, taken for {shortened(predicted)}" for true, predicted, _ in cells]
    axes.set_yticks(range(len(cells)), names, fontsize=8)
    axes.set_ylim(max(len(cells), 1) - 0.5, -0.5)  # downwards
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel(label)
    if not cells:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
    return figure, axes


def largest_cells(matrix: np.ndarray, class_names: Sequence[str]) -> list[tuple[str, str, float]]:
    """Returns (true class, predicted class, value) of the most frequent mistakes, without zeros.

    Args:
      matrix: `[classes, classes]`, rows the true class.
      class_names: Names of the classes.
    """
    values = np.array(matrix, np.float64)
    np.fill_diagonal(values, 0)
    order = np.argsort(-values, axis=None, kind="stable")[:MOST_ROWS]
    places = zip(*np.unravel_index(order, values.shape), strict=True)
    return [
        (class_names[row], class_names[column], values[row, column]) for row, column in places if values[row, column]
    ]
