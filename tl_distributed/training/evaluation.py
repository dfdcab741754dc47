"""Evaluation under the strategy: every example exactly once, whatever the batch size and the layout.

Each replica takes its slice of every batch; sums and probabilities are collected on all workers, so that each comes
to the same result.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.splits import EvalBatch, Split
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.pixels.augment import resize_batch
from tl_distributed.pixels.normalize import normalize
from tl_distributed.runtime.devices import Runtime


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Sums over a split, divided once at the end.

    Attributes:
      num_examples: Examples counted.
      loss: Mean cross-entropy in nats, without label smoothing.
      accuracy: Share of right answers, in [0, 1].
      labels: `[num_examples] int32`, in the split's order.
      probabilities: `[num_examples, num_classes] float32` in the same order.
    """

    num_examples: int
    loss: float
    accuracy: float
    labels: np.ndarray
    probabilities: np.ndarray


class Evaluator:
    """Compiled evaluation of one model; the weights are read anew in every call."""

    def __init__(
        self,
        model: keras.Model,
        *,
        features: FeatureLayout | None,
        image_size: int,
        normalization: str,
        runtime: Runtime,
    ):
        """`features`: of the rows of a bank, which the splits hold in place of images; `None` for images."""
        self._model, self._features = model, features
        self._image_size, self._normalization = image_size, normalization
        self._strategy, self._num_replicas = runtime.strategy, runtime.num_replicas
        self._num_workers = runtime.workers.count
        if not runtime.use_xla:
            use_fused_kernels(model)
        self._predict = tf.function(self._predict_body, autograph=False, jit_compile=runtime.use_xla or None)
        self._evaluate_batch = tf.function(self._evaluate_batch_body, autograph=False)

    def evaluate(self, split: Split, *, batch_size: int, averages: Sequence[tf.Variable] = ()) -> Evaluation:
        """Evaluates a split.

        Args:
          split: Read in order.
          batch_size: Global; rounded up to a multiple of the replicas.
          averages: Taken in place of the model's trainable variables, if given.
        """
        batch_size = -(-batch_size // self._num_replicas) * self._num_replicas
        sums, labels, probabilities = np.zeros(3), [], []
        for batch in split.eval_batches(batch_size):
            batch_sums, batch_probabilities = self._evaluate_batch(*_as_tensors(batch), tuple(averages))
            sums += batch_sums.numpy()
            labels.append(batch.labels[: batch.num_valid])
            probabilities.append(batch_probabilities.numpy()[: batch.num_valid])
        count = int(sums[2])
        loss, accuracy = (float(value) / count for value in sums[:2])
        return Evaluation(count, loss, accuracy, np.concatenate(labels), np.concatenate(probabilities))

    def _evaluate_batch_body(self, images: Any, labels: Any, num_valid: Any, averages: Any) -> tuple[Any, Any]:
        """Returns (`[3]` sums of loss, hits and count over the global batch, its probabilities in order)."""

        def in_replica() -> tuple[tf.Tensor, tf.Tensor]:
            replica_id = tf.distribute.get_replica_context().replica_id_in_sync_group
            size = images.shape[0] // self._num_replicas
            first = tf.cast(replica_id, tf.int32) * size
            trainable = averages or [variable.value for variable in self._model.trainable_variables]
            return self._predict(
                images[first : first + size],
                labels[first : first + size],
                first + tf.range(size) < num_valid,
                [tf.convert_to_tensor(variable) for variable in trainable],
                [tf.convert_to_tensor(variable.value) for variable in self._model.non_trainable_variables],
            )

        sums, probabilities = self._strategy.run(in_replica)
        sums = self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)
        if self._num_workers > 1:
            return sums, self._strategy.gather(probabilities, axis=0)
        return sums, tf.concat(self._strategy.experimental_local_results(probabilities), axis=0)

    def _predict_body(self, images: Any, labels: Any, mask: Any, trainable: Any, non_trainable: Any) -> Any:
        if self._features is not None:
            inputs = self._features.split(images)
        else:
            inputs = normalize(resize_batch(images, image_size=self._image_size), self._normalization)
        logits, _ = self._model.stateless_call(trainable, non_trainable, inputs, training=False)
        mask = tf.cast(mask, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels), tf.float32)
        sums = tf.stack([tf.reduce_sum(losses * mask), tf.reduce_sum(hits * mask), tf.reduce_sum(mask)])
        return sums, tf.nn.softmax(logits)


def _as_tensors(batch: EvalBatch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    with tf.device("/cpu:0"):  # uint8 travels to the device inside the step, a replica's slice at a time
        return tf.constant(batch.images), tf.constant(batch.labels), tf.constant(batch.num_valid)
