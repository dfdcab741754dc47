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

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tl_distributed.errors import printable

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"
_COLOURS = (BLUE, ORANGE, "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS, _LINES = ("o", "s", "^", "D", "v", "P", "X", "*"), ("-", "--", "-.", ":")
_DOTS_PER_INCH = 120
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


def new_figure(width_inches: float, height_inches: float, *, ground: str = "white") -> Figure:
    """Returns an empty figure whose parts make room for one another."""
    size = (width_inches, height_inches)
    return Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained", facecolor=ground)


def figure_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG file; characters that the font lacks are boxes, which is said once."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png")
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


def confusion_figure(
    shares: np.ndarray,
    class_names: Sequence[str],
    *,
    label: str,
    numbers: np.ndarray,
    difference: bool = False,
    ground: str = "white",
    ink: str = "black",
) -> tuple[Figure, Axes]:
    """Draws a confusion matrix, or the difference of two; of more than `MOST_CLASSES_DRAWN` classes, its largest cells.

    Args:
      shares: `[classes, classes]` of the true class (rows), by predicted class (columns): in [0, 1], or in [-1, 1]
        where `difference`.
      class_names: Names of the classes.
      label: Of the colours, whose scale is in per cent.
      numbers: `[classes, classes]` texts, empty where a cell has none; shown where there is room.
      difference: Whether colours go both ways from zero.
      ground: Colour of the figure's ground.
      ink: Colour of the text of the colour bar.
    """
    num_classes = len(class_names)
    if num_classes > MOST_CLASSES_DRAWN:
        cells = largest_cells(shares, class_names, diagonal=difference)
        return cells_figure(cells, label=label, ground=ground, ink=ink)
    side = min(max(4.5, 2.5 + 0.45 * num_classes), 14.0)
    figure = new_figure(side + 1.1, side, ground=ground)
    axes = figure.subplots()
    limit = max(float(np.abs(shares).max()), 0.01) if difference else 1.0
    # The root lifts small shares off the white: a confusion of 2 % is what one looks for.
    norm = Normalize(-limit, limit) if difference else PowerNorm(0.5, vmin=0, vmax=limit)
    image = axes.imshow(shares, cmap="PuOr" if difference else "Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0, symbol=""))
    bar.set_label(label, color=ink)
    bar.ax.tick_params(colors=ink)
    if num_classes <= _MOST_CELLS_WITH_NUMBERS:
        size = 10 if num_classes <= 10 else 7
        dark = 0.55 * limit if difference else 0.4 * limit
        for (row, column), text in np.ndenumerate(numbers):
            if text:
                colour = "white" if abs(shares[row, column]) > dark else "black"
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


def cells_figure(
    cells: Sequence[tuple[str, str, float]], *, label: str, ground: str = "white", ink: str = "black"
) -> tuple[Figure, Axes]:
    """Draws, in place of a confusion matrix of many classes, the cells that matter most, the first on top.

    Args:
      cells: (true class, predicted class, share); those beyond `MOST_ROWS` are left out.
      label: Of the shares.
      ground: Colour of the figure's ground.
      ink: Colour of text.
    """
    cells = cells[:MOST_ROWS]
    figure = new_figure(9, 1.4 + 0.24 * max(len(cells), 1), ground=ground)
    axes = figure.subplots()
    axes.barh(range(len(cells)), [share for _, _, share in cells], color=BLUE)
    names = [
        f"{shortened(true)}, found" if true == predicted else f"{shortened(true)}, taken for {shortened(predicted)}"
        for true, predicted, _ in cells
    ]
    axes.set_yticks(range(len(cells)), names, fontsize=8)
    axes.set_ylim(max(len(cells), 1) - 0.5, -0.5)  # downwards
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel(label)
    if not cells:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=ink)
    return figure, axes


def largest_cells(matrix: np.ndarray, class_names: Sequence[str], *, diagonal: bool) -> list[tuple[str, str, float]]:
    """Returns (true class, predicted class, value) of the largest cells, by magnitude and without zeros.

    Args:
      matrix: `[classes, classes]`, rows the true class.
      class_names: Names of the classes.
      diagonal: Whether right answers count among them.
    """
    values = np.array(matrix, np.float64)
    if not diagonal:
        np.fill_diagonal(values, 0)
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[:MOST_ROWS]
    places = zip(*np.unravel_index(order, values.shape), strict=True)
    return [
        (class_names[row], class_names[column], values[row, column]) for row, column in places if values[row, column]
    ]
