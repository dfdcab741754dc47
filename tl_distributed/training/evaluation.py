"""Evaluation under the strategy: every example exactly once, whatever the batch size and the layout.

Each replica takes its slice of every batch. What comes of each example stays on the devices until the split is done,
and is summed on the host: each worker and each layout comes to the same result.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.fit_rules import DEFAULT_FIT, Fit
from tl_distributed.data.host import HOST
from tl_distributed.data.splits import Batch, EvalBatch, Split
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.pixels.fit import evaluation_view
from tl_distributed.pixels.normalize import normalize
from tl_distributed.reporting.scores import TOP_K, ExampleScores
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import explicitly_ordered, read_handles
from tl_distributed.runtime.in_flight import map_in_flight

_LOSS, _CONFIDENCE, _IN_TOP_K = range(3)
_SLOPE = 2  # in place of _IN_TOP_K, which no temperature changes


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model says of a split, in the split's order.

    Attributes:
      scores: Of each example; the loss is the cross-entropy in nats, without label smoothing, weights or focus.
      probabilities: `[num_examples, num_classes] float32`, or `None` where they were not asked for.
      tempered: The scores at each of the temperatures that were asked for: of softmax(logits / T).
      slopes: `[num_examples, temperatures] float32`: of the losses by 1 / T (`calibration.fit_temperature`).
    """

    scores: ExampleScores
    probabilities: np.ndarray | None
    tempered: tuple[ExampleScores, ...]
    slopes: np.ndarray

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
        fit: Fit = DEFAULT_FIT,
    ):
        """`features`: of the rows of a bank, which the splits hold in place of images; `None` for images.

        `averages`: of some of the model's variables, by the `id` of Keras's variable. `fit`: of pictures that are
        stored whole.
        """
        self._model, self._features, self._averages = model, features, averages or {}
        self._image_size, self._normalization, self._fit = image_size, normalization, fit
        self._strategy, self._num_replicas = runtime.strategy, runtime.num_replicas
        self._num_workers, self._in_flight = runtime.workers.count, runtime.batches_in_flight
        if not runtime.use_xla:
            use_fused_kernels(model)
        self.function = tf.function(self._read_and_compute, autograph=False, jit_compile=runtime.use_xla or None)
        self._concrete: dict[tuple[int, ...], Any] = {}  # by the shape of a replica's part
        self._batch = functools.cache(self._make_batch)

    def evaluate(
        self,
        split: Split,
        *,
        batch_size: int,
        use_averages: bool = False,
        keep_probabilities: bool = False,
        temperatures: Sequence[float] = (),
    ) -> Evaluation:
        """Evaluates a split.

        Args:
          split: Read in order.
          batch_size: Global; rounded up to a multiple of the replicas.
          use_averages: Whether the averages are taken in place of their variables.
          keep_probabilities: Whether those of all classes are kept, which take the room of examples times classes.
          temperatures: Above 0; of what they make of each example three numbers are kept, whatever the classes.
        """
        batch_size = -(-batch_size // self._num_replicas) * self._num_replicas
        run, parts, labels = self._batch(use_averages, keep_probabilities), [], []
        with tf.device(HOST):
            asked = tf.constant(temperatures, tf.float32) if temperatures else None

        def evaluated(batch: EvalBatch) -> tuple[EvalBatch, Any]:
            return batch, run(_on_host(batch), asked)

        for batch, part in map_in_flight(evaluated, split.eval_batches(batch_size), in_flight=self._in_flight):
            parts.append((batch.num_valid, part))
            labels.append(batch.labels[: batch.num_valid])
        predictions, figures, *probabilities = (
            np.concatenate([np.concatenate([part.numpy() for part in given[index]])[:count] for count, given in parts])
            for index in range(3 if keep_probabilities else 2)
        )
        given, in_top_k = np.concatenate(labels), figures[:, _IN_TOP_K] > 0
        own, *others = (figures[:, first : first + 3] for first in range(0, figures.shape[1], 3))
        scores, *tempered = (
            ExampleScores(
                labels=given, predictions=predictions, losses=part[:, _LOSS], in_top_k=in_top_k,
                confidences=part[:, _CONFIDENCE],
            )
            for part in (own, *others)
        )  # fmt: skip
        slopes = figures[:, 3 + _SLOPE :: 3]
        return Evaluation(scores, probabilities[0] if keep_probabilities else None, tuple(tempered), slopes)

    def _make_batch(self, use_averages: bool, keep_probabilities: bool) -> Any:
        """Returns a function of a global batch on the host: its predictions, figures and probabilities, in parts."""

        def in_replica(batch: Batch, temperatures: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
            replica_id = tf.distribute.get_replica_context().replica_id_in_sync_group
            size = batch.labels.shape[0] // self._num_replicas
            with tf.device(HOST):  # so that only the replica's own part goes to its device
                first = tf.cast(replica_id, tf.int32) * size
                own = [None if part is None else part[first : first + size] for part in batch]
            arguments = (
                Batch(*(None if part is None else tf.identity(part) for part in own)),
                self._handles(self._model.trainable_variables, use_averages),
                self._handles(self._model.non_trainable_variables, use_averages),
                None if temperatures is None else tf.identity(temperatures),
            )  # fmt: skip
            shape = (*own[0].shape, 0 if temperatures is None else temperatures.shape[0])
            if (program := self._concrete.get(shape)) is None:
                program = self._concrete[shape] = self.function.get_concrete_function(*arguments)
            predictions, figures, probabilities = program(*arguments)
            return (predictions, figures, probabilities) if keep_probabilities else (predictions, figures)

        def run(batch: Batch, temperatures: tf.Tensor | None) -> list[tuple[tf.Tensor, ...]]:
            results = self._strategy.run(in_replica, args=(batch, temperatures))
            if self._num_workers > 1:
                return [(self._strategy.gather(result, axis=0),) for result in results]
            return [self._strategy.experimental_local_results(result) for result in results]

        return explicitly_ordered(run)

    def _handles(self, variables: list[Any], use_averages: bool) -> list[tf.Tensor]:
        averages = self._averages if use_averages else {}
        return [averages.get(id(variable), variable.value).handle for variable in variables]

    def _read_and_compute(self, batch: Batch, trainable: Any, non_trainable: Any, temperatures: Any) -> Any:
        return self.compute(
            batch,
            read_handles(trainable, self._model.trainable_variables),
            read_handles(non_trainable, self._model.non_trainable_variables), temperatures,
        )  # fmt: skip

    def compute(self, batch: Batch, trainable: Any, non_trainable: Any, temperatures: Any = None) -> Any:
        """The program on values in place of handles; `temperatures` is `[t] float32`, or `None` of none.

        Returns:
          Predictions `[n] int64`; loss, confidence and whether the label is among the best five, then for each
          temperature loss, confidence and slope, `[n, 3 + 3 t] float32`; probabilities `[n, num_classes] float32`.
        """
        images, labels, sizes = batch
        if self._features is not None:
            inputs = self._features.split(images)
        else:
            pixels = evaluation_view(images, sizes, image_size=self._image_size, fit=self._fit)
            inputs = normalize(pixels, self._normalization)
        with folded_batch_norm(self._model):
            logits, _ = self._model.stateless_call(trainable, non_trainable, inputs, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        probabilities = tf.nn.softmax(logits)
        # As a stable sort would have it: classes of the same logit in their order.
        own = tf.gather(logits, labels, batch_dims=1)[:, tf.newaxis]
        before = tf.range(logits.shape[1])[tf.newaxis] < labels[:, tf.newaxis]
        better = tf.reduce_sum(tf.cast((logits > own) | ((logits == own) & before), tf.float32), axis=1)
        figures = tf.stack([losses, tf.reduce_max(probabilities, axis=1), tf.cast(better < TOP_K, tf.float32)], axis=1)
        if temperatures is not None:
            figures = tf.concat([figures, _at_temperatures(logits, labels, own, temperatures)], axis=1)
        return tf.argmax(logits, axis=-1), figures, probabilities  # int64: TensorFlow keeps int32 on the host


def _at_temperatures(logits: Any, labels: Any, own: Any, temperatures: Any) -> tf.Tensor:
    """Returns loss, confidence and slope of the loss by 1 / T, at one temperature after the other: `[n, 3 t] float32`.

    One at a time: all of them at once would take the room of examples times classes times temperatures.

    Args:
      logits: `[n, num_classes] float32`.
      labels: `[n] int32`.
      own: `[n, 1] float32`, the labels' logits.
      temperatures: `[t] float32`.
    """

    def at(temperature: tf.Tensor) -> tf.Tensor:
        scaled = logits / temperature
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scaled)
        probabilities = tf.nn.softmax(scaled)
        slopes = tf.reduce_sum(probabilities * (logits - own), axis=1)
        return tf.stack([losses, tf.reduce_max(probabilities, axis=1), slopes], axis=1)

    parts = tf.map_fn(at, temperatures, fn_output_signature=tf.float32, parallel_iterations=1)  # [t, n, 3]
    return tf.reshape(tf.transpose(parts, [1, 0, 2]), [logits.shape[0], 3 * temperatures.shape[0]])


def _on_host(batch: EvalBatch) -> Batch:
    with tf.device(HOST):
        parts = (batch.images, batch.labels, batch.sizes)
        return Batch(*(None if part is None else tf.constant(part) for part in parts))
