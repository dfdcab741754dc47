"""Who leads at which size of the training set, how many images buy what, and whether the test images can tell."""

import itertools
from collections.abc import Mapping, Sequence

from tl_distributed.studies.collect import ArmSummary, compare_all, compare_arms
from tl_distributed.studies.findings import SIGNIFICANT, is_ahead, listed, percent
from tl_distributed.studies.statistics import holm


def data_efficiency(summaries: Sequence[ArmSummary], baseline: str) -> list[str]:
    """Says who is best at each size, and how many images an arm needs to do what the baseline does with most.

    Args:
      summaries: Of all arms and sizes, sizes in the plan's order.
      baseline: The arm that others are measured by.
    """
    sizes = list(dict.fromkeys(summary.images_per_class for summary in summaries))
    if len(sizes) < 2:
        return []
    at = {size: [summary for summary in summaries if summary.images_per_class == size] for size in sizes}
    best = {size: max(arms, key=lambda arm: arm.test_accuracy.mean) for size, arms in at.items()}
    level = {size: _level_with(best[size].name, arms) for size, arms in at.items()}
    leads = "; ".join(_lead(arm, level[size]) for size, arm in best.items())
    changes = [
        _change(smaller, larger, best, level)
        for smaller, larger in itertools.pairwise(sizes)
        if best[smaller].name != best[larger].name
        and all(
            {best[smaller].name, best[larger].name} <= {arm.name for arm in at[size]} for size in (smaller, larger)
        )  # else one of the two has no run yet to have led or lost with
    ]
    return [f"Best by images of each class: {leads}.", *changes, *_reached(summaries, baseline)]


def _level_with(name: str, arms: Sequence[ArmSummary]) -> list[str]:
    """Returns the arms that an arm is not told to be ahead of, also where they share no seed to be compared by."""
    pairs = compare_all(arms)
    behind = {other for pair in pairs if is_ahead(pair, name) for other in (pair.first, pair.second)}
    return [arm.name for arm in arms if arm.name not in {name, *behind}]


def _lead(arm: ArmSummary, level: Sequence[str]) -> str:
    told = f", not told apart from {listed(level)}" if level else ""
    return f"{_size(arm)}: {arm.name} ({percent(arm.test_accuracy)}){told}"


def _change(smaller: int, larger: int, best: Mapping[int, ArmSummary], level: Mapping[int, Sequence[str]]) -> str:
    before, after = best[smaller], best[larger]
    unclear = [_size(best[size]) for size, other in ((smaller, after), (larger, before)) if other.name in level[size]]
    between = f"between {_size(before)} and {_size(after)} images of each class"
    if not unclear:
        return f"The lead passes from {before.name} to {after.name} {between}."
    return (
        f"The lead passes from {before.name} to {after.name} {between}; with {listed(unclear)} they are not told apart."
    )


def _reached(summaries: Sequence[ArmSummary], baseline: str) -> list[str]:
    """Says with how many images each arm first does what the baseline does with most; p by Holm over these pairs."""
    most = [summary for summary in summaries if summary.name == baseline][-1:]
    if not most:
        return []
    target = f"what {baseline} reaches with {_size(most[0])} ({percent(most[0].test_accuracy)})"
    first: dict[str, ArmSummary | None] = {}
    for summary in summaries:
        enough = summary.test_accuracy.mean >= most[0].test_accuracy.mean
        if summary.name != baseline and first.get(summary.name) is None:
            first[summary.name] = summary if enough else None
    compared = {
        name: comparison
        for name, summary in first.items()
        if summary and (comparison := compare_arms(summary, most[0]))
    }
    p_values = holm([comparison.p_value for comparison in compared.values()])
    more = [name for name, p in zip(compared, p_values, strict=True)
            if p < SIGNIFICANT and compared[name].difference > 0]  # fmt: skip
    sentences = []
    for name, summary in first.items():
        if summary is None:
            sentences.append(f"{name} does not reach {target} at any size tried.")
            continue
        told = "" if name in more else "; the two are not told apart"
        sentences.append(f"{name} reaches {target} with {_size(summary)} ({percent(summary.test_accuracy)}{told}).")
    return sentences


def _size(arm: ArmSummary) -> str:
    return f"{arm.images_per_class}" if arm.images_per_class else "all"
