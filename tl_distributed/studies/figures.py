"""Static figures of a study. An arm has the same colour, marker and line in all of them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogFormatter, NullLocator, PercentFormatter

from tl_distributed.reporting.drawing import MOST_CLASSES_DRAWN, MOST_ROWS, Style, escaped, new_figure, shortened
from tl_distributed.studies.collect import ArmSummary


class Figures:
    """Draws the figures of one study."""

    def __init__(self, styles: dict[str, Style], class_names: Sequence[str]):
        self._styles, self._class_names = styles, tuple(class_names)

    def model_comparison(self, arms: Sequence[ArmSummary]) -> Figure:
        """Accuracy and loss of training and validation over epochs, mean of the seeds, with their range."""
        figure = new_figure(10, 6.4)
        panels = figure.subplots(2, 2, sharex=True)
        series = (("train_accuracy", "training accuracy (%)"), ("val_accuracy", "validation accuracy (%)"),
                  ("train_loss", "training loss (nats)"), ("val_loss", "validation loss (nats)"))  # fmt: skip
        for axes, (attribute, label) in zip(panels.ravel(), series, strict=True):
            for arm in arms:
                self._curve(axes, arm, lambda epoch, attribute=attribute: getattr(epoch, attribute))
            axes.set_ylabel(label)
            if "accuracy" in attribute:
                _percent(axes.yaxis)
        for axes in panels[1]:
            axes.set_xlabel("epoch")
        return self._finished(figure, panels.ravel(), legend_of=panels[0, 0])

    def _curve(self, axes: Axes, arm: ArmSummary, value: Callable) -> None:
        """Draws the mean over seeds at each epoch that all of them reached, and a band from lowest to highest."""
        curves = [record.epochs for record in arm.records if record.epochs]
        length = min(map(len, curves), default=0)
        if not length:
            return
        values = np.array([[value(epoch) for epoch in curve[:length]] for curve in curves])
        epochs = [epoch.epoch for epoch in curves[0][:length]]
        style = self._styles[arm.name]
        axes.plot(epochs, values.mean(0), **dataclasses.asdict(style), markersize=4, label=arm.name)
        if len(curves) > 1:
            axes.fill_between(epochs, values.min(0), values.max(0), color=style.color, alpha=0.15, linewidth=0)

    def accuracy_comparison(self, arms: Sequence[ArmSummary]) -> Figure:
        """Test accuracy of each arm with its 95 % interval, the best on top, on an axis that fits them."""
        figure = new_figure(9, 0.9 + 0.36 * len(arms))
        axes = figure.subplots()
        ordered = sorted(arms, key=lambda arm: arm.test_accuracy.mean)
        for place, arm in enumerate(ordered):
            style = self._styles[arm.name]
            axes.hlines(place, *arm.test_interval, color=style.color, linewidth=2)
            if len(arm.records) > 1:
                runs = [record.results["test_accuracy"] for record in arm.records]
                axes.plot(runs, [place] * len(runs), "|", color=style.color, markersize=9, alpha=0.6)
            axes.plot([arm.test_accuracy.mean], [place], style.marker, color=style.color, markersize=8)
        axes.set_yticks(range(len(ordered)), [escaped(arm.name) for arm in ordered])
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        _percent(axes.xaxis)
        axes.set_xlabel("test accuracy (%) with its 95 % interval")
        return self._finished(figure, [axes])

    def per_class_accuracy(self, arms: Sequence[ArmSummary]) -> Figure:
        """Accuracy of each class with test images, the hardest on average on top; of many, the hardest."""
        accuracies = np.array([arm.per_class_accuracy for arm in arms])
        means = accuracies.mean(0)
        order = np.argsort(-means, kind="stable")[: np.count_nonzero(~np.isnan(means))]  # NaN is last
        if len(order) > MOST_CLASSES_DRAWN:
            order = order[-MOST_ROWS:]
        figure = new_figure(9, min(1.6 + (0.3 + 0.06 * len(arms)) * len(order), 24.0))
        axes = figure.subplots()
        shifts = np.linspace(0.22, -0.22, len(arms)) if len(arms) > 1 else [0.0]  # equal values stay visible
        for arm, values, shift in zip(arms, accuracies, shifts, strict=True):
            style, places = self._styles[arm.name], np.arange(len(order)) + shift
            axes.plot(values[order], places, style.marker, color=style.color, label=arm.name, markersize=6)
        axes.set_yticks(range(len(order)), [shortened(self._class_names[index]) for index in order])
        axes.set_xlim(-0.02, 1.02)
        _percent(axes.xaxis)
        axes.set_xlabel("test accuracy of the class (%)")
        return self._finished(figure, [axes], legend_of=axes)

    def data_efficiency(self, summaries: Sequence[ArmSummary], sizes: Sequence[int], full_size: int) -> Figure:
        """Test accuracy over the size of the training set, on a logarithmic axis: mean of the seeds, and their range.

        Args:
          summaries: Of all sizes.
          sizes: Images per class of the plan, 0 for all.
          full_size: Where "all" is drawn, in images per class.
        """
        figure = new_figure(9, 5.2)
        axes = figure.subplots()
        place = {size: size or full_size for size in sizes}
        for name, style in self._styles.items():
            own = sorted((arm for arm in summaries if arm.name == name), key=lambda arm: place[arm.images_per_class])
            if own:
                spreads = [arm.test_accuracy for arm in own]
                ends = [[one.mean - one.low for one in spreads], [one.high - one.mean for one in spreads]]
                axes.errorbar(
                    [place[arm.images_per_class] for arm in own], [one.mean for one in spreads],
                    yerr=np.maximum(ends, 0.0), capsize=3, **dataclasses.asdict(style), label=name,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(place.values())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{value:g}" for value in sorted(place.values())])
        _percent(axes.yaxis)
        axes.set_xlabel("training images per class (logarithmic)")
        axes.set_ylabel("test accuracy (%)")
        return self._finished(figure, [axes], legend_of=axes)

    def accuracy_against_seconds(self, arms: Sequence[ArmSummary]) -> Figure:
        """Best validation accuracy so far over training seconds, a line for each run."""
        figure = new_figure(9, 5.2)
        axes = figure.subplots()
        for arm in arms:
            for index, record in enumerate(arm.records):
                if record.epochs:
                    best = np.maximum.accumulate([epoch.val_accuracy for epoch in record.epochs])
                    style = dataclasses.asdict(self._styles[arm.name])
                    axes.step(
                        [epoch.seconds for epoch in record.epochs], best, where="post", **style, markersize=4,
                        label=arm.name if index == 0 else None,
                    )  # fmt: skip
        axes.set_xscale("log")
        for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            set_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.set_xlabel("training time (seconds, logarithmic; feature bank counted, validation not)")
        axes.set_ylabel("best validation accuracy so far (%)")
        _percent(axes.yaxis)
        return self._finished(figure, [axes], legend_of=axes)

    def _finished(self, figure: Figure, panels: Sequence[Axes], *, legend_of: Axes | None = None) -> Figure:
        """Puts the grid and the legend, below all panels."""
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            axes.grid(alpha=0.25)
        if legend_of is not None:
            handles, labels = legend_of.get_legend_handles_labels()
            if handles:
                names = [escaped(label) for label in labels]
                figure.legend(handles, names, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        return figure


def _percent(axis: object) -> None:
    axis.set_major_formatter(PercentFormatter(1.0, symbol=""))
