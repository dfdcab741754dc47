"""Sums over the replicas: several in one order everywhere, and how long one takes, measured by itself."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

TIMED_STEPS = 10
_PATTERN_LENGTH = 7


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each timed step, devices synchronised, compilation excluded."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def time_steps(step: Callable[[], Any]) -> Timing:
    """Times steps, each of which waits for its result."""
    return Timing(tuple(seconds_of(step) for _ in range(TIMED_STEPS)))


def seconds_of(step: Callable[[], Any]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def all_reduce_in_order(replica: tf.distribute.ReplicaContext, values: Sequence[Any]) -> list[Any]:
    """Sums each of some tensors, or tuples of tensors, over the replicas, one after the other.

    NCCL hangs where replicas begin their sums in different orders. TensorFlow leaves the order to automatic control
    dependencies, which the training loop does without. Here a sum waits for the one before it on its own device, and
    nothing that computes waits for a sum.
    """
    sums: list[Any] = []
    for value in values:
        if sums:
            # Of an operation on the replica's device: a control edge on the sum itself would cross between devices.
            with tf.control_dependencies(tf.nest.flatten(sums[-1])):
                value = tf.nest.map_structure(tf.identity, value)
        sums.append(replica.all_reduce(tf.distribute.ReduceOp.SUM, value))
    return sums


@dataclasses.dataclass(frozen=True)
class AllReduceSpeed:
    """Sums over the replicas.

    Attributes:
      num_bytes: That each replica gives.
      num_replicas: Of all workers.
      correct: Whether every number on this worker's replicas is the sum that it should be.
      timing: Of the steps.
    """

    num_bytes: int
    num_replicas: int
    correct: bool
    timing: Timing

    def bus_gigabytes_per_second(self) -> tuple[float, float, float]:
        """Returns (median, slowest, fastest) bus bandwidth in 10^9 bytes a second.

        What a link carries in a ring, 2 (n - 1) / n of the bytes, by time: comparable over numbers of replicas, and
        the figure that NVIDIA's nccl-tests call busbw.
        """
        travelled = self.num_bytes * 2 * (self.num_replicas - 1) / self.num_replicas
        seconds = (self.timing.median, max(self.timing.seconds), min(self.timing.seconds))
        return tuple(travelled / value / 1e9 for value in seconds)


def measure_all_reduce(strategy: Any, dtype: str, *, num_elements: int) -> AllReduceSpeed:
    """Times sums of one vector over the replicas, as the engine makes them for gradients: outside XLA, in one piece.

    All workers call it.

    Element i comes from the replica i mod n alone, the others give 0; so the sum is exact in every type, and a replica
    that is left out or counted twice shows.
    """
    devices, replicas = strategy.extended.worker_devices, strategy.num_replicas_in_sync

    def expected() -> tf.Tensor:
        return tf.cast(tf.range(num_elements) % _PATTERN_LENGTH + 1, dtype)

    def contribution(context: Any) -> tf.Tensor:
        replica = context.replica_id_in_sync_group
        with tf.device(devices[replica % len(devices)]):
            return tf.where(tf.range(num_elements) % replicas == replica, expected(), tf.zeros([], dtype))

    values = strategy.experimental_distribute_values_from_function(contribution)

    def sum_in_replica(value: tf.Tensor) -> tf.Tensor:
        value = tf.identity(value)  # on the replica's device: a function's argument is on none, and cannot be summed
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    @tf.function(autograph=False)
    def sum_over_replicas(values: Any) -> Any:
        return strategy.run(sum_in_replica, args=(values,))

    def step() -> None:
        for local in strategy.experimental_local_results(sum_over_replicas(values)):
            local[0].numpy()  # waits

    sums = strategy.experimental_local_results(sum_over_replicas(values))
    correct = all(bool(tf.reduce_all(local == expected())) for local in sums)
    return AllReduceSpeed(num_elements * tf.as_dtype(dtype).size, replicas, correct, time_steps(step))
