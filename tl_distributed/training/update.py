"""The second program of a step: summed gradients in, every variable of the replica changed.

It captures the copies of the first replica, in whose place the others put theirs. One finite check, in float32, decides
over gradients and BatchNorm's statistics alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.training.forward import Results
from tl_distributed.training.loss_scale import LossScale
from tl_distributed.training.optimizers import decayed_variables
from tl_distributed.training.packing import unpack
from tl_distributed.training.step_settings import StepSettings


class Update:
    """The update of one phase: traced for the first replica, and called with the other replicas' copies.

    Attributes:
      averages: Exponential moving averages of `averaged`, in its order.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        changed: Callable[[], Sequence[Any]],
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale,
        averaged: Sequence[Any],
        sums: tf.Variable,
        learning_rate: Callable[[tf.Tensor], tf.Tensor],
        settings: StepSettings,
        *,
        buckets: Sequence[Sequence[Any]],
        use_xla: bool,
    ):
        """Creates the averages; call it under the strategy's scope.

        Args:
          variables: Keras's, that train.
          changed: Returns the variables that the first program computed anew (BatchNorm's statistics).
          optimizer: Built for `variables`.
          loss_scale: Of float16.
          averaged: Keras's variables that are averaged; none where `settings.ema_decay` is 0.
          sums: `[3 + m] float32`: losses, the task's measures, gradient norms, skipped updates since the last reset.
          learning_rate: Maps the run's step (int64 scalar) to the rate (float32 scalar).
          settings: Of the step.
          buckets: Of `variables`, for each vector of gradients those that it is of; none where gradients come singly.
          use_xla: Whether the program is compiled.
        """
        self._variables, self._changed, self._optimizer = list(variables), changed, optimizer
        self._loss_scale, self._sums, self._learning_rate = loss_scale, sums, learning_rate
        self._settings, self._averaged = settings, list(averaged)
        self._is_packed, self._packed = bool(buckets), [variable for bucket in buckets for variable in bucket]
        self._decayed = decayed_variables(self._variables)
        self.averages = [tf.Variable(variable.value, trainable=False, name="average") for variable in averaged]
        self.function = tf.function(self.body, autograph=False, jit_compile=use_xla or None)
        self._concrete: Any = None
        self._captured: list[int | None] = []  # of each capture, which of `_all_variables` it is

    def __call__(self, step: tf.Tensor, results: Results) -> tf.Tensor:
        """Runs `body` on the copies of the replica in whose update context it is called."""
        handles = [variable.handle for variable in self._all_variables()]
        if self._concrete is None:
            self._concrete = self.function.get_concrete_function(step, results)
            places = {id(handle): place for place, handle in enumerate(handles)}
            self._captured = [places.get(id(captured)) for captured in self._concrete.captured_inputs]
        captures = [
            captured if place is None else handles[place]
            for place, captured in zip(self._captured, self._concrete.captured_inputs, strict=True)
        ]
        # TensorFlow has no public call of one trace with other captures; tracing anew for each replica takes as long
        # for four of them as the rest of the start.
        return self._concrete._call_flat(tf.nest.flatten((step, results)), captures)

    def _all_variables(self) -> list[tf.Variable]:
        keras_variables = (*self._variables, *self._changed(), *self._averaged, *self._optimizer.variables)
        own = (self._loss_scale.scale, self._loss_scale.good_steps, self._sums, *self.averages)
        return [*(variable.value for variable in keras_variables), *own]

    def body(self, step: tf.Tensor, results: Results) -> tf.Tensor:
        """Changes the copies of the replica in whose update context this is traced.

        Args:
          step: int64 scalar, the run's step.
          results: Summed over the replicas; statistics are their mean.

        Returns:
          The norm of the gradient, float32 scalar.
        """
        changed = list(self._changed())
        gradients, statistics = results.gradients, results.statistics
        gradients, sums = self._by_weight(gradients, results.sums)
        if self._is_packed:
            vectors = [tf.cast(vector, tf.float32) for vector in gradients]
            vector = vectors[0] if len(vectors) == 1 else tf.concat(vectors, axis=0)
            norm = tf.norm(vector)
            by_variable = dict(zip(map(id, self._packed), unpack(vector, self._packed), strict=True))
            gradients = [by_variable[id(variable)] for variable in self._variables]
            statistics = unpack(statistics, changed)
        else:
            norm = tf.linalg.global_norm(gradients)
        # Weight decay needs no gradient: inlined, it would change weights that the first program has yet to read.
        with tf.control_dependencies([norm]):
            return self._update(step, gradients, statistics, norm, sums)

    def _by_weight(self, gradients: Sequence[tf.Tensor], sums: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Divides gradients and the sum of losses by the mean weight of the global batch's images, where they have any.

        A batch of no weight at all changes nothing.
        """
        if not self._settings.task.is_weighted:
            return list(gradients), sums
        loss, *measures, weight = tf.unstack(sums)
        factor = tf.math.divide_no_nan(float(self._settings.global_batch_size), weight)
        weighted = [tf.cast(gradient, tf.float32) * factor for gradient in gradients]
        return weighted, tf.stack([loss * factor, *measures])

    def _update(
        self,
        step: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        statistics: Sequence[tf.Tensor],
        norm: tf.Tensor,
        sums: tf.Tensor,
    ) -> tf.Tensor:
        if not self._loss_scale.dynamic:
            self._apply(step, gradients, statistics, norm)
            self._sums.assign_add(tf.concat([sums, [norm, 0.0]], axis=0))
            return norm
        scale = self._loss_scale.scale.read_value()
        norm = norm / scale
        gradients = [gradient / scale for gradient in gradients]
        finite = tf.math.is_finite(norm)
        for value in statistics:
            finite &= tf.reduce_all(tf.math.is_finite(value))
        tf.cond(finite, lambda: self._apply(step, gradients, statistics, norm), lambda: None)
        self._loss_scale.adjust(finite)
        skipped = tf.stack([tf.where(finite, norm, 0.0), tf.cast(~finite, tf.float32)])
        self._sums.assign_add(tf.concat([sums, skipped], axis=0))
        return norm

    def _apply(
        self, step: tf.Tensor, gradients: Sequence[tf.Tensor], statistics: Sequence[tf.Tensor], norm: tf.Tensor
    ) -> None:
        """Clips, decays, updates, constrains and averages the local copy of every variable."""
        settings = self._settings
        if settings.clip_norm:
            factor = settings.clip_norm / tf.maximum(norm, settings.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        learning_rate = self._learning_rate(step)
        for gradient, variable, decayed in zip(gradients, self._variables, self._decayed, strict=True):
            multiplier = settings.rate_multiplier(variable)
            rate = learning_rate if multiplier == 1.0 else learning_rate * multiplier
            if settings.weight_decay and decayed:
                variable.value.assign_sub(variable.value * (settings.weight_decay * rate))
            self._optimizer.update_step(gradient, variable, rate)
            if variable.constraint is not None:
                variable.value.assign(variable.constraint(tf.convert_to_tensor(variable.value)))
        for variable, value in zip(self._changed(), statistics, strict=True):
            variable.value.assign(value)
        if self.averages:
            share = 1.0 - self._average_decay()
            for average, variable in zip(self.averages, self._averaged, strict=True):
                average.assign_add((variable.value - average) * share)
        self._optimizer.iterations.value.assign_add(1)

    def _average_decay(self) -> tf.Tensor:
        """Returns the decay, lower in the first updates, so that the initial weights are soon forgotten.

        min(decay, (1 + t) / (10 + t)), the rule of `tf.train.ExponentialMovingAverage(num_updates=t)`.
        """
        updates = tf.cast(self._optimizer.iterations.value, tf.float32)
        return tf.minimum(self._settings.ema_decay, (1.0 + updates) / (10.0 + updates))
