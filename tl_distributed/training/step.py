"""The engine: one training step as two programs a replica, with every collective between them.

1. `forward.ForwardBackward` (pure, compiled, traced once): a batch of bytes in, gradients and new BatchNorm statistics
   out. With `--gradient_buckets` in several programs (`buckets`), so that the first gradients leave before the last.
2. In replica context: one sum over the replicas, or one for each of these buckets.
3. `update.Update` (compiled, traced once) through `merge_call` and `strategy.extended.update`, in which every
   variable resolves to the local copy.

Losses are sums divided once by the global batch size, so replicas' gradients add up to those of one device; of a task
with weights, the update divides what came of it by their mean over the global batch.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.data.splits import Batch
from tl_distributed.pixels.augment import augment_batch
from tl_distributed.pixels.seeds import per_image_seeds
from tl_distributed.runtime.all_reduce import all_reduce_in_order
from tl_distributed.runtime.devices import Runtime
from tl_distributed.training.buckets import BucketedForwardBackward
from tl_distributed.training.forward import ForwardBackward, Results
from tl_distributed.training.loss_scale import make_loss_scale
from tl_distributed.training.segments import split_for_buckets
from tl_distributed.training.step_settings import StepSettings
from tl_distributed.training.update import Update

_LOG = logging.getLogger(__name__)


class TrainStep:
    """One phase's step: built when the phase begins, since what trains differs between phases.

    Attributes:
      optimizer: The Keras optimizer, built for the model's trainable variables.
      loss_scale: Its variables; constant 1 without float16.
      averages: Exponential moving averages by the `id` of Keras's variable, in the order of the model's: of those that
        train, and of BatchNorm's statistics, which would not fit averaged weights otherwise (timm's ModelEmaV2 averages
        both too). None without `ema_decay`.
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
        self._model, self._settings = model, settings
        self._strategy, self._num_replicas = runtime.strategy, runtime.num_replicas
        self._first_replica = runtime.first_replica
        self.forward_backward = _first_program(model, settings, runtime)
        with self._strategy.scope():
            self.optimizer = make_optimizer()
            self.optimizer.build(model.trainable_variables)
            self.loss_scale = make_loss_scale(runtime.precision)
            self._sums = tf.Variable(tf.zeros([self.num_sums]), trainable=False, name="sums")
            averaged = [*model.trainable_variables, *_moving_statistics(model)] if settings.ema_decay else []
            self.update = Update(
                model.trainable_variables, lambda: self.forward_backward.changed, self.optimizer, self.loss_scale,
                averaged, self._sums, learning_rate, settings, buckets=self.forward_backward.buckets,
                use_xla=runtime.use_xla,
            )  # fmt: skip
            self.averages = dict(zip(map(id, averaged), self.update.averages, strict=True))

    @property
    def num_sums(self) -> int:
        """Of the sums between two logs: of loss, the task's measures, gradient norm and skipped updates."""
        return 3 + len(self._settings.task.measure_names)

    @property
    def trainable_variables(self) -> list[Any]:
        """What trains: of a whole model, or of one that begins at a bank."""
        return self._model.trainable_variables

    @property
    def global_batch_size(self) -> int:
        """Images in a step, over all replicas."""
        return self._settings.global_batch_size

    def replica_step(self, step: tf.Tensor, batch: Batch, token: tf.Tensor) -> tf.Tensor:
        """Runs one step in replica context; returns the token of its update.

        Args:
          step: int64 scalar, the run's step.
          batch: This replica's part of it.
          token: float32 scalar, there when the replica's last update is done: what this step's reads wait for.
        """
        replica = tf.distribute.get_replica_context()
        replica_id = tf.cast(replica.replica_id_in_sync_group, tf.int32)
        # Sent by operations of their own: what a function inlined on a device takes from the host waits for the device.
        step, batch = tf.identity(step), Batch(*(None if part is None else tf.identity(part) for part in batch))
        scale = self.loss_scale.scale if self.loss_scale.dynamic else None
        results = self.forward_backward(step, replica_id, batch, scale, token)
        if self._num_replicas > 1:
            results = self._summed(replica, results)
        tokens = replica.merge_call(self._merged_update, args=(step, *results))
        return tokens[local_index(replica, self._first_replica)]

    def _summed(self, replica: Any, results: Results) -> Results:
        """Sums over the replicas, of statistics the mean: a vector a bucket, one more where types differ."""
        small = tf.concat([results.statistics / self._num_replicas, results.sums], axis=0)
        num_statistics, (first, *others) = results.statistics.shape[0], results.gradients
        # The forward pass is over before the first bucket is there: the small ones travel with it.
        if first.dtype == small.dtype:
            vector, *others = all_reduce_in_order(replica, [tf.concat([first, small], axis=0), *others])
            first, small = vector[: -small.shape[0]], vector[-small.shape[0] :]
        else:
            (first, small), *others = all_reduce_in_order(replica, [(first, small), *others])
        return Results([first, *others], small[:num_statistics], small[num_statistics:])

    def _merged_update(self, strategy: Any, step: Any, gradients: Any, statistics: Any, sums: Any) -> Any:
        def update_local(anchor: Any, step: Any, gradients: Any, statistics: Any, sums: Any) -> tf.Tensor:
            del anchor  # only tells the strategy which devices to update
            norm = self.update(step, Results(gradients, statistics, sums))
            with tf.control_dependencies([norm.op]):  # the whole program, not only this output of it
                return tf.identity(norm)

        return strategy.extended.update(
            self.loss_scale.scale, update_local, args=(step, gradients, statistics, sums), group=False
        )

    def augmented(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns what step 0 would make of a batch, before normalisation: for a look.

        Args:
          batch: `[n]` images, as arrays.

        Returns:
          (`[n, size, size, 3] float32` in [0, 255], `[n, num_classes] float32` targets).
        """
        settings = self._settings
        seeds = per_image_seeds(tf.constant(settings.seed), tf.constant(0), tf.range(len(batch.labels)))
        images, labels, sizes = (None if part is None else tf.constant(part) for part in batch)
        pixels, targets = augment_batch(
            images, labels, seeds,
            settings=settings.augment, image_size=settings.image_size, num_classes=settings.num_classes,
            sizes=sizes, fit=settings.fit,
            targets=settings.task.targets(labels, settings.num_classes), own=settings.own_augmentation,
        )  # fmt: skip
        return pixels.numpy(), targets.numpy()

    def reset_sums(self) -> None:
        """Starts a new log interval; call it in cross-replica context."""
        self._sums.assign(tf.zeros([self.num_sums]))

    def read_sums(self) -> tf.Tensor:
        """Returns `[num_sums] float32`: sums since the last reset of loss, measures, gradient norm, skipped updates."""
        return self._sums.read_value()


def local_index(replica: tf.distribute.ReplicaContext, first_replica: int) -> int:
    """Returns the place of a replica among those of its worker, of which the first has the number `first_replica`."""
    return int(tf.get_static_value(replica.replica_id_in_sync_group)) - first_replica


def _first_program(model: keras.Model, settings: StepSettings, runtime: Runtime) -> ForwardBackward:
    """Returns it in as many buckets as are asked for and can be had; one replica sends no gradients."""
    if settings.gradient_buckets == 1 or runtime.num_replicas == 1:
        return ForwardBackward(model, settings, runtime)
    segments = split_for_buckets(model, settings.gradient_buckets)
    shares = [sum(math.prod(variable.shape) for variable in segment.trainable) for segment in reversed(segments)]
    _LOG.info(
        "Gradients travel in %d parts of %s million numbers, the last layers' first.",
        len(segments), ", ".join(f"{share / 1e6:.2f}" for share in shares),
    )  # fmt: skip
    if len(segments) == 1:
        return ForwardBackward(model, settings, runtime)
    return BucketedForwardBackward(model, segments, settings, runtime)


def _moving_statistics(model: keras.Model) -> list[Any]:
    """Returns the BatchNorm statistics that training changes."""
    return [
        variable
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for variable in layer.non_trainable_variables
        if "seed_generator" not in variable.path
    ]
