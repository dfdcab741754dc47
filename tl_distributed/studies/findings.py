"""What the numbers of a study say, in sentences; every sentence is computed."""

from collections.abc import Sequence

import numpy as np

from tl_distributed.progress import format_number
from tl_distributed.reporting.shown_scores import percentage
from tl_distributed.reporting.spread import Spread
from tl_distributed.studies.collect import ArmSummary, Pair, Record
from tl_distributed.studies.statistics import holm

SIGNIFICANT = 0.05
_MOST_DIGITS = 10
_MOST_NAMED = 3


def percent(spread: Spread) -> str:
    """Returns e.g. `81.25 % ± 0.40`."""
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.2f}"
    return f"{percentage(spread.mean, 2)} %{deviation}"


def points(difference: float) -> str:
    """Returns e.g. `+2.31 points`."""
    return f"{100 * difference + 0.0:+.2f} points"  # + 0.0 makes a zero of a negative one


def probability(value: float) -> str:
    """Returns e.g. `p = 0.012`, `p < 0.0001`; of one below `SIGNIFICANT` so many digits that it is seen to be."""
    if value < 1e-4:
        return "p < 0.0001"
    texts = (f"{value:.{digits}g}" for digits in range(2, _MOST_DIGITS))
    return f"p = {next((text for text in texts if (float(text) < SIGNIFICANT) == (value < SIGNIFICANT)), value)}"


def headline(arms: Sequence[ArmSummary], baseline: str, pairs: Sequence[Pair]) -> str:
    """Returns the study's finding in one sentence: who is best on the test images, and from whom it is told."""
    ordered = sorted(arms, key=lambda arm: -arm.test_accuracy.mean)
    best = ordered[0]
    reached = f"{percentage(best.test_accuracy.mean)} % of the test images right"
    if len(ordered) == 1:
        return f"{best.name} gets {reached}; no other arm has a finished run on as many images to compare it with."
    above = [name for name in (arm.name for arm in ordered[1:]) if is_ahead(_pair(pairs, best.name, name), name)]
    if above:
        return (
            f"No winner: {best.name} leads with {reached} over its own runs, but over the seeds that both have "
            f"{listed(above)} {'has' if len(above) == 1 else 'have'} more, beyond noise."
        )
    level = [
        arm.name for arm in ordered[1:]
        if (pair := _pair(pairs, best.name, arm.name)) is None or pair.adjusted_p >= SIGNIFICANT
    ]  # fmt: skip
    about = " (one seed: said of these runs)" if any(pair.comparison.num_seeds == 1 for pair in pairs) else ""
    if not level:
        end = f"more than {'the other arm' if len(ordered) == 2 else f'each of the other {len(ordered) - 1} arms'}"
        lead = percentage(best.test_accuracy.mean - ordered[1].test_accuracy.mean)
        return f"{best.name} is best: {reached}, {end} by {lead} points or more, beyond noise{about}."
    equal = [arm.name for arm in ordered if arm.test_accuracy.mean == best.test_accuracy.mean]
    if len(equal) > 1:
        others = [arm.name for arm in ordered[len(equal) :]]
        behind = [one for one in others if all(is_ahead(_pair(pairs, name, one), name) for name in equal)]
        rest = f", ahead of {_named(behind)} by more than noise" if behind else ""
        return f"No winner: {_named(equal)} are level with {reached}{rest}{about}."
    if len(level) == len(ordered) - 1:
        which = "two arms" if len(ordered) == 2 else f"{len(ordered)} arms"
        none = "the two arms" if len(ordered) == 2 else f"{best.name} and any other of the {which}"
        return f"No winner: {best.name} leads with {reached}, but {none} are not told apart{about}."
    near = _named(level, "other arms")
    beaten = len(ordered) - 1 - len(level)
    rest = "the remaining arm is" if beaten == 1 else f"the other {beaten} are"
    return f"{best.name} leads with {reached}, not told apart from {near}; {rest} behind by more than noise{about}."


def listed(names: Sequence[str]) -> str:
    """Returns e.g. `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _named(names: Sequence[str], what: str = "arms") -> str:
    return listed(names) if len(names) <= _MOST_NAMED else f"{len(names)} {what}"


def is_ahead(pair: Pair | None, name: str) -> bool:
    """Whether an arm of a pair is better by more than noise, over the seeds that both have.

    That need not be the one with the higher mean, which is over all runs of each.
    """
    if pair is None or pair.adjusted_p >= SIGNIFICANT:
        return False
    return (pair.comparison.difference > 0) == (pair.first == name)


def told_apart(pairs: Sequence[Pair]) -> set[frozenset[str]]:
    """Returns the pairs of arms that differ by more than noise."""
    return {frozenset((pair.first, pair.second)) for pair in pairs if pair.adjusted_p < SIGNIFICANT}


def ranking(arms: Sequence[ArmSummary], baseline: str, pairs: Sequence[Pair]) -> list[str]:
    """Says which arm is best on the test images, and which arms differ by more than noise.

    How far the best and the second are apart is left to `gain_over_baseline` where one of them is the baseline.
    """
    ordered = sorted(arms, key=lambda arm: -arm.test_accuracy.mean)
    best = ordered[0]
    seeds = f"{len(best.records)} seeds" if len(best.records) > 1 else "one seed"
    if len(ordered) == 1:
        return [f"{best.name} reaches {percent(best.test_accuracy)} on the test images ({seeds})."]
    second = ordered[1]
    if best.test_accuracy.mean == second.test_accuracy.mean:
        sentences = [f"{best.name} and {second.name} are level on the test images: {percent(best.test_accuracy)}."]
    else:
        sentences = [
            f"Best on the test images is {best.name} with {percent(best.test_accuracy)} ({seeds}), "
            f"then {second.name} with {percent(second.test_accuracy)}."
        ]
    pair = _pair(pairs, best.name, second.name)
    if pair is not None and baseline not in (best.name, second.name):
        told = verdict(pair, best.name, p_value=pair.adjusted_p, num_pairs=len(pairs))
        sentences.append(f"Between these two: {told}.")
    unclear = [pair for pair in pairs if pair.adjusted_p >= SIGNIFICANT]
    if unclear:
        named = "; ".join(f"{pair.first} and {pair.second}" for pair in unclear)
        sentences.append(f"Not told apart by these runs: {named}.")
    elif len(pairs) > 1:
        sentences.append(f"All {len(pairs)} pairs of arms differ by more than noise.")
    return sentences


def verdict(pair: Pair, first: str, *, p_value: float, num_pairs: int) -> str:
    """Says how far `first` is from the other arm of the pair, and whether that is more than noise.

    Args:
      pair: The comparison.
      first: The arm whose lead is told.
      p_value: Adjusted for the number of pairs that the question compares.
      num_pairs: That number; the interval is of this pair alone.
    """
    correction = f" by Holm's correction for {num_pairs} pairs" if num_pairs > 1 else ""
    comparison, sign = pair.comparison, 1 if pair.first == first else -1
    ends = sorted((sign * comparison.low + 0.0, sign * comparison.high + 0.0))
    ending = "more than noise" if p_value < SIGNIFICANT else "not told from noise"
    if comparison.num_seeds == 1:
        ending += " of the test images, all that one seed can show: it is said of these two runs, not of the methods"
    return (
        f"{points(sign * comparison.difference)}, 95 % interval {100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}, "
        f"{probability(p_value)}{correction}: {ending}"
    )


def _pair(pairs: Sequence[Pair], first: str, second: str) -> Pair | None:
    return next((pair for pair in pairs if {pair.first, pair.second} == {first, second}), None)


def gain_over_baseline(arms: Sequence[ArmSummary], baseline: str, pairs: Sequence[Pair]) -> list[str]:
    """Says what each arm gains over the baseline; p by Holm over these pairs alone, since these were asked for.

    The letters and the headline are of all pairs, by which fewer are told apart: where they differ, it is said.
    """
    if baseline not in [arm.name for arm in arms]:
        return [f"The baseline {baseline} has no finished run on as many images, so nothing is said of gains over it."]
    against = {arm.name: pair for arm in arms if (pair := _pair(pairs, arm.name, baseline)) and arm.name != baseline}
    adjusted = holm([pair.comparison.p_value for pair in against.values()])
    sentences = []
    for (name, pair), p_value in zip(against.items(), adjusted, strict=True):
        alone = p_value < SIGNIFICANT <= pair.adjusted_p
        among_all = f"; among all {len(pairs)} pairs at once the two are not told apart" if alone else ""
        found = verdict(pair, name, p_value=p_value, num_pairs=len(against))
        sentences.append(f"{name} against the baseline {baseline}: {found}{among_all}.")
    return sentences


def fitting(arms: Sequence[ArmSummary]) -> list[str]:
    """Says how far training and validation are apart, and when each arm had converged."""
    sentences = []
    for arm in arms:
        if arm.gap is None:
            sentences.append(f"{arm.name}: no epoch was finished, so there is no curve to judge.")
            continue
        side = "above" if arm.gap >= 0 else "below"
        at_end = sum(record.best_epoch == record.epochs[-1] for record in arm.records if record.epochs)
        of = f"{at_end} of {len(arm.records)} runs" if len(arm.records) > 1 else "the run"
        rising = f" The best epoch of {of} was the last, so longer training may bring more." if at_end else ""
        sentences.append(
            f"{arm.name}: training accuracy is {100 * abs(arm.gap):.1f} points {side} validation at the chosen epoch; "
            f"within a point of its best validation accuracy after epoch {format_number(arm.convergence_epoch)} of "
            f"{format_number(np.mean([record.results['epochs'] for record in arm.records]))}.{rising}"
        )
    return sentences


def compared_size(arms: Sequence[ArmSummary], sizes: Sequence[int]) -> list[str]:
    """Says on how many images the arms that are compared were trained, where that is not the most of the plan.

    Args:
      arms: Those that are compared, of one size.
      sizes: Images of each class of the plan, the most last; 0 is all.
    """
    size = arms[0].images_per_class
    if size == sizes[-1]:
        return []
    most = f"{sizes[-1]} images of each class" if sizes[-1] else "all images"
    return [f"No run with {most} is done: the arms are compared with {size} images of each class."]


def incomplete(records: Sequence[Record]) -> list[str]:
    """Names every run that failed, was not run, or was cut short."""
    failures: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.status == "failed":
            failures.setdefault((record.run.arm.name, record.reason), []).append(str(record.run))
    sentences = [
        f"Failed: {runs[0] if len(runs) == 1 else f'{len(runs)} runs of {name}'}: {reason}."
        for (name, reason), runs in failures.items()
    ]
    missing = sum(record.status == "not run" for record in records)
    if missing:
        sentences.append(f"Not run yet: {missing} of {len(records)} runs; the same command goes on.")
    cut = sum(record.status == "done" and not record.results["finished"] for record in records)
    if cut:
        sentences.append(
            f"Not trained to the end (--max_steps, or made longer since): {cut} of {len(records)} runs; their figures "
            "say little."
        )
    return sentences
