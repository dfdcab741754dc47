"""What the report of a study holds, whatever the format: the finding, the ranking, and sections below them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from tl_distributed.data.records import DatasetInfo
from tl_distributed.reporting.drawing import MOST_CLASSES_DRAWN, drawn_classes, figure_png, figure_svg, series_styles
from tl_distributed.reporting.image_errors import ReadPictures, errors_section
from tl_distributed.reporting.mistakes import Group
from tl_distributed.reporting.page.heatmap import confusion
from tl_distributed.reporting.page.render import Cell, Plot, Table, words
from tl_distributed.reporting.page.section import About, Section
from tl_distributed.reporting.page.series import swatch
from tl_distributed.reporting.shown_scores import percentage
from tl_distributed.studies import charts, findings
from tl_distributed.studies.about import about_study, equal_terms
from tl_distributed.studies.budget import budget
from tl_distributed.studies.collect import (
    ArmSummary,
    Pair,
    Record,
    at_largest_size,
    compare_all,
    same_images,
    summarise,
)
from tl_distributed.studies.efficiency import data_efficiency
from tl_distributed.studies.figures import Figures
from tl_distributed.studies.plan import Plan
from tl_distributed.studies.ranking import all_numbers, by_rank, pair_matrix, ranked_table

_MOST_PAIRS = 30  # of classes that are confused


@dataclasses.dataclass(frozen=True)
class Report:
    """A report; `pictures` are its static figures as PNG files, by the names of their plots."""

    title: str
    finding: str
    warnings: tuple[str, ...]
    ranking: Table
    accuracy: Plot
    sections: tuple[Section, ...]
    about: About
    pictures: dict[str, bytes]


def make_report(
    plan: Plan, records: Sequence[Record], info: DatasetInfo, *, data_dir: str, workdir: str, read: ReadPictures
) -> Report:
    """Returns the report; at least one run is done.

    Args:
      plan: What was to be run.
      records: What was left by each run of it.
      info: Manifest of the data set.
      data_dir: The data set's folder.
      workdir: The study's folder.
      read: Returns the pictures at places of the test split.
    """
    summaries = summarise(plan, records)
    return _Builder(plan, records, info, at_largest_size(plan, summaries), summaries).report(data_dir, workdir, read)


class _Builder:
    def __init__(
        self, plan: Plan, records: Sequence[Record], info: DatasetInfo, arms: list[ArmSummary],
        summaries: list[ArmSummary],
    ):  # fmt: skip
        self._plan, self._records, self._info, self._arms, self._summaries = plan, records, info, arms, summaries
        self._pairs: list[Pair] = compare_all(arms)
        self._styles = series_styles([arm.name for arm in plan.arms])
        self._swatches = {name: swatch(style) for name, style in self._styles.items()}
        self._figures = Figures(self._styles, info.class_names)
        self._pictures: dict[str, bytes] = {}

    def report(self, data_dir: str, workdir: str, read: ReadPictures) -> Report:
        arms, plan = self._arms, self._plan
        several = any(len(arm.records) > 1 for arm in arms)
        caption = "Test accuracy of each arm with its 95 % interval" + ("; a tick is one run." if several else ".")
        accuracy = self._plot(
            "accuracy_comparison", caption,
            (charts.accuracy(arms, self._styles),), self._figures.accuracy_comparison(arms), legend=False,
        )  # fmt: skip
        sections = (
            self._comparison(), self._training(), self._budget(), self._efficiency(), self._by_class(),
            self._errors(read),
            equal_terms(plan, self._records, self._info, data_dir=data_dir, workdir=workdir),
        )  # fmt: skip
        num_images = self._info.splits["test"].num_examples
        return Report(
            title=f"{len(plan.arms)} ways of training, compared on {num_images:,} test images",
            finding=findings.headline(arms, plan.baseline, self._pairs),
            warnings=(
                *findings.compared_size(arms, [run.images_per_class for run in plan.runs]),
                *findings.incomplete(self._records),
            ),
            ranking=ranked_table(arms, self._pairs, self._swatches),
            accuracy=accuracy,
            sections=tuple(section for section in sections if not section.is_empty),
            about=about_study(plan, self._records, self._info, data_dir=data_dir, workdir=workdir),
            pictures=self._pictures,
        )

    def _plot(
        self, name: str, caption: str, specs: tuple[charts.Spec, ...], figure: Figure,
        choices: Mapping[str, charts.Spec] | None = None, legend: bool = True,
    ) -> Plot:  # fmt: skip
        self._pictures[name] = figure_png(figure)
        shown = {arm.name: self._swatches[arm.name] for arm in self._arms} if legend else {}
        return Plot(name, caption, specs, figure_svg(figure, name), dict(choices or {}), shown)

    def _comparison(self) -> Section:
        sentences = (
            *findings.ranking(self._arms, self._plan.baseline, self._pairs)[:1],
            *findings.gain_over_baseline(self._arms, self._plan.baseline, self._pairs),
        )
        told = len(findings.told_apart(self._pairs))
        summary = f"{told} of {len(self._pairs)} pairs told apart" if self._pairs else ""
        return Section(
            "comparison", "Pair by pair, and all numbers", summary, sentences,
            matrix=pair_matrix(self._arms, self._pairs, self._swatches),
            tables=(all_numbers(self._arms, self._swatches),),
        )  # fmt: skip

    def _training(self) -> Section:
        caption = (
            "Accuracy and loss: mean of the seeds, the band from the lowest to the highest. Training figures are means "
            "over the epoch, with augmentation and dropout on."
        )
        specs, choices = charts.curves(self._arms, self._styles)
        figure = self._figures.model_comparison(self._arms)
        plot = self._plot("model_comparison", caption, specs, figure, choices)
        return Section(
            "training", "Training", "curves by epoch and by seconds", tuple(findings.fitting(self._arms)), (plot,)
        )

    def _budget(self) -> Section:
        plot = self._plot(
            "accuracy_against_seconds", "Best validation accuracy so far over training time, a line for each run; the "
            "feature bank is counted, validation is not.", (charts.against_seconds(self._arms, self._styles),),
            self._figures.accuracy_against_seconds(self._arms),
        )  # fmt: skip
        return Section("budget", "Which one for which budget", "", tuple(budget(self._arms)), (plot,))

    def _efficiency(self) -> Section:
        sizes = list(dict.fromkeys(run.images_per_class for run in self._plan.runs))
        if len(sizes) < 2:
            return Section("data", "How much data")
        full = max(self._info.splits["train"].counts_per_class.values())  # a size so large takes all of every class
        plot = self._plot(
            "data_efficiency", "Test accuracy over images of each class, lines from the lowest to the highest seed; a "
            "larger training set includes the smaller ones.",
            (charts.data_efficiency(self._summaries, self._styles, sizes, full),),
            self._figures.data_efficiency(self._summaries, sizes, full),
        )  # fmt: skip
        found = {(one.name, one.images_per_class): one.test_accuracy for one in self._summaries}
        rows = []
        for arm in by_rank(self._arms):
            spreads = [found.get((arm.name, size)) for size in sizes]
            cells = (Cell(findings.percent(one), one.mean) if one else Cell("") for one in spreads)
            rows.append((Cell(arm.name, numeric=False, swatch=self._swatches[arm.name]), *cells))
        table = Table(
            ("arm", *(f"{size or 'all'} a class" for size in sizes)), tuple(rows), "Test accuracy, ± as above."
        )
        sentences = tuple(data_efficiency(self._summaries, self._plan.baseline))
        return Section("data", "How much data", f"{len(sizes)} sizes", sentences, (plot,), (table,))

    def _by_class(self) -> Section:
        names, num_classes = self._info.class_names, self._info.num_classes
        scored = int(np.count_nonzero(~np.isnan(self._arms[0].per_class_accuracy)))
        plots = [self._plot(
            "per_class_accuracy", f"Test accuracy of {drawn_classes(scored, 'hardest')}, the hardest on top.",
            (charts.by_class(self._arms, self._styles, names),), self._figures.per_class_accuracy(self._arms),
        )]  # fmt: skip
        if num_classes <= MOST_CLASSES_DRAWN:
            spec = confusion({arm.name: arm.confusion for arm in by_rank(self._arms)}, names)
            caption = (
                "Confusion matrix of one arm, shares of the true class; the table below holds what is confused most."
            )
            plots.append(Plot("confusion", caption, (spec,), ""))
        return Section("classes", "By class", f"{num_classes:,} classes", plots=tuple(plots), tables=self._confused())

    def _confused(self) -> tuple[Table, ...]:
        """Returns the pairs of classes that are confused most, mean of the arms, with the share under each arm."""
        num_classes, names, arms = self._info.num_classes, self._info.class_names, by_rank(self._arms)
        shares: list[dict[int, float]] = []
        for arm in arms:
            answers = [record.answers for record in arm.records]
            labels = np.concatenate([one.labels for one in answers]).astype(np.int64)
            predictions = np.concatenate([one.predictions for one in answers])
            supports = np.bincount(labels, minlength=num_classes)
            wrong = labels != predictions
            places, counts = np.unique(labels[wrong] * num_classes + predictions[wrong], return_counts=True)
            own = counts / supports[places // num_classes]
            shares.append(dict(zip(places.tolist(), own.tolist(), strict=True)))
        totals: dict[int, float] = {}
        for own in shares:
            for place, share in own.items():
                totals[place] = totals.get(place, 0.0) + share
        first = sorted(totals, key=lambda place: (-totals[place], place))[:_MOST_PAIRS]
        if not first:
            return ()
        rows = tuple(
            (
                words(names[place // num_classes]), words(names[place % num_classes]),
                *(Cell(percentage(own.get(place, 0.0)), own.get(place, 0.0)) for own in shares),
            )
            for place in first
        )  # fmt: skip
        header = ("true class", "taken for", *(f"{arm.name} (%)" for arm in arms))
        note = "Pairs of classes that are confused most, mean of the arms: shares of the true class's images."
        return (Table(header, rows, note, "What is confused most"),)

    def _errors(self, read: ReadPictures) -> Section:
        arms, first = self._arms, self._arms[0].records[0]
        answers = {arm.name: same_images(arm.records, first) for arm in arms}
        groups = {name: Group.of(given) for name, given in answers.items()}
        runs = [one for given in answers.values() for one in given]
        return errors_section(groups, runs, by_rank(arms)[0].name, self._info.class_names, read)
