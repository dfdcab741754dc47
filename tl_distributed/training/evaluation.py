"""Evaluation under the strategy: every example exactly once, whatever the batch size and the layout.

Each replica takes its slice of every batch. What comes of each example stays on the devices until the split is done,
and is summed on the host: each worker and each layout comes to the same result.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.splits import HOST, EvalBatch, Split
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.pixels.augment import resize_batch
from tl_distributed.pixels.normalize import normalize
from tl_distributed.reporting.scores import TOP_K, ExampleScores
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import explicitly_ordered, read_handles
from tl_distributed.runtime.in_flight import map_in_flight

_LOSS, _CONFIDENCE, _IN_TOP_K = range(3)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model says of a split, in the split's order.

    Attributes:
      scores: Of each example; the loss is the cross-entropy in nats, without label smoothing.
      confidences: `[num_examples] float32`, the probability of each prediction.
      probabilities: `[num_examples, num_classes] float32`, or `None` where they were not asked for.
    """

    scores: ExampleScores
    confidences: np.ndarray
    probabilities: np.ndarray | None

    @property
    def num_examples(self) -> int:
        return len(self.scores.labels)

    @property
    def loss(self) -> float:
        return self.scores.loss

    @property
    def accuracy(self) -> float:
        return self.scores.accuracy


class Evaluator:
    """Compiled evaluation of one model; the weights are read anew in every call. Traced once, for all replicas."""

    def __init__(
        self,
        model: keras.Model,
        *,
        features: FeatureLayout | None,
        image_size: int,
        normalization: str,
        runtime: Runtime,
        averages: Mapping[int, tf.Variable] | None = None,
    ):
        """`features`: of the rows of a bank, which the splits hold in place of images; `None` for images.

        `averages`: of some of the model's variables, by the `id` of Keras's variable.
        """
        self._model, self._features, self._averages = model, features, averages or {}
        self._image_size, self._normalization = image_size, normalization
        self._strategy, self._num_replicas = runtime.strategy, runtime.num_replicas
        self._num_workers, self._in_flight = runtime.workers.count, runtime.batches_in_flight
        if not runtime.use_xla:
            use_fused_kernels(model)
        self.function = tf.function(self._read_and_compute, autograph=False, jit_compile=runtime.use_xla or None)
        self._concrete: dict[tuple[int, ...], Any] = {}  # by the shape of a replica's part
        self._batch = functools.cache(self._make_batch)

    def evaluate(
        self, split: Split, *, batch_size: int, use_averages: bool = False, keep_probabilities: bool = False
    ) -> Evaluation:
        """Evaluates a split.

        Args:
          split: Read in order.
          batch_size: Global; rounded up to a multiple of the replicas.
          use_averages: Whether the averages are taken in place of their variables.
          keep_probabilities: Whether those of all classes are kept, which take the room of examples times classes.
        """
        batch_size = -(-batch_size // self._num_replicas) * self._num_replicas
        run, parts, labels = self._batch(use_averages, keep_probabilities), [], []

        def evaluated(batch: EvalBatch) -> tuple[EvalBatch, Any]:
            return batch, run(*_on_host(batch))

        for batch, part in map_in_flight(evaluated, split.eval_batches(batch_size), in_flight=self._in_flight):
            parts.append((batch.num_valid, part))
            labels.append(batch.labels[: batch.num_valid])
        predictions, figures, *probabilities = (
            np.concatenate([np.concatenate([part.numpy() for part in given[index]])[:count] for count, given in parts])
            for index in range(3 if keep_probabilities else 2)
        )
        scores = ExampleScores(
            labels=np.concatenate(labels), predictions=predictions, losses=figures[:, _LOSS],
            in_top_k=figures[:, _IN_TOP_K] > 0,
        )  # fmt: skip
        return Evaluation(scores, figures[:, _CONFIDENCE], probabilities[0] if keep_probabilities else None)

    def _make_batch(self, use_averages: bool, keep_probabilities: bool) -> Any:
        """Returns a function of a global batch on the host: its predictions, figures and probabilities, in parts."""

        def in_replica(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            replica_id = tf.distribute.get_replica_context().replica_id_in_sync_group
            size = images.shape[0] // self._num_replicas
            with tf.device(HOST):  # so that only the replica's own part goes to its device
                first = tf.cast(replica_id, tf.int32) * size
                images, labels = images[first : first + size], labels[first : first + size]
            arguments = (
                tf.identity(images), tf.identity(labels), self._handles(self._model.trainable_variables, use_averages),
                self._handles(self._model.non_trainable_variables, use_averages),
            )  # fmt: skip
            if (program := self._concrete.get(tuple(images.shape))) is None:
                program = self._concrete[tuple(images.shape)] = self.function.get_concrete_function(*arguments)
            predictions, figures, probabilities = program(*arguments)
            return (predictions, figures, probabilities) if keep_probabilities else (predictions, figures)

        def run(images: tf.Tensor, labels: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
            results = self._strategy.run(in_replica, args=(images, labels))
            if self._num_workers > 1:
                return [(self._strategy.gather(result, axis=0),) for result in results]
            return [self._strategy.experimental_local_results(result) for result in results]

        return explicitly_ordered(run)

    def _handles(self, variables: list[Any], use_averages: bool) -> list[tf.Tensor]:
        averages = self._averages if use_averages else {}
        return [averages.get(id(variable), variable.value).handle for variable in variables]

    def _read_and_compute(self, images: Any, labels: Any, trainable: Any, non_trainable: Any) -> Any:
        return self.compute(
            images, labels,
            read_handles(trainable, self._model.trainable_variables),
            read_handles(non_trainable, self._model.non_trainable_variables),
        )  # fmt: skip

    def compute(self, images: Any, labels: Any, trainable: Any, non_trainable: Any) -> Any:
        """The program on values in place of handles.

        Returns:
          Predictions `[n] int64`; loss, confidence and whether the label is among the best five, `[n, 3] float32`;
          probabilities `[n, num_classes] float32`.
        """
        if self._features is not None:
            inputs = self._features.split(images)
        else:
            inputs = normalize(resize_batch(images, image_size=self._image_size), self._normalization)
        with folded_batch_norm(self._model):
            logits, _ = self._model.stateless_call(trainable, non_trainable, inputs, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        probabilities = tf.nn.softmax(logits)
        # As a stable sort would have it: classes of the same logit in their order.
        own = tf.gather(logits, labels, batch_dims=1)[:, tf.newaxis]
        before = tf.range(logits.shape[1])[tf.newaxis] < labels[:, tf.newaxis]
        better = tf.reduce_sum(tf.cast((logits > own) | ((logits == own) & before), tf.float32), axis=1)
        figures = tf.stack([losses, tf.reduce_max(probabilities, axis=1), tf.cast(better < TOP_K, tf.float32)], axis=1)
        return tf.argmax(logits, axis=-1), figures, probabilities  # int64: TensorFlow keeps int32 on the host


def _on_host(batch: EvalBatch) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.device(HOST):
        return tf.constant(batch.images), tf.constant(batch.labels)
