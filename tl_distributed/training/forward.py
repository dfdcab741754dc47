"""The first program of a step: a batch of bytes in, gradients out. It captures nothing: one trace serves all replicas.

Keras 3 cannot compile its own step under a strategy (keras-team/keras #20763, #21366): the compiled function captures
variables of another device. Here a replica hands over the handles of its own copies, and the program reads them.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tl_distributed.data.splits import Batch
from tl_distributed.errors import UserError
from tl_distributed.models.compiled_batch_norm import compiled_batch_norm
from tl_distributed.models.compiled_layers import compiled_layers
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import pointwise_products, use_fused_kernels
from tl_distributed.models.normalized_products import normalized_products
from tl_distributed.models.same_padding import same_padding
from tl_distributed.pixels.augment import augment_batch
from tl_distributed.pixels.normalize import normalize
from tl_distributed.pixels.seeds import per_image_seeds, threefry_2x32
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import handles_of, read_handles
from tl_distributed.training.layer_state import (
    refuse_captured_variables,
    refuse_state_without_mean,
    refuse_weights_set_in_a_call,
)
from tl_distributed.training.packing import pack
from tl_distributed.training.penalties import CollectingScope
from tl_distributed.training.step_settings import StepSettings
from tl_distributed.training.tasks import Task

_DROPOUT_DRAW = 1 << 20  # beyond the draws of the augmentations


class Results(NamedTuple):
    """What the program gives back.

    Attributes:
      gradients: Of the scaled mean loss: a tensor for each trainable variable; where there are several replicas one
        vector for each of `ForwardBackward.buckets`, of the type in which they travel.
      statistics: The new values of `ForwardBackward.changed`: as many tensors, or one float32 vector.
      sums: `[1 + m] float32`, of this replica's losses, with layers' penalties, and of each of the task's measures; of
        a task with weights one more, of the images' weights.
    """

    gradients: list[tf.Tensor]
    statistics: Any
    sums: tf.Tensor


class ForwardBackward:
    """The program of one phase.

    Attributes:
      changed: The non-trainable variables that a step changes: BatchNorm's statistics. Known once it is traced.
      buckets: Keras's trainable variables whose gradients travel together, in the order in which they do; none where
        there is one replica.
    """

    def __init__(self, model: keras.Model, settings: StepSettings, runtime: Runtime):
        self._model, self._settings = model, settings
        self.buckets = [list(model.trainable_variables)] if runtime.num_replicas > 1 else []
        self._seed_numbers = seed_numbers(model)
        self.changed: list[Any] = []
        self._use_products, self._compile_layers = not runtime.use_xla, not runtime.use_xla and runtime.trains_on_cpu
        if not runtime.use_xla:
            use_fused_kernels(model)
        self.function = tf.function(self._read_and_compute, autograph=False, jit_compile=runtime.use_xla or None)
        self._concrete: Any = None

    def __call__(
        self,
        step: tf.Tensor,
        replica_id: tf.Tensor,
        batch: Batch,
        scale: tf.Variable | None,
        token: tf.Tensor,
    ) -> Results:
        """Runs in replica context; traced by the first replica.

        Args:
          step: int64 scalar, the run's step.
          replica_id: int32 scalar.
          batch: This replica's part of it.
          scale: What the loss is multiplied by for float16, or `None`.
          token: float32 scalar on the replica's device, before which no variable is read.
        """
        model = self._model
        arguments = (
            step, replica_id, batch, handles_of(model.trainable_variables),
            handles_of(model.non_trainable_variables), None if scale is None else scale.handle, token,
        )  # fmt: skip
        if self._concrete is None:
            self._concrete = self.function.get_concrete_function(*arguments)
            if self.buckets:
                refuse_captured_variables(self._concrete)
        return self._concrete(*arguments)

    def _read_and_compute(
        self,
        step: Any,
        replica_id: Any,
        batch: Batch,
        trainable: Any,
        non_trainable: Any,
        scale: Any,
        token: Any,
    ) -> Results:
        with tf.control_dependencies([token]):
            trainable = read_handles(trainable, self._model.trainable_variables)
            non_trainable = read_handles(non_trainable, self._model.non_trainable_variables)
            scale = read_scale(scale)
        return self.compute(step, replica_id, batch, trainable, non_trainable, scale)

    def compute(
        self, step: Any, replica_id: Any, batch: Batch, trainable: Any, non_trainable: Any, scale: Any
    ) -> Results:
        """The program on values in place of handles: the same arguments, `trainable` and `non_trainable` as tensors."""
        settings, model = self._settings, self._model
        seeds = seeds_of_batch(settings, step, replica_id, batch.labels.shape[0])
        inputs, targets = inputs_and_targets(settings, batch, seeds)
        non_trainable = with_fresh_seeds(non_trainable, model.non_trainable_variables, self._seed_numbers, seeds)
        with contextlib.ExitStack() as stack:
            stack.enter_context(folded_batch_norm(model, frozen_only=True))
            if self._use_products:
                stack.enter_context(pointwise_products(model))
            if self._compile_layers:
                for fewer_passes in (compiled_batch_norm, normalized_products, compiled_layers, same_padding):
                    stack.enter_context(fewer_passes(model))
            tape = stack.enter_context(tf.GradientTape())
            tape.watch(trainable)
            variables = [*model.trainable_variables, *model.non_trainable_variables]
            scope = stack.enter_context(CollectingScope(variables, [*trainable, *non_trainable]))
            logits = model.call(inputs, training=True)
            penalty = scope.penalty(model.trainable_variables)
            scaled_loss, sums = loss_and_sums(settings, logits, targets, batch.labels, scale, penalty)
        gradients = tape.gradient(scaled_loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        refuse_weights_set_in_a_call(
            model.trainable_variables, trainable, map(scope.get_current_value, model.trainable_variables)
        )
        new_non_trainable = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
        self.changed, statistics = changed_values(
            model.non_trainable_variables, non_trainable, new_non_trainable, self._seed_numbers
        )
        if self.buckets:
            refuse_state_without_mean(self.changed)
            return Results([tf.cast(pack(gradients), settings.all_reduce_dtype)], pack(statistics), sums)
        # That of an embedding comes as rows of it, which the update does not take.
        return Results([tf.convert_to_tensor(gradient) for gradient in gradients], statistics, sums)


def read_scale(handle: tf.Tensor | None) -> tf.Tensor:
    """Returns what the loss is multiplied by: the value behind a handle, or 1."""
    return tf.constant(1.0) if handle is None else tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def seeds_of_batch(settings: StepSettings, step: tf.Tensor, replica_id: tf.Tensor, batch: int) -> tf.Tensor:
    """Returns the seeds of a replica's images, which are a function of their place in the global batch."""
    positions = replica_id * batch + tf.range(batch)
    return per_image_seeds(tf.constant(settings.seed), step, positions)


def inputs_and_targets(settings: StepSettings, batch: Batch, seeds: tf.Tensor) -> tuple[Any, tf.Tensor]:
    """Returns what the model takes, and the task's targets, `[batch, num_classes] float32`."""
    targets = settings.task.targets(batch.labels, settings.num_classes)
    if settings.features is not None:
        return settings.features.split(batch.images), targets
    pixels, targets = augment_batch(
        batch.images, batch.labels, seeds,
        settings=settings.augment, image_size=settings.image_size, num_classes=settings.num_classes,
        sizes=batch.sizes, fit=settings.fit, targets=targets, own=settings.own_augmentation,
    )  # fmt: skip
    return normalize(pixels, settings.normalization), targets


def loss_and_sums(
    settings: StepSettings,
    outputs: tf.Tensor,
    targets: tf.Tensor,
    labels: tf.Tensor,
    scale: tf.Tensor,
    penalty: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns this replica's part of the scaled mean loss, and `[1 + m] float32`: sums of losses and of measures.

    Of a task with weights the losses are times their images' weights, and the sums are one more: of the weights too. By
    what they come to over all replicas the update divides, which the first program does not know yet.

    Args:
      settings: Of the step.
      outputs: `[batch, num_classes] float32`, of the model.
      targets: Of the task, of the same shape.
      labels: `[batch] int32`, or `[batch, most_labels]`.
      scale: What the loss is multiplied by.
      penalty: Of the layers, float32 scalar, or `None`. It is added to each image's loss, so that it counts by the
        replica's share of the global batch: all replicas' together as much as one device's.

    Raises:
      UserError: The task returns other than a number for each image.
    """
    task = settings.task
    losses, measures = task.losses(targets, outputs), tuple(task.training_measures(labels, targets, outputs))
    weights = task.weights(targets) if task.is_weighted else None
    _check_numbers_of_images(task, losses, measures, weights, outputs.shape[0])
    loss_sum = tf.reduce_sum(losses if weights is None else losses * weights)
    if penalty is not None:
        loss_sum += penalty * (float(outputs.shape[0]) if weights is None else tf.reduce_sum(weights))
    sums = [loss_sum, *map(tf.reduce_sum, measures)]
    if weights is not None:
        sums.append(tf.reduce_sum(weights))
    return loss_sum / settings.global_batch_size * scale, tf.stack(sums)


def _check_numbers_of_images(
    task: Task, losses: tf.Tensor, measures: Sequence[tf.Tensor], weights: tf.Tensor | None, batch: int
) -> None:
    """Raises `UserError` where a task sums up what it is to say of each image, which nothing else would show."""
    if len(measures) != len(task.measure_names):
        raise UserError(
            f"task {task.name}: measures returns {len(measures)}, measure_names names {len(task.measure_names)}"
        )
    named = {"losses": losses, "weights": weights, **dict(zip(task.measure_names, measures, strict=True))}
    for name, values in named.items():
        if values is not None and (values.shape != [batch] or values.dtype != tf.float32):
            raise UserError(
                f"task {task.name}: {name} has to be [{batch}] float32, a number for each image, and is "
                f"{list(values.shape)} {values.dtype.name}"
            )


def seed_numbers(model: keras.Model) -> dict[int, int]:
    """Returns the number of each generator of a dropout layer, by its variable's `id`.

    Counted from the output, so that a layer draws the same whether or not the frozen layers are there.
    """
    generators = [variable for variable in model.non_trainable_variables if "seed_generator" in variable.path]
    return {id(variable): number for number, variable in enumerate(reversed(generators))}


def with_fresh_seeds(
    values: Sequence[tf.Tensor], variables: Sequence[Any], numbers: Mapping[int, int], seeds: tf.Tensor
) -> list[tf.Tensor]:
    """Replaces the state of dropout's generators among non-trainable values by a function of (seed, step, first image).

    Args:
      values: Of `variables`.
      variables: Keras's.
      numbers: Of `seed_numbers`.
      seeds: Of `seeds_of_batch`.
    """
    fresh = list(values)
    for index, variable in enumerate(variables):
        if id(variable) in numbers:
            counter = (tf.constant(_DROPOUT_DRAW, tf.uint32), tf.constant(numbers[id(variable)], tf.uint32))
            state = tf.stack(threefry_2x32((seeds[0, 0], seeds[0, 1]), counter))
            fresh[index] = tf.cast(state, fresh[index].dtype)
    return fresh


def changed_values(
    variables: Sequence[Any], old: Sequence[tf.Tensor], new: Sequence[tf.Tensor], generators: Mapping[int, int]
) -> tuple[list[Any], list[tf.Tensor]]:
    """Returns the variables, other than generators, that a call of layers gave new values, and these.

    A `keras.StatelessScope` hands back the very tensor that it was given where a layer changed nothing.
    """
    indices = [
        index
        for index, (before, after) in enumerate(zip(old, new, strict=True))
        if after is not before and id(variables[index]) not in generators
    ]
    return [variables[index] for index in indices], [new[index] for index in indices]
