"""The inner loop: many steps in the graph for each call from Python."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.data.host import HOST
from tl_distributed.data.splits import TrainFeed
from tl_distributed.errors import UserError, tensorflow_cause
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import explicitly_ordered
from tl_distributed.training.step import TrainStep, local_index

_STEPS_AHEAD = 4  # batches that may be on the way to the devices
_TARGET_CALL_SECONDS = 1.0  # how long a stop signal or the progress bar may wait


@dataclasses.dataclass(frozen=True)
class LoopTimes:
    """What steps took, device synchronised.

    Attributes:
      steps: Those done outside the first call, which compiles.
      seconds: That they took.
      input_wait_seconds: Of these, for which the host waited for batches; `None` where that cannot be told.
    """

    steps: int = 0
    seconds: float = 0.0
    input_wait_seconds: float | None = 0.0

    def __sub__(self, earlier: "LoopTimes") -> "LoopTimes":
        wait = None if self.input_wait_seconds is None else self.input_wait_seconds - (earlier.input_wait_seconds or 0)
        return LoopTimes(self.steps - earlier.steps, self.seconds - earlier.seconds, wait)


class TrainLoop:
    """Runs a phase's steps; knows nothing of epochs, logs and checkpoints.

    Attributes:
      times: So far.
    """

    def __init__(self, step: TrainStep, feed: TrainFeed, runtime: Runtime, *, steps_per_loop: int):
        """`steps_per_loop` of 0 adapts the length of a call to about a second."""
        self._step, self._feed, self._strategy, self._workers = step, feed, runtime.strategy, runtime.workers
        self._steps_per_loop = steps_per_loop
        self._next_length = steps_per_loop or 1
        self._compiled = False
        self._sums = np.zeros(step.num_sums, np.float32)
        self._first_replica = runtime.first_replica
        self._run_steps = explicitly_ordered(self._run_steps_body)
        self.times = LoopTimes(input_wait_seconds=0.0 if feed.waits_for_input else None)

    def run(self, first_step: int, last_step: int) -> int:
        """Runs one call's worth of steps from `first_step`, at most up to `last_step`; returns the new step.

        Raises:
          UserError: The device is out of memory, or a record cannot be read.
        """
        length = min(self._next_length, last_step - first_step)
        start = time.perf_counter()
        try:
            # Tensors, not Python numbers: those would trace the loop again for every value.
            with tf.device(HOST):
                steps = tf.constant(first_step, tf.int64), tf.constant(length, tf.int64)
            sums, waited = self._run_steps(*steps)
            self._sums, waited = sums.numpy(), float(waited)
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(
                f"out of memory in steps {first_step} to {first_step + length} ({tensorflow_cause(error.message)}); "
                f"--global_batch_size={self._step.global_batch_size} over {self._strategy.num_replicas_in_sync} "
                "devices is too much: try a smaller one, a smaller --image_size, or --precision=mixed_bfloat16"
            ) from None
        except tf.errors.OpError as error:
            raise self._feed.input_error(error) or error from None
        seconds = time.perf_counter() - start
        if self._compiled:
            wait = None if self.times.input_wait_seconds is None else self.times.input_wait_seconds + waited
            self.times = LoopTimes(self.times.steps + length, self.times.seconds + seconds, wait)
            if not self._steps_per_loop:
                longer = max(1, min(2 * length, int(_TARGET_CALL_SECONDS * length / max(seconds, 1e-6))))
                self._next_length = self._workers.from_chief("steps a call", longer)
        self._compiled = True
        return first_step + length

    def read_sums(self) -> np.ndarray:
        """Returns and clears the sums of loss, measures, gradient norm and skipped updates: `[num_sums] float32`."""
        sums, self._sums = self._sums, np.zeros(self._step.num_sums, np.float32)
        self._step.reset_sums()
        return sums

    def _run_steps_body(self, first_step: tf.Tensor, num_steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the sums so far, which only exist when the devices are done, and the seconds of waiting for input.

        The counter is on the host and depends on nothing else, and a replica's step depends on the token of its last
        update, which stays on its device. So the host never waits for a device within the loop, and draws and sends
        the batches of some steps ahead.
        """

        def in_replica(step: tf.Tensor, tokens: Sequence[tf.Tensor], *host_inputs: Any) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            batch = self._feed.replica_batch(step, replica.replica_id_in_sync_group, *host_inputs)
            return self._step.replica_step(step, batch, tokens[local_index(replica, self._first_replica)])

        def one_step(step: tf.Tensor, waited: tf.Tensor, *tokens: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.device(HOST):
                inputs, waited = self._next_inputs(waited)
                following = step + 1
            tokens = self._strategy.run(in_replica, args=(step, tokens, *inputs))
            return following, waited, *self._strategy.experimental_local_results(tokens)

        def goes_on(step: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            with tf.device(HOST):
                return step < last_step

        with tf.device(HOST):
            last_step = first_step + num_steps
            begin = first_step, tf.zeros([], tf.float64)
        tokens = self._strategy.experimental_local_results(self._strategy.run(lambda: tf.zeros([])))
        with tf.device(HOST):
            _, waited, *tokens = tf.while_loop(
                goes_on, one_step, (*begin, *tokens), parallel_iterations=_STEPS_AHEAD
            )  # fmt: skip
        with tf.control_dependencies(tokens):
            return self._step.read_sums(), waited

    def _next_inputs(self, waited: tf.Tensor) -> tuple[tuple[Any, ...], tf.Tensor]:
        """Returns what the feed gives on the host for a step, and for how long was waited for batches so far."""
        if not self._feed.waits_for_input:
            return self._feed.host_inputs(), waited
        with tf.control_dependencies([waited]):  # of the batch before
            start = tf.timestamp()
        with tf.control_dependencies([start]):
            inputs = self._feed.host_inputs()
        with tf.control_dependencies(inputs):
            return inputs, waited + (tf.timestamp() - start)
