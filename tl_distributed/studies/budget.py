"""Which arm leads from which training time on, and whether validation can tell."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from tl_distributed.progress import format_number
from tl_distributed.reporting.shown_scores import percentage
from tl_distributed.studies.collect import ArmSummary
from tl_distributed.studies.findings import points
from tl_distributed.studies.statistics import Part, half_width


@dataclasses.dataclass(frozen=True)
class Lead:
    """From when on an arm has the best mean validation accuracy.

    Attributes:
      seconds: Of training.
      arm: Its name.
      accuracy: Its best mean validation accuracy there, in [0, 1].
      over: What it has more than the arm that led before, or `None` of the first.
      noise: What it would have to have more, to be told from the noise of validation images and seeds.
    """

    seconds: float
    arm: str
    accuracy: float
    over: float | None
    noise: float


def best_by_time(arms: Sequence[ArmSummary]) -> list[Lead]:
    """Returns who leads from when on, in order of time.

    An arm counts from the moment at which all of its runs have been validated once.
    """
    runs = {arm.name: arm for arm in arms if all(record.epochs for record in arm.records)}
    times = sorted({epoch.seconds for arm in runs.values() for record in arm.records for epoch in record.epochs})
    leads: list[Lead] = []
    for seconds in times:
        best = {name: _best_until(arm, seconds) for name, arm in runs.items()}
        scores = {name: float(np.mean(found)) for name, found in best.items() if found is not None}
        # Who leads is overtaken by more alone: of equals it stays.
        leader = max(scores, key=lambda name: (scores[name], bool(leads) and name == leads[-1].arm), default=None)
        if leader is None or (leads and leads[-1].arm == leader):
            continue
        before = leads[-1].arm if leads else None
        over = scores[leader] - scores[before] if before else None
        noise = _noise(runs[leader], best[leader], best[before]) if before else 0.0
        leads.append(Lead(seconds, leader, scores[leader], over, noise))
    return leads


def _best_until(arm: ArmSummary, seconds: float) -> list[float] | None:
    """Returns each run's best validation accuracy so far, or `None` where one has none yet."""
    best = [
        max((e.val_accuracy for e in record.epochs if e.seconds <= seconds), default=None) for record in arm.records
    ]
    return None if None in best else best


def _noise(arm: ArmSummary, *accuracies: Sequence[float]) -> float:
    """Returns the half width of a 95 % interval of a difference of mean accuracies, as if of images of their own.

    Only the scores of validation are kept, not its answers, so that nothing can be paired; this is the wider. Seeds
    are taken to vary alike in both arms: two of each would else say next to nothing.
    """
    num_images = arm.records[0].results["num_examples"]["val"]
    images = sum(np.mean(values) * (1 - np.mean(values)) / num_images for values in accuracies)
    several = [values for values in accuracies if len(values) > 1]
    noise = [Part(images, max(len(accuracies) * (num_images - 1), 1))]
    if several:
        seeds = sum(np.var(values, ddof=1) / len(values) for values in several)
        noise.append(Part(seeds, sum(len(values) - 1 for values in several)))
    return half_width(noise)


def budget(arms: Sequence[ArmSummary]) -> list[str]:
    """Says which arm is best for which training time."""
    leads = best_by_time(arms)
    if not leads:
        return []
    times = [format_number(lead.seconds) for lead in leads]
    ends = [*(f"to {time} s" for time in times[1:]), "on"]
    spans = [
        f"from {time} {'s ' * (end == 'on')}{end} {lead.arm} leads"
        for time, lead, end in zip(times, leads, ends, strict=True)
    ]
    cheapest = min(arms, key=lambda arm: arm.spread_of("seconds").mean)
    least = format_number(cheapest.spread_of("seconds").mean)
    sentences = [f"By training time: {'; '.join(spans)}, with {percentage(leads[-1].accuracy)} % there."]
    sentences += [
        f"That {lead.arm} overtakes {before.arm} at {time} s is not told from noise: {points(lead.over)}, "
        f"where validation and seeds tell {100 * lead.noise:.2f} apart."
        for time, (before, lead) in zip(times[1:], itertools.pairwise(leads), strict=True)
        if lead.over <= lead.noise
    ]
    return [*sentences, f"The whole training of {cheapest.name} takes least: {least} s."]
