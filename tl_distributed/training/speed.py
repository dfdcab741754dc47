"""How fast a phase trains, and where the time of a step goes."""

import math
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.runtime.all_reduce import measure_all_reduce
from tl_distributed.runtime.devices import Runtime
from tl_distributed.training.loop import LoopTimes, TrainLoop
from tl_distributed.training.step import TrainStep


class Speedometer:
    """Turns the loop's clock into the figures of `metrics.jsonl` and `results.json`.

    - `images_per_second`, `images_per_second_per_replica`, `step_seconds`: as measured, compilation excluded.
    - `input_wait_seconds`: of a step, for which the host waited for the next batch. It draws batches some steps
      ahead of the devices, which need not have stood still for so long. `None` where a batch is a gather in memory.
    - `all_reduce_seconds`: of a step, to sum the gradients over the replicas, as it was measured alone before the phase
      began. The step's sum begins when the forward and backward pass has ended, and the update waits for it, so it
      hides behind nothing, unless it is made in parts (`--gradient_buckets`); what a replica waits for a slower one is
      not in it. 0 for one replica.
    - `compute_seconds`: the rest of the step; too little of it where a part of the sum hides behind the backward pass.
    - `scaling_efficiency`: images/s by that of one replica times the number of replicas.
    """

    def __init__(
        self,
        loop: TrainLoop,
        *,
        global_batch_size: int,
        num_replicas: int,
        all_reduce_seconds: float,
        one_replica_images_per_second: float | None,
    ):
        self._loop, self._batch, self._replicas = loop, global_batch_size, num_replicas
        self._all_reduce_seconds, self._one_replica = all_reduce_seconds, one_replica_images_per_second
        self._last = LoopTimes()

    def since_last(self) -> dict[str, float | None]:
        """Returns the figures since the last call of this function; each is `None` where only compilation was."""
        last, self._last = self._last, self._loop.times
        return self._figures(self._last - last)

    def in_all(self) -> dict[str, float | None]:
        """Returns the figures of the whole phase."""
        return self._figures(self._loop.times)

    def _figures(self, times: LoopTimes) -> dict[str, float | None]:
        names = (
            "images_per_second", "images_per_second_per_replica", "step_seconds", "input_wait_seconds",
            "all_reduce_seconds", "compute_seconds",
        )  # fmt: skip
        efficiency = {} if self._one_replica is None else {"scaling_efficiency": None}
        if not times.steps:
            return {**dict.fromkeys(names), **efficiency}
        step_seconds = times.seconds / times.steps
        wait = None if times.input_wait_seconds is None else times.input_wait_seconds / times.steps
        images_per_second = self._batch / step_seconds
        if self._one_replica is not None:
            efficiency = {"scaling_efficiency": images_per_second / (self._replicas * self._one_replica)}
        compute = max(step_seconds - (wait or 0.0) - self._all_reduce_seconds, 0.0)
        per_replica = images_per_second / self._replicas
        values = (images_per_second, per_replica, step_seconds, wait, self._all_reduce_seconds, compute)
        return {**dict(zip(names, values, strict=True)), **efficiency}


def all_reduce_seconds(step: TrainStep, runtime: Runtime, dtype: str) -> float:
    """Measures how long the replicas take to sum a step's gradients; all workers call it.

    Raises:
      UserError: The sum is wrong.
    """
    num_elements = sum(math.prod(variable.shape) for variable in step.trainable_variables)
    if runtime.num_replicas == 1 or not num_elements:
        return 0.0
    measured = measure_all_reduce(runtime.strategy, dtype, num_elements=num_elements)
    if not measured.correct:
        raise UserError("the replicas' sums are wrong; python -m tl_distributed.doctor says more")
    return measured.timing.median


def summary(speed_by_phase: dict[str, dict[str, Any]], last_phase: str) -> dict[str, Any]:
    """Returns what `results.json` says of each phase that this start of the run trained, and of the last one."""
    last = speed_by_phase.get(last_phase, {})
    names = ("images_per_second_per_replica", "scaling_efficiency")
    return {"speed_by_phase": speed_by_phase, **{name: last.get(name) for name in names}}
