"""The first program of a step: a batch of bytes in, gradients out. It captures nothing: one trace serves all replicas.

Keras 3 cannot compile its own step under a strategy (keras-team/keras #20763, #21366): the compiled function captures
variables of another device. Here a replica hands over the handles of its own copies, and the program reads them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.pixels.augment import augment_batch
from tl_distributed.pixels.normalize import normalize
from tl_distributed.pixels.seeds import per_image_seeds, threefry_2x32
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import handles_of, read_handles
from tl_distributed.training.packing import pack
from tl_distributed.training.step_settings import StepSettings

_DROPOUT_DRAW = 1 << 20  # beyond the draws of the augmentations


class Results(NamedTuple):
    """What the program gives back.

    Attributes:
      gradients: Of the scaled mean loss: a tensor for each trainable variable, or all in one vector of the type in
        which they travel, where there are several replicas.
      statistics: The new values of `ForwardBackward.changed`: as many tensors, or one float32 vector.
      sums: `[2] float32`, of this replica's losses (nats) and right answers.
    """

    gradients: Any
    statistics: Any
    sums: tf.Tensor


class ForwardBackward:
    """The program of one phase.

    Attributes:
      changed: The non-trainable variables that a step changes: BatchNorm's statistics. Known once it is traced.
    """

    def __init__(self, model: keras.Model, settings: StepSettings, runtime: Runtime):
        self._model, self._settings = model, settings
        self._packs = runtime.num_replicas > 1
        self._seed_indices = [
            index for index, variable in enumerate(model.non_trainable_variables) if "seed_generator" in variable.path
        ]
        self.changed: list[Any] = []
        if not runtime.use_xla:
            use_fused_kernels(model)
        self.function = tf.function(self._read_and_compute, autograph=False, jit_compile=runtime.use_xla or None)
        self._concrete: Any = None

    def __call__(
        self,
        step: tf.Tensor,
        replica_id: tf.Tensor,
        images: tf.Tensor,
        labels: tf.Tensor,
        scale: tf.Variable | None,
        token: tf.Tensor,
    ) -> Results:
        """Runs in replica context; traced by the first replica.

        Args:
          step: int64 scalar, the run's step.
          replica_id: int32 scalar.
          images: `[per_replica, height, width, 3] uint8`, or rows of features.
          labels: `[per_replica] int32`.
          scale: What the loss is multiplied by for float16, or `None`.
          token: float32 scalar on the replica's device, before which no variable is read.
        """
        model = self._model
        arguments = (
            step, replica_id, images, labels, handles_of(model.trainable_variables),
            handles_of(model.non_trainable_variables), None if scale is None else scale.handle, token,
        )  # fmt: skip
        if self._concrete is None:
            self._concrete = self.function.get_concrete_function(*arguments)
        return self._concrete(*arguments)

    def _read_and_compute(
        self,
        step: Any,
        replica_id: Any,
        images: Any,
        labels: Any,
        trainable: Any,
        non_trainable: Any,
        scale: Any,
        token: Any,
    ) -> Results:
        with tf.control_dependencies([token]):
            trainable = read_handles(trainable, self._model.trainable_variables)
            non_trainable = read_handles(non_trainable, self._model.non_trainable_variables)
            one = tf.constant(1.0)
            scale = one if scale is None else tf.raw_ops.ReadVariableOp(resource=scale, dtype=tf.float32)
        return self.compute(step, replica_id, images, labels, trainable, non_trainable, scale)

    def compute(
        self, step: Any, replica_id: Any, images: Any, labels: Any, trainable: Any, non_trainable: Any, scale: Any
    ) -> Results:
        """The program on values in place of handles: the same arguments, `trainable` and `non_trainable` as tensors."""
        settings = self._settings
        batch = images.shape[0]
        positions = replica_id * batch + tf.range(batch)
        seeds = per_image_seeds(tf.constant(settings.seed), step, positions)
        inputs, targets = self._inputs(images, labels, seeds)
        non_trainable = self._with_fresh_seeds(non_trainable, seeds)
        with tf.GradientTape() as tape, folded_batch_norm(self._model, frozen_only=True):
            tape.watch(trainable)
            logits, new_non_trainable = self._model.stateless_call(trainable, non_trainable, inputs, training=True)
            losses = keras.losses.categorical_crossentropy(
                targets, logits, from_logits=True, label_smoothing=settings.label_smoothing
            )
            loss_sum = tf.reduce_sum(losses)
            scaled_loss = loss_sum / settings.global_batch_size * scale
        gradients = tape.gradient(scaled_loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
        sums = tf.stack([loss_sum, tf.reduce_sum(tf.cast(hits, tf.float32))])
        statistics = self._changed_values(non_trainable, new_non_trainable)
        if self._packs:
            return Results(tf.cast(pack(gradients), settings.all_reduce_dtype), pack(statistics), sums)
        return Results(gradients, statistics, sums)

    def _changed_values(self, old: Sequence[tf.Tensor], new: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # stateless_call hands back the very tensor that it was given where a layer changed nothing.
        indices = [
            index
            for index, (before, after) in enumerate(zip(old, new, strict=True))
            if after is not before and index not in self._seed_indices
        ]
        self.changed = [self._model.non_trainable_variables[index] for index in indices]
        return [new[index] for index in indices]

    def _inputs(self, images: Any, labels: Any, seeds: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """Returns what the model takes, and soft labels `[batch, num_classes] float32`."""
        settings = self._settings
        if settings.features is not None:
            return settings.features.split(images), tf.one_hot(labels, settings.num_classes, dtype=tf.float32)
        pixels, targets = augment_batch(
            images, labels, seeds,
            settings=settings.augment, image_size=settings.image_size, num_classes=settings.num_classes,
        )  # fmt: skip
        return normalize(pixels, settings.normalization), targets

    def _with_fresh_seeds(self, non_trainable: list[tf.Tensor], seeds: tf.Tensor) -> list[tf.Tensor]:
        """Replaces the state of the dropout layers' generators by a function of (seed, step, first image).

        Counted from the output, so that a layer draws the same whether or not the frozen layers are there.
        """
        fresh = list(non_trainable)
        for number, index in enumerate(reversed(self._seed_indices)):
            counter = (tf.constant(_DROPOUT_DRAW, tf.uint32), tf.constant(number, tf.uint32))
            state = tf.stack(threefry_2x32((seeds[0, 0], seeds[0, 1]), counter))
            fresh[index] = tf.cast(state, fresh[index].dtype)
        return fresh
