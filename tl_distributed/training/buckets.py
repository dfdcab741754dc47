"""The first program of a step in several: gradients of the last layers leave while the backward pass goes on.

A program hands over its results when all of them are there. So each segment of the model has programs of its own: one
forward, one backward, which takes what the first leaves to it; of the last segment both are one. The function that
calls them is inlined into the loop, not compiled, and whatever takes a result waits for no other one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tl_distributed.data.splits import Batch
from tl_distributed.models.calls import run_in_training
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import explicitly_ordered, read_handles
from tl_distributed.training.forward import (
    ForwardBackward,
    Results,
    changed_values,
    inputs_and_targets,
    loss_and_sums,
    read_scale,
    seed_numbers,
    seeds_of_batch,
    with_fresh_seeds,
)
from tl_distributed.training.layer_state import refuse_state_without_mean, refuse_weights_set_in_a_call
from tl_distributed.training.packing import pack
from tl_distributed.training.penalties import CollectingScope
from tl_distributed.training.segments import Segment
from tl_distributed.training.step_settings import StepSettings


class BucketedForwardBackward(ForwardBackward):
    """`ForwardBackward` in programs for each segment, of which each one's gradients are a bucket."""

    def __init__(self, model: keras.Model, segments: Sequence[Segment], settings: StepSettings, runtime: Runtime):
        """Takes two segments of `model` or more, in its order."""
        super().__init__(model, settings, runtime)
        self.segments = [
            SegmentPrograms(segment, settings, seed_numbers(model), is_first=index == 0, use_xla=runtime.use_xla)
            for index, segment in enumerate(segments)
        ]
        self.buckets = [list(segment.trainable) for segment in reversed(segments)]
        self.function = explicitly_ordered(self._run_segments)

    def _run_segments(
        self,
        step: Any,
        replica_id: Any,
        batch: Batch,
        trainable: Any,
        non_trainable: Any,
        scale: Any,
        token: Any,
    ) -> Results:
        variables = [*self._model.trainable_variables, *self._model.non_trainable_variables]
        handles = dict(zip(map(id, variables), [*trainable, *non_trainable], strict=True))
        given, targets = batch, None
        *inner, last = self.segments
        passed = []
        for segment in inner:
            passed.append(segment.run_forward(step, replica_id, given, handles, token))
            given, targets = passed[-1].output, passed[-1].targets if targets is None else targets
        penalties = [one.penalty for one in passed if one.penalty is not None]
        gradients, wanted, of_penalties, statistics, sums = last.run_whole(
            step, replica_id, given, targets, batch.labels, penalties, handles, scale, token
        )
        buckets = [gradients]
        of_penalties = list(of_penalties)
        for one in reversed(passed):
            gradients, wanted = one.backward(wanted, None if one.penalty is None else of_penalties.pop())
            buckets.append(gradients)
        self.changed = [variable for segment in self.segments for variable in segment.changed]
        return Results(buckets, tf.concat([*(one.statistics for one in passed), statistics], axis=0), sums)


class Passed(NamedTuple):
    """What a segment's forward program leaves.

    Attributes:
      output: What it hands on to the next segment.
      penalty: What its layers add to the loss, float32 scalar; `None` without any.
      targets: Soft labels, of the first segment; else `None`.
      statistics: New values of `SegmentPrograms.changed`, one float32 vector.
      backward: Maps the gradients of `output` and `penalty` to the packed gradients of the segment's variables, and to
        the gradient of what the segment was given (`None` of the first one).
    """

    output: tf.Tensor
    penalty: tf.Tensor | None
    targets: tf.Tensor | None
    statistics: tf.Tensor
    backward: Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor | None]]


class SegmentPrograms:
    """The programs of a segment.

    Attributes:
      segment: Of the model.
      changed: Its variables that a step changes: BatchNorm's statistics. Known once it is traced.
    """

    def __init__(
        self,
        segment: Segment,
        settings: StepSettings,
        generators: dict[int, int],
        *,
        is_first: bool,
        use_xla: bool,
    ):
        """`generators` are all of the model's, by `seed_numbers`; the first segment is given a `Batch`."""
        self.segment, self.changed = segment, []
        self._settings, self._generators, self._is_first = settings, generators, is_first
        compiled = {"autograph": False, "jit_compile": use_xla or None}
        self._forward = tf.function(self._read_and_forward, **compiled)
        self._whole = tf.function(self._read_and_whole, **compiled)
        self._pack = tf.function(self.pack, **compiled)

    def run_forward(self, step: Any, replica_id: Any, given: Any, handles: dict[int, Any], token: Any) -> Passed:
        """Runs the forward program; arguments as of `ForwardBackward`, `handles` of all variables by Keras's `id`."""
        trainable, non_trainable = self._own(handles)
        with tf.GradientTape() as tape:
            tape.watch(trainable if self._is_first else [*trainable, given])
            output, penalty, targets, statistics = self._forward(
                step, replica_id, given, trainable, non_trainable, token
            )

        def backward(wanted: tf.Tensor, of_penalty: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
            sources = [*trainable] if self._is_first else [*trainable, given]
            ends, weights = ([output], [wanted]) if penalty is None else ([output, penalty], [wanted, of_penalty])
            gradients = tape.gradient(ends, sources, output_gradients=weights)
            return self._pack(gradients[: len(trainable)]), None if self._is_first else gradients[-1]

        return Passed(output, penalty, targets, statistics, backward)

    def run_whole(
        self,
        step: Any,
        replica_id: Any,
        given: Any,
        targets: Any,
        labels: Any,
        penalties: Any,
        handles: dict[int, Any],
        scale: Any,
        token: Any,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Runs the last segment, from its input to the loss and back; `penalties` are of the segments before.

        Returns:
          Packed gradients, the gradient of `given` and those of `penalties`, packed statistics, and sums as in
          `Results`.
        """
        return self._whole(step, replica_id, given, targets, labels, penalties, *self._own(handles), scale, token)

    def _own(self, handles: dict[int, Any]) -> tuple[list[Any], list[Any]]:
        segment = self.segment
        return [handles[id(one)] for one in segment.trainable], [handles[id(one)] for one in segment.non_trainable]

    def _read(self, trainable: Any, non_trainable: Any, token: Any) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.control_dependencies([token]):
            values = read_handles(trainable, self.segment.trainable)
            return values, read_handles(non_trainable, self.segment.non_trainable)

    def _read_and_forward(
        self, step: Any, replica_id: Any, given: Any, trainable: Any, non_trainable: Any, token: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None, tf.Tensor]:
        values = self._read(trainable, non_trainable, token)
        return self.forward(step, replica_id, given, *values)

    def forward(
        self, step: Any, replica_id: Any, given: Any, trainable: Any, non_trainable: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None, tf.Tensor]:
        """The forward program on values in place of handles: (output, penalty, targets, statistics) of `Passed`."""
        targets = None
        if self._is_first:
            seeds = seeds_of_batch(self._settings, step, replica_id, given.labels.shape[0])
            given, targets = inputs_and_targets(self._settings, given, seeds)
            # No gradient goes further, and none of a zero may be computed.
            given, targets = tf.nest.map_structure(tf.stop_gradient, given), tf.stop_gradient(targets)
        output, penalty, statistics = self._call(step, replica_id, given, trainable, non_trainable)
        return output, penalty, targets, tf.stop_gradient(pack(statistics))

    def _read_and_whole(
        self,
        step: Any,
        replica_id: Any,
        given: Any,
        targets: Any,
        labels: Any,
        penalties: Any,
        trainable: Any,
        non_trainable: Any,
        scale: Any,
        token: Any,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor, tf.Tensor]:
        values = self._read(trainable, non_trainable, token)
        with tf.control_dependencies([token]):
            scale = read_scale(scale)
        return self.whole(step, replica_id, given, targets, labels, penalties, *values, scale)

    def whole(
        self,
        step: Any,
        replica_id: Any,
        given: Any,
        targets: Any,
        labels: Any,
        penalties: Any,
        trainable: Any,
        non_trainable: Any,
        scale: Any,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """The program of the last segment on values in place of handles; returns as `run_whole` does."""
        with tf.GradientTape() as tape:
            tape.watch([*trainable, given, *penalties])
            logits, penalty, statistics = self._call(step, replica_id, given, trainable, non_trainable)
            added = [*penalties, *([] if penalty is None else [penalty])]
            scaled_loss, sums = loss_and_sums(
                self._settings, logits, targets, labels, scale, tf.add_n(added) if added else None
            )
        gradients, wanted, of_penalties = tape.gradient(scaled_loss, [trainable, given, penalties])
        return self.pack(gradients), wanted, of_penalties, pack(statistics), sums

    def pack(self, gradients: Sequence[tf.Tensor | None]) -> tf.Tensor:
        """Returns one vector, in the type in which it travels, with zeros for what the loss does not depend on."""
        full = [
            tf.zeros(variable.shape) if gradient is None else gradient
            for gradient, variable in zip(gradients, self.segment.trainable, strict=True)
        ]
        return tf.cast(pack(full), self._settings.all_reduce_dtype)

    def _call(
        self, step: Any, replica_id: Any, given: Any, trainable: Any, non_trainable: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None, list[tf.Tensor]]:
        """Calls the layers; returns the output, what they add to the loss, and the new values of `changed`."""
        segment = self.segment
        inputs = tf.nest.flatten(given)
        seeds = seeds_of_batch(self._settings, step, replica_id, inputs[0].shape[0])
        non_trainable = with_fresh_seeds(non_trainable, segment.non_trainable, self._generators, seeds)
        variables = [*segment.trainable, *segment.non_trainable]
        values = dict(zip(map(id, segment.inputs), inputs, strict=True))
        with CollectingScope(variables, [*trainable, *non_trainable]) as scope:
            run_in_training(segment.nodes, values)
            penalty = scope.penalty(segment.trainable)
        refuse_weights_set_in_a_call(segment.trainable, trainable, map(scope.get_current_value, segment.trainable))
        new = [scope.get_current_value(variable) for variable in segment.non_trainable]
        self.changed, statistics = changed_values(segment.non_trainable, non_trainable, new, self._generators)
        refuse_state_without_mean(self.changed)
        return values[id(segment.output)], penalty, statistics
