"""Pieces of Vega-Lite that the charts share."""

from collections.abc import Sequence
from typing import Any

PERCENT, POINTS = ".1%", ".2%"
_MOST_POINTS = 200  # of a curve: more than a chart has room for


def quantity(field: str, title: str | None, *, format: str | None = None, **more: Any) -> dict[str, Any]:
    """Returns the encoding of a number on an axis that fits the data; a name that Vega would read as a path is safe."""
    axis = {"title": title, **({"format": format} if format else {})}
    return {"field": field, "type": "quantitative", "scale": {"zero": False, "nice": True, **more}, "axis": axis}


def hover(*fields: Sequence[str]) -> list[dict[str, str]]:
    """Returns the lines of a tooltip, of (field, title) or (field, title, format)."""
    return [
        {"field": field, "title": title, **(_number(*form) if form else {"type": "nominal"})}
        for field, title, *form in fields
    ]


def _number(form: str) -> dict[str, str]:
    return {"type": "quantitative", "format": form}


def thinned(count: int) -> list[int]:
    """Returns places of `count` that a curve is drawn through: all, or some that are spread evenly, with the last."""
    step = -(-count // _MOST_POINTS)
    return sorted({*range(0, count, step), count - 1}) if count else []


def rounded(value: float | None) -> float | None:
    """Returns the value with five digits: what a page shows of it, at most."""
    return None if value is None else float(f"{value:.5g}")
