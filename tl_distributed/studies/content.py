"""What the report of a study holds, whatever the format: sections of sentences, a table, and figures."""

import dataclasses
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from tl_distributed.data.records import DatasetInfo
from tl_distributed.reporting.drawing import MOST_CLASSES_DRAWN, MOST_ROWS
from tl_distributed.reporting.scores import MOST_CLASSES_IN_MATRIX
from tl_distributed.studies import findings
from tl_distributed.studies.budget import budget
from tl_distributed.studies.collect import ArmSummary, Pair, Record, at_largest_size, compare_all, summarise
from tl_distributed.studies.figures import Figures
from tl_distributed.studies.findings import percent, points, probability
from tl_distributed.studies.plan import Plan


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts of a table; where the first cell of a row is an arm's name, it is shown in the arm's colour."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure: name of its file without ending, what it shows, and how to draw it on a ground."""

    name: str
    caption: str
    draw: Callable[[Figures], Figure]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()


def make_sections(plan: Plan, records: Sequence[Record], info: DatasetInfo, data_dir: str) -> list[Section]:
    """Returns the report's sections, in order; at least one run is done."""
    summaries = summarise(plan, records)
    arms = at_largest_size(plan, summaries)
    if not arms:  # the largest size has no finished run yet
        arms = [summary for summary in summaries if summary.images_per_class == summaries[-1].images_per_class]
    pairs = compare_all(arms)
    by_name = {arm.name: arm for arm in arms}
    baseline = by_name.get(plan.baseline)
    others = [arm for arm in arms if baseline is not None and arm is not baseline]
    sections = [
        _result(plan, arms, pairs, records),
        _pairs(pairs),
        Section("Training", tuple(findings.fitting(arms)), None, _training_pictures(arms)),
        Section("Which one for which budget", tuple(budget(arms)), None, (
            Picture("accuracy_against_seconds", "Best validation accuracy so far over training time, a line for each "
                    "run.", lambda figures: figures.accuracy_against_seconds(arms)),
        )),
        _efficiency(plan, summaries, info),
        Section("By class", (), None, (
            Picture("per_class_accuracy", _of_classes(info, "Test accuracy of each class, the hardest on top.",
                    f"Test accuracy of the {MOST_ROWS} classes of {info.num_classes:,} that are hardest on average."),
                    lambda figures: figures.per_class_accuracy(arms)),
            *(_confusions(plan, info, arms, others, baseline) if info.num_classes <= MOST_CLASSES_IN_MATRIX else ()),
        )),
        _terms(plan, records, info, data_dir),
    ]  # fmt: skip
    return [section for section in sections if section.sentences or section.table or section.pictures]


def _confusions(
    plan: Plan, info: DatasetInfo, arms: Sequence[ArmSummary], others: Sequence[ArmSummary],
    baseline: ArmSummary | None,
) -> list[Picture]:  # fmt: skip
    matrix = _of_classes(info, "confusion matrix", "what is confused most")
    change = _of_classes(
        info, "percentage points: on the diagonal more is better, off it less",
        "the largest differences in percentage points: more is better where a class is found, worse where it is taken "
        "for another",
    )  # fmt: skip
    return [
        *(Picture(f"confusion_{arm.name}", f"{arm.name}: {matrix}, % of the true class.",
                  lambda figures, arm=arm: figures.confusion(arm)) for arm in arms),
        *(Picture(f"confusion_difference_{arm.name}", f"{arm.name} minus {plan.baseline}, {change}.",
                  lambda figures, arm=arm: figures.confusion_difference(arm, baseline)) for arm in others),
    ]  # fmt: skip


def _of_classes(info: DatasetInfo, few: str, many: str) -> str:
    return few if info.num_classes <= MOST_CLASSES_DRAWN else many


def _result(plan: Plan, arms: Sequence[ArmSummary], pairs: Sequence[Pair], records: Sequence[Record]) -> Section:
    header = (
        "arm", "test accuracy", "validation accuracy", "runs", "parameters", "trainable", "GFLOPs an image, forward",
        "training seconds", "images seen",
    )  # fmt: skip
    rows = tuple(
        (
            arm.name, percent(arm.test_accuracy), percent(arm.spread_of("val_accuracy")), str(len(arm.records)),
            f"{arm.spread_of('parameters').mean:,.0f}", f"{arm.spread_of('trainable_parameters').mean:,.0f}",
            f"{arm.spread_of('forward_flops_per_image').mean / 1e9:.3g}", f"{arm.spread_of('seconds').mean:,.1f}",
            f"{arm.spread_of('images_seen').mean:,.0f}",
        )
        for arm in arms
    )  # fmt: skip
    sentences = (
        *findings.incomplete(records),
        *findings.ranking(arms, plan.baseline, pairs),
        *findings.gain_over_baseline(arms, plan.baseline, pairs),
    )
    picture = Picture(
        "accuracy_comparison", "Test accuracy of each arm.", lambda figures: figures.accuracy_comparison(arms)
    )
    return Section("Result", sentences, Table(header, rows), (picture,))


def _pairs(pairs: Sequence[Pair]) -> Section:
    header = ("arm", "against", "difference", "95 % interval", "only the first right", "only the second right", "p")
    rows = tuple(
        (
            pair.first, pair.second, points(pair.comparison.difference),
            f"{100 * pair.comparison.low + 0.0:+.2f} to {100 * pair.comparison.high + 0.0:+.2f}",
            ", ".join(map(str, pair.comparison.only_first)), ", ".join(map(str, pair.comparison.only_second)),
            probability(pair.adjusted_p),
        )
        for pair in pairs
    )  # fmt: skip
    if not rows:
        return Section("Pairs")
    one_seed = any(pair.comparison.num_seeds == 1 for pair in pairs)
    seeds = "the noise of the test images alone, since one seed shows no other" if one_seed else "the noise of both"
    sentence = (
        "Every two arms on the same test images: the mean over seeds of each image's difference. Images and seeds are "
        f"both a sample; the interval is a t interval that holds {seeds}, and p is its own, by Holm's correction for "
        f"{len(rows)} pair{'s' if len(rows) > 1 else ''}. The counts are images that one arm got right and the other "
        "did not, for each seed."
    )
    return Section("Pairs", (sentence,), Table(header, rows))


def _training_pictures(arms: Sequence[ArmSummary]) -> tuple[Picture, ...]:
    caption = (
        "Accuracy and loss over epochs: mean of the seeds, the band from the lowest to the highest. Training figures "
        "are means over the epoch, with augmentation and dropout on."
    )
    return (Picture("model_comparison", caption, lambda figures: figures.model_comparison(arms)),)


def _efficiency(plan: Plan, summaries: Sequence[ArmSummary], info: DatasetInfo) -> Section:
    sizes = list(dict.fromkeys(run.images_per_class for run in plan.runs))
    if len(sizes) < 2:
        return Section("How much data")
    full = round(info.splits["train"].num_examples / info.num_classes)
    picture = Picture(
        "data_efficiency", "Test accuracy over images of each class; a larger training set includes the smaller ones.",
        lambda figures: figures.data_efficiency(summaries, sizes, full),
    )  # fmt: skip
    header = ("arm", *(f"{size or 'all'} a class" for size in sizes))
    found = {(summary.name, summary.images_per_class): percent(summary.test_accuracy) for summary in summaries}
    rows = tuple((arm.name, *(found.get((arm.name, size), "") for size in sizes)) for arm in plan.arms)
    sentences = tuple(findings.data_efficiency(summaries, plan.baseline))
    return Section("How much data", sentences, Table(header, rows), (picture,))


def _terms(plan: Plan, records: Sequence[Record], info: DatasetInfo, data_dir: str) -> Section:
    counts = ", ".join(f"{split.num_examples:,} {name}" for name, split in info.splits.items())
    height, width, _ = info.image_shape
    seeds = len({run.seed for run in plan.runs})
    sentences = (
        f"Every run: the data set {data_dir} ({counts} images of {height} x {width} px, {info.num_classes} classes); "
        "the epoch with the best validation accuracy is kept; the test images are scored once, with its weights.",
        f"{seeds} seed{'s' if seeds > 1 else ''}: the weights of the head, the order, augmentation and dropout follow "
        "from the seed, and so do the images of a smaller training set, which are the same for every arm.",
        "Seconds are those of training, the first step's compilation and the feature bank of the training images "
        "included, also where another run had built it, and validation not, on "
        f"{', '.join(sorted({_devices(record) for record in records if record.status == 'done'}))}.",
    )
    rows = tuple((arm.name, " ".join(arm.arguments)) for arm in plan.arms)
    return Section("On equal terms", sentences, Table(("arm", "flags of tl_distributed.train"), rows))


def _devices(record: Record) -> str:
    return " and ".join(record.devices)
