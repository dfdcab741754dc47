"""How the series of a page's charts look: as in the static figures, colour, marker and line tell them apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tl_distributed.reporting.drawing import Style

_PATHS = {  # of matplotlib's markers, in a square from -1 to 1, which is what Vega asks for
    "o": "M-0.9,0A0.9,0.9,0,1,1,0.9,0A0.9,0.9,0,1,1,-0.9,0Z",
    "s": "M-0.8,-0.8H0.8V0.8H-0.8Z",
    "^": "M0,-1L1,0.8H-1Z",
    "D": "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "v": "M0,1L1,-0.8H-1Z",
    "P": "M-0.4,-1H0.4V-0.4H1V0.4H0.4V1H-0.4V0.4H-1V-0.4H-0.4Z",
    "X": "M0,-0.45L0.55,-1L1,-0.55L0.45,0L1,0.55L0.55,1L0,0.45L-0.55,1L-1,0.55L-0.45,0L-1,-0.55L-0.55,-1Z",
    "*": "M0,-1.1L0.27,-0.36L1.05,-0.34L0.43,0.14L0.65,0.89L0,0.45L-0.65,0.89L-0.43,0.14L-1.05,-0.34L-0.27,-0.36Z",
}
_DASHES = {"-": [], "--": [6, 3], "-.": [7, 2, 2, 2], ":": [2, 2]}


def swatch(style: Style) -> Markup:
    """Returns a bit of the series' line with its marker, as an SVG element."""
    dash = " ".join(map(str, _DASHES[style.linestyle])) or "none"
    return Markup(
        f'<svg class="swatch" viewBox="-13 -6 26 12" aria-hidden="true"><line x1="-12" x2="12" y1="0" y2="0" '
        f'stroke="{style.color}" stroke-width="1.8" stroke-dasharray="{dash}"/>'
        f'<path d="{_PATHS[style.marker]}" transform="scale(4.4)" fill="{style.color}"/></svg>'
    )


def scales(styles: Mapping[str, Style], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the encodings `color`, `shape` and `strokeDash` by the field `series`; the legend is the page's own."""
    ranges = {
        "color": [styles[name].color for name in names],
        "shape": [_PATHS[styles[name].marker] for name in names],
        "strokeDash": [_DASHES[styles[name].linestyle] or [1, 0] for name in names],
    }
    return {
        channel: {"field": "series", "type": "nominal", "legend": None, "scale": {"domain": list(names), "range": own}}
        for channel, own in ranges.items()
    }


def over_images(
    columns: Mapping[str, Sequence[Any]], styles: Mapping[str, Style], *, axis_values: Sequence[int], title: str,
    lines: Sequence[Mapping[str, Any]], height: int,
) -> dict[str, Any]:  # fmt: skip
    """Vega-Lite of accuracy over training images of each class: a mean for each series, and its range.

    Args:
      columns: `series`, `images`, `mean`, `low`, `high`, and what `lines` names besides.
      styles: Of each series.
      axis_values: Images at which there are points.
      title: Of the accuracy.
      lines: Of `encodings.hover`.
      height: In pixels.
    """
    look = scales(styles, list(styles))
    x = {"title": "training images of each class (logarithmic)", "values": list(axis_values), "format": ","}
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": {"title": title, "format": "%"}}
    mean = {"y": {"field": "mean", **y}}
    return {
        "data": {"columns": columns},
        "height": height,
        "encoding": {
            "x": {"field": "images", "type": "quantitative", "scale": {"type": "log"}, "axis": x},
            "color": look["color"],
        },
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 1.2},
             "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}}},
            {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {**mean, "strokeDash": look["strokeDash"]}},
            {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
             "encoding": {**mean, "shape": look["shape"], "tooltip": lines}},
        ],
    }  # fmt: skip
