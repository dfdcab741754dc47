"""Charts of a ranking: as Vega-Lite, and as static figures of the same numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from tl_distributed.ranking.order import COSTS, Result, cost_of, pareto_front
from tl_distributed.reporting.drawing import BLUE, GREY, Style, escaped, new_figure
from tl_distributed.reporting.page.encodings import POINTS, hover, rounded
from tl_distributed.reporting.page.series import over_images

Spec = dict[str, Any]
_ACCURACY = "validation accuracy"


def known_costs(results: Sequence[Result]) -> list[str]:
    """Returns the costs that are known of some candidate."""
    return [cost for cost in COSTS if any(cost_of(result, cost) is not None for result in results)]


def against_cost(results: Sequence[Result], cost: str) -> Spec:
    """Validation accuracy over one cost, with the line of the best at each cost."""
    known = [result for result in results if cost_of(result, cost) is not None]
    front = {result["candidate"] for result in pareto_front(results, cost)}
    columns = {
        "series": [result["candidate"] for result in known],
        "cost": [rounded(cost_of(result, cost)) for result in known],
        "accuracy": [rounded(result["logistic_val_accuracy"]) for result in known],
        "logme": [rounded(result["logme"]) for result in known],
        "front": [result["candidate"] in front for result in known],
    }
    title = COSTS[cost][1]
    lines = hover(("series", "backbone"), ("accuracy", _ACCURACY, POINTS), ("cost", title, ".4~s"),
                  ("logme", "LogME", ".4~g"))  # fmt: skip
    on_front = {"filter": "datum.front"}
    return {
        "data": {"columns": columns},
        "height": 260,
        "encoding": {
            "x": {"field": "cost", "type": "quantitative", "scale": {"type": "log", "nice": False, "padding": 45},
                  "axis": {"title": f"{title} (logarithmic)", "format": "~s"}},
            "y": {"field": "accuracy", "type": "quantitative", "scale": {"zero": False},
                  "axis": {"title": _ACCURACY, "format": "%"}},
        },
        "layer": [
            {"transform": [on_front], "mark": {"type": "line", "color": BLUE, "strokeWidth": 1.5}},
            {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9}, "encoding": {
                "color": {"field": "front", "type": "nominal", "legend": None,
                          "scale": {"domain": [True, False], "range": [BLUE, GREY]}}, "tooltip": lines}},
            {"transform": [on_front], "mark": {"type": "text", "align": "right", "dx": -6, "dy": -7},
             "encoding": {"text": {"field": "series"}}},
        ],
    }  # fmt: skip


def cost_figure(results: Sequence[Result]) -> Figure:
    """The same, a panel for each cost."""
    costs = known_costs(results)
    figure = new_figure(4.6 * len(costs), 3.9)
    for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
        front = pareto_front(results, cost)
        shown = [result for result in results if cost_of(result, cost) is not None]
        axes.plot(*_points(shown, cost), "o", color=GREY)
        axes.plot(*_points(front, cost), "o-", color=BLUE)
        for result in front:
            place = cost_of(result, cost), result["logistic_val_accuracy"]
            # To the upper left of the line of the best there is nothing.
            axes.annotate(
                escaped(result["candidate"]), place, (-5, 3), textcoords="offset points", fontsize=7, ha="right"
            )
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.08)
        axes.set_xlabel(COSTS[cost][1])
        _percent(axes, f"{_ACCURACY} (%)")
    return figure


def _points(results: Sequence[Result], cost: str) -> tuple[list[float], list[float]]:
    return [cost_of(one, cost) for one in results], [one["logistic_val_accuracy"] for one in results]


def few_shot(results: Sequence[Result], styles: Mapping[str, Style]) -> Spec:
    """Accuracy over training images of each class: the mean of the draws, and their range."""
    columns: dict[str, list[Any]] = {name: [] for name in ("series", "images", "mean", "low", "high", "draws")}
    for result in results:
        for shots in result["few_shot"]:
            found = shots["accuracies"]
            row = (result["candidate"], shots["images_per_class"], rounded(float(np.mean(found))),
                   rounded(min(found)), rounded(max(found)), len(found))  # fmt: skip
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    title = f"{_split(results)} accuracy"
    lines = hover(("series", "backbone"), ("images", "images of each class", ","), ("mean", title, POINTS),
                  ("low", "lowest draw", POINTS), ("high", "highest draw", POINTS),
                  ("draws", "draws", ","))  # fmt: skip
    return over_images(columns, styles, axis_values=_sizes(results), title=title, lines=lines, height=280)


def few_shot_figure(results: Sequence[Result], styles: Mapping[str, Style]) -> Figure:
    """The same."""
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    for result in results:
        style = styles[result["candidate"]]
        look = {"color": style.color, "linestyle": style.linestyle, "marker": style.marker, "markersize": 4}
        sizes = [shots["images_per_class"] for shots in result["few_shot"]]
        draws = [shots["accuracies"] for shots in result["few_shot"]]
        axes.plot(sizes, [np.mean(found) for found in draws], **look, label=escaped(result["candidate"]))
        axes.vlines(sizes, [min(found) for found in draws], [max(found) for found in draws], color=style.color)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_sizes(results)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training images of each class")
    _percent(axes, f"{_split(results)} accuracy (%)")
    axes.legend(fontsize=7, ncols=1 + len(results) // 12)
    return figure


def _split(results: Sequence[Result]) -> str:
    return {"test": "test", "val": "validation"}[results[0]["few_shot_split"]]


def _sizes(results: Sequence[Result]) -> list[int]:
    return sorted({shots["images_per_class"] for result in results for shots in result["few_shot"]})


def _percent(axes: Axes, label: str) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
