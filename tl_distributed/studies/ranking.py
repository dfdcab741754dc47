"""The first screen of a study's report: arms by rank, and how far any two of them are apart."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tl_distributed.reporting.page.render import Cell, Table, words
from tl_distributed.reporting.page.section import Matrix, MatrixCell, MatrixRow
from tl_distributed.reporting.shown_scores import SHOWN_SCORES, percentage, scores_of, written
from tl_distributed.reporting.spread import Spread
from tl_distributed.studies.collect import ArmSummary, Pair
from tl_distributed.studies.findings import points, probability, told_apart
from tl_distributed.studies.letters import significance_letters


def by_rank(arms: Sequence[ArmSummary]) -> list[ArmSummary]:
    """Returns the arms, the best on the test images first."""
    return sorted(arms, key=lambda arm: -arm.test_accuracy.mean)


def ranked_table(arms: Sequence[ArmSummary], pairs: Sequence[Pair], swatches: Mapping[str, Markup]) -> Table:
    """Returns what one wants to know of each arm at a glance."""
    ordered = by_rank(arms)
    letters = significance_letters([arm.name for arm in ordered], told_apart(pairs))
    header = (
        "arm", "test accuracy (%)", "95 % interval", "letters", "trained parameters", "training seconds", "images seen",
    )  # fmt: skip
    rows = tuple(
        (
            Cell(arm.name, numeric=False, swatch=swatches[arm.name]),
            Cell(_percent(arm.test_accuracy), arm.test_accuracy.mean),
            Cell(" to ".join(percentage(end, 2) for end in arm.test_interval), arm.test_interval[0]),
            words(letters[arm.name]),
            *(_count(arm.spread_of(name), form) for name, form in _COUNTS),
        )
        for arm in ordered
    )
    return Table(header, rows, _note(ordered, len(pairs)))


_COUNTS = (("trainable_parameters", ",.0f"), ("seconds", ",.1f"), ("images_seen", ",.0f"))


def _percent(spread: Spread) -> str:
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.2f}"
    return f"{percentage(spread.mean, 2)}{deviation}"


def _count(spread: Spread, form: str) -> Cell:
    return Cell(format(spread.mean, form), spread.mean)


def _note(arms: Sequence[ArmSummary], num_pairs: int) -> str:
    counts = sorted({len(arm.records) for arm in arms})
    if counts[-1] > 1:
        seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
        spread = (
            f"± is the standard deviation over the runs of an arm ({seeds} seeds); the interval is of their mean, and "
            "takes both the seeds and the test images as samples"
        )
        spread += "; of one run, the test images alone (Wilson's)." if counts[0] == 1 else "."
    else:
        spread = "One run an arm: the interval holds the noise of the test images alone (Wilson's)."
    if not num_pairs:
        return spread
    return (
        f"{spread} Arms that share a letter are not told apart (p ≥ 0.05 by Holm's correction for {num_pairs} pairs)."
    )


def all_numbers(arms: Sequence[ArmSummary], swatches: Mapping[str, Markup]) -> Table:
    """Returns the figures that the first screen has no room for."""
    scores = [
        (name, title)
        for name, title, _ in SHOWN_SCORES
        if all(name in scores_of(r.results) for a in arms for r in a.records)
    ]
    header = (
        "arm", "runs", "validation accuracy (%)", *(title for _, title in scores), "parameters",
        "GFLOPs an image, forward",
    )  # fmt: skip
    rows = []
    for arm in by_rank(arms):
        val, flops = arm.spread_of("val_accuracy"), arm.spread_of("forward_flops_per_image").mean / 1e9
        means = [Spread.of([scores_of(record.results)[name] for record in arm.records]).mean for name, _ in scores]
        rows.append((
            Cell(arm.name, numeric=False, swatch=swatches[arm.name]), Cell(str(len(arm.records)), len(arm.records)),
            Cell(_percent(val), val.mean),
            *(Cell(written(name, mean), mean) for (name, _), mean in zip(scores, means, strict=True)),
            _count(arm.spread_of("parameters"), ",.0f"), Cell(f"{flops:.3g}", flops),
        ))  # fmt: skip
    return Table(header, tuple(rows), "Means over the runs of an arm; ± as above.")


def pair_matrix(arms: Sequence[ArmSummary], pairs: Sequence[Pair], swatches: Mapping[str, Markup]) -> Matrix | None:
    """Returns how much each arm (row) has more than each other (column), in points of test accuracy."""
    names = [arm.name for arm in by_rank(arms)]
    largest = max((abs(pair.comparison.difference) for pair in pairs), default=0.0)
    cells = {}
    for pair in pairs:
        for sign, key in ((1, (pair.first, pair.second)), (-1, (pair.second, pair.first))):
            cells[key] = _matrix_cell(pair, sign, key, largest)
    rows = tuple(MatrixRow(name, swatches[name], tuple(cells.get((name, other)) for other in names)) for name in names)
    alone = [pair for pair in pairs if pair.comparison.num_seeds == 1]
    kinds = "the noise of the test images alone" if alone else "both"
    if 0 < len(alone) < len(pairs):
        kinds = "both; of two arms that share one seed, the noise of the test images alone"
    note = (
        "Row minus column, in points of test accuracy on the same test images: the mean over seeds of each image's "
        f"difference. Bold: told apart (p < 0.05, Holm's correction for {len(pairs)} pairs). Images and seeds are both "
        f"samples; the t interval, shown on hover, holds {kinds}."
    )
    return Matrix(tuple(names), rows, note) if pairs else None


def _matrix_cell(pair: Pair, sign: int, key: tuple[str, str], largest: float) -> MatrixCell:
    comparison = pair.comparison
    difference = sign * comparison.difference + 0.0
    low, high = sorted((sign * comparison.low + 0.0, sign * comparison.high + 0.0))
    only = (comparison.only_first, comparison.only_second)[::sign]
    hover = (
        f"{key[0]} minus {key[1]}: {points(difference)}, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}, "
        f"{probability(pair.adjusted_p)}. Only {key[0]} right: {', '.join(map(str, only[0]))} images; only {key[1]}: "
        f"{', '.join(map(str, only[1]))} (for each seed)."
    )
    told = frozenset(key) in told_apart([pair])
    strength = 0.45 * abs(difference) / largest if largest else 0.0
    return MatrixCell(f"{100 * difference:+.2f}", difference, strength if told else strength / 3, told, hover)
