"""What all figures share: colours, the style of a series, text that is no formula, and the confusion matrix.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any kind of colour vision tell
apart; beyond six series the marker and the line differ.
"""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"
_COLOURS = (BLUE, ORANGE, "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS, _LINES = ("o", "s", "^", "D", "v", "P", "X", "*"), ("-", "--", "-.", ":")
_DOTS_PER_INCH = 120
_NAME_CHARACTERS = 28
_MOST_CELLS_WITH_NUMBERS = 20  # classes a side; beyond, numbers in a confusion matrix are too small to read
_MOST_NAMED_TICKS = 60


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
    """Returns the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def escaped(text: str) -> str:
    """Returns the text as a figure shows it: a bare `$` would start a formula."""
    return text.replace("$", r"\$")


def shortened(text: str, longest: int = _NAME_CHARACTERS) -> str:
    """Cuts the end off each long line; the result is `escaped`."""
    lines = (line if len(line) <= longest else line[: longest - 1] + "…" for line in text.splitlines())
    return escaped("\n".join(lines))


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
    """Draws a confusion matrix, or the difference of two; readable for 2 to 100 classes.

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
    every = math.ceil(num_classes / _MOST_NAMED_TICKS)
    positions = range(0, num_classes, every)
    labels = [shortened(class_names[position]) for position in positions]
    size = 10 if num_classes <= 12 else 8 if num_classes <= 30 else 6
    axes.set_xticks(positions, labels, rotation=90 if num_classes > 4 else 0, fontsize=size)
    axes.set_yticks(positions, labels, fontsize=size)
