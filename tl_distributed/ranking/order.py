"""The order of the candidates, who is level with the first, the best at each cost, and how to train them."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_distributed.models.plugins import is_own
from tl_distributed.ranking.settings import RankConfig
from tl_distributed.studies.statistics import compare, holm

Result = Mapping[str, Any]  # the content of a `result.json`
COSTS = {
    "seconds": ("seconds_per_1000_images", "seconds for 1,000 images"),
    "macs": ("macs", "multiply-accumulates an image"),
    "parameters": ("parameters", "parameters"),
}
_LONGEST_ENDING = 16  # letters of a file's name, beside a backbone's
_SIGNIFICANT = 0.05


def by_rank(results: Sequence[Result]) -> list[Result]:
    """Returns the results, the one that is best on the validation images first; of equals, that of the higher LogME."""
    return sorted(results, key=lambda result: (-result["logistic_val_accuracy"], -result["logme"]))


def cost_of(result: Result, cost: str) -> float | None:
    """Returns what a candidate costs; `None` where it is not known."""
    return result[COSTS[cost][0]]


def pareto_front(results: Sequence[Result], cost: str) -> list[Result]:
    """Returns those that no other one beats at the same cost or less, the cheapest first."""
    known = [result for result in by_rank(results) if cost_of(result, cost) is not None]
    front: list[Result] = []
    for result in sorted(known, key=lambda result: cost_of(result, cost)):  # stable: of equal costs the better first
        if not front or result["logistic_val_accuracy"] > front[-1]["logistic_val_accuracy"]:
            front.append(result)
    return front


def level_with_first(results: Sequence[Result]) -> list[str]:
    """Returns the names of those that the validation images do not tell from the first, in the order of rank.

    By the paired difference on the same images, at a level of 5 % over all of them (Holm).
    """
    first, *others = by_rank(results)
    if not others:
        return []
    answers = [np.array([[mark == "1" for mark in one["logistic_val_right"]]]) for one in (first, *others)]
    adjusted = holm([compare(answers[0], other).p_value for other in answers[1:]])
    return [other["candidate"] for other, p in zip(others, adjusted, strict=True) if p >= _SIGNIFICANT]


def train_command(result: Result, config: RankConfig) -> str:
    """Returns the command that trains a candidate."""
    flags = {"data_dir": config.data_dir, "backbone": result["backbone"], "image_size": result["image_size"]}
    if result["weights"] == "none":
        flags["transfer"] = "scratch"
    elif result["weights"] not in ("imagenet", "own"):
        flags["weights"] = result["weights"]
    if is_own(result["backbone"]):
        flags |= {"normalization": config.normalization, "pretrained": "true"}
    if config.pooling != "avg":
        flags["pooling"] = config.pooling
    if config.plugin:
        flags["plugin"] = ",".join(config.plugin)
    return shlex.join(["python", "-m", "tl_distributed.train", *(f"--{name}={value}" for name, value in flags.items())])


def with_short_names(results: Sequence[Result]) -> list[Result]:
    """Returns the results with the paths in their candidates' names cut to what a chart has room for; all differ."""
    shown: list[Result] = []
    for one in results:
        name, at, path = one["candidate"].partition("@")
        ending = path.rstrip("/").rsplit("/", 1)[-1]
        short = f"{name}{at}{ending if len(ending) <= _LONGEST_ENDING else ending[: _LONGEST_ENDING - 1] + '…'}"
        same = sum(other["candidate"].partition(" (")[0] == short for other in shown)
        shown.append({**one, "candidate": f"{short} ({same + 1})" if same else short})
    return shown
