"""The engine: one training step as two XLA programs a replica, with every collective between them.

Keras 3 cannot compile its own step under a strategy (keras-team/keras #20763, #21366): the compiled function
captures variables of another device. Here no compiled function of the forward pass captures a variable:

1. `_forward_backward` (pure, compiled): raw uint8 batch in, pixels, model, loss, gradients out. The model runs
   by `stateless_call` on plain tensors that each replica read from its own copies of the variables.
2. In replica context: all-reduce of the packed gradients and of the new BatchNorm statistics.
3. `_update` (compiled, one function a replica) through `merge_call` and `strategy.extended.update`, in which
   every variable resolves to the local copy: unscale, clip, decay, optimizer, averaging.

Losses are sums divided once by the global batch size, so replicas' gradients add up to those of one device.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.pixels.augment import augment_batch
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.normalize import normalize
from tl_distributed.pixels.seeds import per_image_seeds, threefry_2x32
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.config import Config
from tl_distributed.training.loss_scale import make_loss_scale
from tl_distributed.training.optimizers import decayed_variables

_DROPOUT_DRAW = 1 << 20  # beyond the draws of the augmentations


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What the step needs to know beyond the model; see `Config` for units and ranges.

    Attributes:
      features: Of the rows of a bank, which the step is given in place of images; `None` for images.
      rate_multipliers: Factor on the rate of each trainable variable.
    """

    features: FeatureLayout | None
    augment: AugmentSettings
    image_size: int
    normalization: str
    num_classes: int
    global_batch_size: int
    label_smoothing: float
    weight_decay: float
    rate_multipliers: tuple[float, ...]
    clip_norm: float
    ema_decay: float
    all_reduce_dtype: str
    seed: int


def step_settings(
    config: Config, model: keras.Model, *, normalization: str, num_classes: int, features: FeatureLayout | None
) -> StepSettings:
    """Returns the settings of a step, the same for every command that trains.

    Args:
      config: Resolved.
      model: The whole classifier, its layers frozen for the phase.
      normalization: Of the backbone.
      num_classes: Of the data set.
      features: Of the rows of a bank; `None` for images.
    """
    return StepSettings(
        features=features,
        augment=config.augment_settings(),
        image_size=config.image_size,
        normalization=normalization,
        num_classes=num_classes,
        global_batch_size=config.global_batch_size,
        label_smoothing=config.label_smoothing,
        weight_decay=config.weight_decay,
        rate_multipliers=tuple(rate_multipliers(model, config.layer_decay)),
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        all_reduce_dtype=config.all_reduce_dtype,
        seed=config.seed,
    )


class TrainStep:
    """One phase's step: built when the phase begins, since what trains differs between phases.

    Attributes:
      optimizer: The Keras optimizer, built for the model's trainable variables.
      loss_scale: Its variables; constant 1 without float16.
      averages: Exponential moving averages of the trainable variables, or none.
    """

    def __init__(
        self,
        model: keras.Model,
        make_optimizer: Callable[[], keras.optimizers.Optimizer],
        learning_rate: Callable[[tf.Tensor], tf.Tensor],
        settings: StepSettings,
        runtime: Runtime,
    ):
        """Creates the phase's variables under the strategy.

        Args:
          model: Takes normalised float32 images `[batch, size, size, 3]`, or the tensors that `settings.features`
            lists, and returns float32 logits.
          make_optimizer: Called under the strategy's scope, which Keras's optimizers note when they are made.
          learning_rate: Maps the run's step (int64 scalar) to the rate (float32 scalar).
          settings: Of the step.
          runtime: Strategy, precision and XLA.
        """
        self._model, self._settings, self._learning_rate = model, settings, learning_rate
        self._strategy = runtime.strategy
        self._num_replicas = runtime.num_replicas
        with self._strategy.scope():
            self.optimizer = make_optimizer()
            self.optimizer.build(model.trainable_variables)
            self.loss_scale = make_loss_scale(runtime.precision)
            self.averages = [
                tf.Variable(variable.value, trainable=False, name="average")
                for variable in (model.trainable_variables if settings.ema_decay else ())
            ]
            self._local_sums = tf.Variable(  # loss, correct predictions: of each replica's own images
                tf.zeros([2]), trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM,
            )  # fmt: skip
            self._shared_sums = tf.Variable(tf.zeros([2]), trainable=False)  # gradient norm, skipped updates
        self._decayed = decayed_variables(model.trainable_variables)
        self._seed_indices = [
            index for index, variable in enumerate(model.non_trainable_variables) if "seed_generator" in variable.path
        ]
        self._changed_indices: list[int] = []
        if not runtime.use_xla:
            use_fused_kernels(model)
        compiled = {"jit_compile": True} if runtime.use_xla else {}
        self._forward_backward = tf.function(self._forward_backward_body, autograph=False, **compiled)
        self._compile_options = compiled

    @property
    def trainable_variables(self) -> list[Any]:
        """What trains, in the order of the averages: of a whole model, or of one that begins at a bank."""
        return self._model.trainable_variables

    @property
    def global_batch_size(self) -> int:
        """Images in a step, over all replicas."""
        return self._settings.global_batch_size

    def replica_step(self, step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> None:
        """Runs one step in replica context.

        Args:
          step: int64 scalar, the run's step.
          images: `[per_replica, height, width, 3] uint8`, or rows of features.
          labels: `[per_replica] int32`.
        """
        replica = tf.distribute.get_replica_context()
        replica_id = tf.cast(replica.replica_id_in_sync_group, tf.int32)
        trainable = [tf.convert_to_tensor(variable.value) for variable in self._model.trainable_variables]
        non_trainable = [tf.convert_to_tensor(variable.value) for variable in self._model.non_trainable_variables]
        scale = tf.convert_to_tensor(self.loss_scale.scale)
        gradients, statistics, sums = self._forward_backward(
            step, replica_id, images, labels, trainable, non_trainable, scale
        )
        self._local_sums.assign_add(sums)
        if self._num_replicas > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            if self._changed_indices:
                statistics = replica.all_reduce(tf.distribute.ReduceOp.MEAN, statistics)
        self._assign_statistics(statistics, gradients)
        replica.merge_call(self._merged_update, args=(gradients, self._learning_rate(step)))

    def _assign_statistics(self, statistics: tf.Tensor, gradients: Any) -> None:
        """Writes the packed BatchNorm statistics to the replica's own copies; a skipped update keeps the old ones."""
        variables = [self._model.non_trainable_variables[index] for index in self._changed_indices]
        if variables and self.loss_scale.dynamic:
            old = _pack([tf.convert_to_tensor(variable.value) for variable in variables])
            statistics = tf.where(tf.math.is_finite(tf.linalg.global_norm(tf.nest.flatten(gradients))), statistics, old)
        for variable, value in zip(variables, _unpack(statistics, variables), strict=True):
            variable.value.assign(value)

    def _forward_backward_body(
        self, step: Any, replica_id: Any, images: Any, labels: Any, trainable: Any, non_trainable: Any, scale: Any
    ) -> tuple[Any, tf.Tensor, tf.Tensor]:
        """Returns scaled gradients of the mean loss, new BatchNorm statistics (packed), sums of loss and hits."""
        settings = self._settings
        batch = images.shape[0]
        positions = replica_id * batch + tf.range(batch)
        seeds = per_image_seeds(tf.constant(settings.seed), step, positions)
        inputs, targets = self._inputs(images, labels, seeds)
        non_trainable = self._with_fresh_seeds(non_trainable, seeds)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, new_non_trainable = self._model.stateless_call(trainable, non_trainable, inputs, training=True)
            losses = keras.losses.categorical_crossentropy(
                targets, logits, from_logits=True, label_smoothing=settings.label_smoothing
            )
            loss_sum = tf.reduce_sum(losses)
            scaled_loss = loss_sum / settings.global_batch_size * scale
        gradients = tape.gradient(scaled_loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # stateless_call hands back the very tensor that it was given where a layer changed nothing.
        self._changed_indices = [
            index
            for index, (old, new) in enumerate(zip(non_trainable, new_non_trainable, strict=True))
            if new is not old and index not in self._seed_indices
        ]
        statistics = _pack([new_non_trainable[index] for index in self._changed_indices])
        hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
        sums = tf.stack([loss_sum, tf.reduce_sum(tf.cast(hits, tf.float32))])
        if self._num_replicas > 1:  # one vector travels; a single replica keeps the list
            gradients = tf.cast(_pack(gradients), self._settings.all_reduce_dtype)
        return gradients, statistics, sums

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

    def _merged_update(self, strategy: Any, gradients: Any, learning_rate: Any) -> None:
        def update_local(anchor: Any, local_gradients: Any, local_rate: Any) -> None:
            del anchor  # only tells the strategy which devices to update
            # A function of its own for each replica: a traced one keeps the copies that it captured.
            tf.function(self._update_body, autograph=False, **self._compile_options)(local_gradients, local_rate)

        strategy.extended.update(self.loss_scale.scale, update_local, args=(gradients, learning_rate), group=True)

    def _update_body(self, gradients: Any, learning_rate: tf.Tensor) -> None:
        variables = self._model.trainable_variables
        if self._num_replicas > 1:
            gradients = _unpack(tf.cast(gradients, tf.float32), variables)
        if not self.loss_scale.dynamic:
            norm = tf.linalg.global_norm(gradients)
            self._apply(gradients, norm, learning_rate)
            self._shared_sums.assign_add(tf.stack([norm, 0.0]))
            return
        scale = self.loss_scale.scale.read_value()
        gradients = [gradient / scale for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        tf.cond(finite, lambda: self._apply(gradients, norm, learning_rate), lambda: None)
        self.loss_scale.adjust(finite)
        self._shared_sums.assign_add(tf.stack([tf.where(finite, norm, 0.0), tf.cast(~finite, tf.float32)]))

    def _apply(self, gradients: list[tf.Tensor], norm: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Clips, decays, updates and averages the local copy of every trainable variable."""
        settings = self._settings
        if settings.clip_norm:
            factor = settings.clip_norm / tf.maximum(norm, settings.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        variables = self._model.trainable_variables
        for gradient, variable, decayed, multiplier in zip(
            gradients, variables, self._decayed, settings.rate_multipliers, strict=True
        ):
            rate = learning_rate if multiplier == 1.0 else learning_rate * multiplier
            if settings.weight_decay and decayed:
                variable.value.assign_sub(variable.value * (settings.weight_decay * rate))
            self.optimizer.update_step(gradient, variable, rate)
        for average, variable in zip(self.averages, variables, strict=bool(self.averages)):
            average.assign_add((variable.value - average) * (1.0 - self._average_decay()))
        self.optimizer.iterations.value.assign_add(1)

    def _average_decay(self) -> tf.Tensor:
        """Returns the decay, lower in the first updates, so that the initial weights are soon forgotten.

        min(decay, (1 + t) / (10 + t)), the rule of `tf.train.ExponentialMovingAverage(num_updates=t)`.
        """
        updates = tf.cast(self.optimizer.iterations.value, tf.float32)
        return tf.minimum(self._settings.ema_decay, (1.0 + updates) / (10.0 + updates))

    def augmented(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what step 0 would make of a batch, before normalisation: for a look.

        Args:
          images: `[n, height, width, 3] uint8`.
          labels: `[n] int32`.

        Returns:
          (`[n, size, size, 3] float32` in [0, 255], `[n, num_classes] float32` soft labels).
        """
        settings = self._settings
        seeds = per_image_seeds(tf.constant(settings.seed), tf.constant(0), tf.range(len(images)))
        pixels, targets = augment_batch(
            tf.constant(images), tf.constant(labels), seeds,
            settings=settings.augment, image_size=settings.image_size, num_classes=settings.num_classes,
        )  # fmt: skip
        return pixels.numpy(), targets.numpy()

    def reset_sums(self) -> None:
        """Starts a new log interval; call it in cross-replica context."""
        self._local_sums.assign(tf.zeros([2]))
        self._shared_sums.assign(tf.zeros([2]))

    def read_sums(self) -> tf.Tensor:
        """Returns `[4] float32`: sums since the last reset of loss, hits, gradient norm and skipped updates."""
        return tf.concat([self._local_sums.read_value(), self._shared_sums.read_value()], axis=0)


def _pack(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Joins float32 tensors of any shapes into one vector."""
    return tf.concat([tf.zeros([0]), *(tf.reshape(tensor, [-1]) for tensor in tensors)], axis=0)


def _unpack(vector: tf.Tensor, variables: list[Any]) -> list[tf.Tensor]:
    """Cuts a vector made by `_pack` into tensors of the variables' shapes."""
    parts = tf.split(vector, [math.prod(variable.shape) for variable in variables]) if variables else []
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]
