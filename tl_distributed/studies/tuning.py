"""`--tune=learning_rate:N`: a small grid of rates for every arm, so that none is judged by a rate that suits another.

N rates around the arm's own, each half a decade from the next, are tried with one seed on the largest training set; the
one that is best on the validation images, by the arm's `--select_by`, is that of all the arm's runs. What was tried and
what it cost is noted in `tuning/ARM/tuning.json`, and the choice stays.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.files import read_json, write_json
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.plan import Arm, Plan, Run
from tl_distributed.training.selection import validation_of
from tl_distributed.training.tasks import Classification

TUNING_FILE = "tuning.json"
_STEP = math.sqrt(10)
_RATES = ("learning_rate", "finetune_learning_rate")
_MOST = 9
_RunPlan = Callable[[Plan], int]


@dataclasses.dataclass(frozen=True)
class TuningRun(Run):
    """A try of one arm; its `arm` is named ARM/xFACTOR."""

    @property
    def folder(self) -> str:
        """Apart from the runs that are compared."""
        return f"tuning/{self.arm.name}"

    def __str__(self) -> str:
        return f"tuning {self.arm.name}"


def grid_factors(tune: str) -> tuple[float, ...]:
    """Returns the factors on the arm's own rates of `--tune`'s value, the smallest first; none where it is empty.

    An odd number has the arm's own rate in its middle, an even one has one more below it than above.

    Raises:
      UserError: Not learning_rate:N.
    """
    if not tune:
        return ()
    match = re.fullmatch(r"learning_rate:(\d{1,3})", tune)
    count = int(match[1]) if match else 0
    if not 2 <= count <= _MOST:
        raise UserError(f"--tune={tune}: takes learning_rate:N, where N is from 2 to {_MOST}, e.g. learning_rate:3")
    return tuple(_STEP ** (place - count // 2) for place in range(count))


def tune_arms(plan: Plan, tune: str, workdir: str, workers: Workers, run_plan: _RunPlan, *, may_train: bool) -> None:
    """Runs and notes what is needed to know the rates of all arms that have runs in the plan.

    Args:
      plan: Not tuned.
      tune: Value of `--tune`; empty tunes nothing.
      workdir: The study's folder.
      workers: The study's processes, which all call it.
      run_plan: Runs what has not been run of a plan.
      may_train: False where an arm that is not tuned yet is the user's mistake.

    Raises:
      UserError: Another `--tune` than that of the study so far, or arms that should have been tuned before.
    """
    factors, notes = grid_factors(tune), _shared_notes(workdir, workers)
    _check_same_grid(notes, tune, workdir)
    missing = [arm for arm in dict.fromkeys(run.arm for run in plan.runs) if arm.name not in notes]
    if not factors or not missing:
        return
    if workers.is_chief:
        _refuse_untuned_runs(missing, plan, workdir)
    if not may_train:
        raise UserError(
            f"--tune={tune}: {missing[0].name} has not been tuned yet, which tasks of single runs cannot do for one "
            "another; first start a task for each arm (--arm_index)"
        )
    tries = {arm.name: _tries(arm, factors, plan.runs[-1].images_per_class) for arm in missing}
    run_plan(dataclasses.replace(plan, runs=tuple(run for own in tries.values() for run in own)))
    for arm in missing if workers.is_chief else ():
        note = _choose(arm, tries[arm.name], factors, workdir)
        # A file for each arm: tasks on other machines tune theirs at the same time.
        write_json(f"{workdir}/tuning/{arm.name}/{TUNING_FILE}", {"tune": tune, **note})


def at_tuned_rates(plan: Plan, workdir: str, workers: Workers) -> Plan:
    """Returns the plan with the rates that were chosen for its arms; arms that were not tuned stay as they are."""
    notes = _shared_notes(workdir, workers)
    tuned = {arm: _at(arm, notes[arm.name]["factor"]) for arm in plan.arms if arm.name in notes}
    return dataclasses.replace(
        plan,
        arms=tuple(tuned.get(arm, arm) for arm in plan.arms),
        runs=tuple(dataclasses.replace(run, arm=tuned.get(run.arm, run.arm)) for run in plan.runs),
    )


def _shared_notes(workdir: str, workers: Workers) -> dict[str, dict[str, Any]]:
    return workers.from_chief("tuning", _read(workdir) if workers.is_chief else None)


def tuning_sentence(workdir: str) -> str:
    """Says how the arms came by their learning rates, and what that cost."""
    notes = _read(workdir)
    if not notes:
        return "Learning rates are those that the arms' flags give; none was tuned."
    tried = [one for note in notes.values() for one in note["tried"]]
    failed = sum(one["score"] is None for one in tried)
    factors = ", ".join(f"{one['factor']:.3g}" for one in next(iter(notes.values()))["tried"])
    seconds = sum(one["seconds"] or 0.0 for one in tried)
    chosen = "; ".join(
        f"{name} {note['rate']:.3g} ({note['factor']:.3g} times its own)" for name, note in notes.items()
    )
    return (
        "Learning rates were tuned on the validation images, for each arm with seed 0 on the largest training set: its "
        f"own rate times {factors}. That cost {len(tried)} runs and {seconds:,.1f} s of training beside the runs that "
        f"are compared{f'; {failed} of them failed' if failed else ''}. Chosen: {chosen}."
    )


def _read(workdir: str) -> dict[str, dict[str, Any]]:
    """Returns the note of each arm that has been tuned, by name."""
    folder = f"{workdir}/tuning"
    names = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder)) if tf.io.gfile.isdir(folder) else []
    notes = {name: read_json(f"{folder}/{name}/{TUNING_FILE}") for name in names}
    return {name: note for name, note in notes.items() if note is not None}


def _check_same_grid(notes: dict[str, dict[str, Any]], tune: str, workdir: str) -> None:
    before = next((note["tune"] for note in notes.values() if note["tune"] != tune), None)
    if before is not None:
        given = f"--tune={tune}" if tune else "a study without --tune"
        raise UserError(
            f"{given}: the arms of --workdir={workdir} were tuned by --tune={before}; give the same, or choose another "
            "--workdir"
        )


def _refuse_untuned_runs(arms: Sequence[Arm], plan: Plan, workdir: str) -> None:
    for run in plan.runs:
        if run.arm in arms and tf.io.gfile.exists(f"{workdir}/{run.folder}/config.json"):
            raise UserError(
                f"--tune: --workdir={workdir} holds runs of {run.arm.name} with a rate that was not tuned; choose "
                "another --workdir"
            )


def _tries(arm: Arm, factors: Sequence[float], images_per_class: int) -> list[TuningRun]:
    return [
        TuningRun(dataclasses.replace(_at(arm, factor), name=f"{arm.name}/x{factor:.3g}"), images_per_class, 0)
        for factor in factors
    ]


def _config(arm: Arm) -> Config:
    return parse_arguments(Config, arm.arguments)[0]


def _at(arm: Arm, factor: float) -> Arm:
    """Returns the arm with both of its rates times a factor: of new weights, and of pretrained ones."""
    if factor == 1:
        return arm
    config = _config(arm)
    rates = (f"--{name}={float(f'{getattr(config, name) * factor:.6g}')!r}" for name in _RATES)
    return Arm(arm.name, (*arm.arguments, *rates))


def _choose(arm: Arm, tries: Sequence[TuningRun], factors: Sequence[float], workdir: str) -> dict[str, Any]:
    """Returns what is noted of an arm: every try, and the one that is the best; where all failed, its own rate."""
    tried, best = [], None
    config, task = _config(arm), Classification()
    select_by = f"val_{task.chosen_by}" if config.select_by == "auto" else config.select_by
    for run, factor in zip(tries, factors, strict=True):
        results = read_json(f"{workdir}/{run.folder}/results.json")
        validation = None
        if results is not None and results["finished"]:
            figures = {
                name.removeprefix("val_"): math.nan if value is None else value  # JSON has no NaN
                for name, value in results.items()
                if name.startswith("val_")
            }
            validation = validation_of(select_by, figures, smaller_is_better=task.smaller_is_better)
        so_far = (best[1].score, best[1].loss) if best else (None, None)
        if validation is not None and validation.is_better_than(*so_far):
            best = (factor, validation)
        tried.append({
            "factor": factor, "score": validation.score if validation else None,
            "seconds": results["seconds"] if results else None,
        })  # fmt: skip
    factor = best[0] if best else 1.0
    name = _RATES[config.transfer_and_weights()[0] in ("partial", "full", "two_phase")]
    rate = getattr(_config(_at(arm, factor)), name)
    return {"factor": factor, "rate": rate, "rate_flag": name, "select_by": select_by, "tried": tried}
