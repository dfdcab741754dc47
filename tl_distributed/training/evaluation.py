"""Evaluation under the strategy: every example exactly once, whatever the batch size and the layout.

Each replica takes its slice of every batch, and each worker reads those of its replicas alone. What comes of each
example stays on the devices until the split is done, and is summed on the host: each worker and each layout comes to
the same result.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.fit_rules import DEFAULT_FIT, Fit
from tl_distributed.data.host import HOST
from tl_distributed.data.splits import Batch, EvalBatch, Split
from tl_distributed.errors import UserError
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.pixels.fit import evaluation_view
from tl_distributed.pixels.normalize import normalize
from tl_distributed.reporting.scores import ExampleScores
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import explicitly_ordered, read_handles
from tl_distributed.runtime.in_flight import map_in_flight
from tl_distributed.training.tasks import Classification, Scored, Task

_LABELS, _NUMBERS, _PROBABILITIES, _TEMPERED = "labels", "numbers", "probabilities", "tempered"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model says of a split, in the split's order.

    Attributes:
      task: By which it is scored.
      scored: What the task's metrics come of; probabilities where they were asked for, or the task needs them.
      tempered: Of a task that calibrates, the scores at each of the temperatures that were asked for: of
        softmax(logits / T).
      slopes: `[num_examples, temperatures] float32`: of the losses by 1 / T (`calibration.fit_temperature`).
    """

    task: Task
    scored: Scored
    tempered: tuple[ExampleScores, ...]
    slopes: np.ndarray

    @property
    def num_examples(self) -> int:
        return len(self.scored.labels)

    @property
    def probabilities(self) -> np.ndarray | None:
        """`[num_examples, num_classes] float32`, in [0, 1] but for a task that leaves its outputs as they are."""
        return self.scored.probabilities

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """Of the task, by name; a search for a temperature asks for none of them.

        Raises:
          UserError: Metrics that a task of one's own names and does not return.
        """
        found = self.task.metrics(self.scored)
        if missing := [name for name in ("loss", *self.task.metric_names) if name not in found]:
            raise UserError(f"task {self.task.name}: its metrics lack {missing[0]}")
        return found

    @property
    def scores(self) -> ExampleScores:
        """Of each example; of a classification alone."""
        return self.task.example_scores(self.scored)

    @property
    def loss(self) -> float:
        return self.metrics["loss"]

    @property
    def accuracy(self) -> float:
        """Of a classification."""
        return self.metrics["accuracy"]


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
        task: Task | None = None,
    ):
        """`features`: of the rows of a bank, which the splits hold in place of images; `None` for images.

        `averages`: of some of the model's variables, by the `id` of Keras's variable. `fit`: of pictures that are
        stored whole. `task`: by which it scores; `None` for classification.
        """
        self._model, self._features, self._averages = model, features, averages or {}
        self._task = task or Classification()
        self._numbers: tuple[str, ...] = ()  # the task's figures of one number an image; known once it is traced
        self._image_size, self._normalization, self._fit = image_size, normalization, fit
        self._strategy, self._num_replicas = runtime.strategy, runtime.num_replicas
        self._num_workers, self._in_flight = runtime.workers.count, runtime.batches_in_flight
        self._local_replicas = runtime.local_replicas
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
        on_batch: Callable[[int], None] = lambda num_images: None,
    ) -> Evaluation:
        """Evaluates a split.

        Args:
          split: Read in order.
          batch_size: Global; rounded up to a multiple of the replicas.
          use_averages: Whether the averages are taken in place of their variables.
          keep_probabilities: Whether those of all classes are kept, which take the room of examples times classes.
          temperatures: Above 0, of a task that calibrates; of what they make of each example three numbers are kept,
            whatever the classes.
          on_batch: Called after each batch with the number of its images, by every worker; what it raises ends the
            evaluation.
        """
        batch_size = -(-batch_size // self._num_replicas) * self._num_replicas
        keep_probabilities = keep_probabilities or self._task.needs_probabilities
        size = batch_size // self._num_replicas
        own_rows = slice(self._local_replicas.start * size, self._local_replicas.stop * size)
        run, parts = self._batch(use_averages, keep_probabilities), []
        with tf.device(HOST):
            asked = tf.constant(temperatures, tf.float32) if temperatures else None

        def evaluated(batch: EvalBatch) -> tuple[EvalBatch, Any]:
            return batch, run(_on_host(batch), asked)

        batches = split.eval_batches(batch_size, rows=own_rows)
        for batch, part in map_in_flight(evaluated, batches, in_flight=self._in_flight):
            parts.append((batch.num_valid, part))
            on_batch(batch.num_valid)
        columns = {name: _joined([(count, given[name]) for count, given in parts]) for name in parts[0][1]}
        given, probabilities = columns.pop(_LABELS).astype(np.int32), columns.pop(_PROBABILITIES, None)
        columns |= dict(zip(self._numbers, columns.pop(_NUMBERS).T, strict=True))
        at_temperatures = columns.pop(_TEMPERED, np.zeros([len(given), 0], np.float32))
        scored = Scored(given, columns, probabilities, self._model.output_shape[-1])
        tempered = [
            dataclasses.replace(self._task.example_scores(scored), losses=loss, confidences=confidence)
            for loss, confidence in zip(at_temperatures.T[::3], at_temperatures.T[1::3], strict=True)
        ]
        return Evaluation(self._task, scored, tuple(tempered), at_temperatures[:, 2::3])

    def _make_batch(self, use_averages: bool, keep_probabilities: bool) -> Any:
        """Returns a function of this worker's rows of a global batch, on the host.

        It returns labels, and what `compute` makes of the whole batch, by name, each in parts.
        """

        def in_replica(batch: Batch, temperatures: tf.Tensor | None) -> dict[str, tf.Tensor]:
            replica_id = tf.distribute.get_replica_context().replica_id_in_sync_group
            size = batch.labels.shape[0] // len(self._local_replicas)
            with tf.device(HOST):  # so that only the replica's own part goes to its device
                first = (tf.cast(replica_id, tf.int32) - self._local_replicas.start) * size
                own = [None if part is None else part[first : first + size] for part in batch]
            part_of_batch = Batch(*(None if part is None else tf.identity(part) for part in own))
            arguments = (
                part_of_batch,
                self._handles(self._model.trainable_variables, use_averages),
                self._handles(self._model.non_trainable_variables, use_averages),
                None if temperatures is None else tf.identity(temperatures),
            )  # fmt: skip
            shape = (*own[0].shape, 0 if temperatures is None else temperatures.shape[0])
            if (program := self._concrete.get(shape)) is None:
                program = self._concrete[shape] = self.function.get_concrete_function(*arguments)
            # On the replica's device: of what lies elsewhere a gather over workers of several replicas never ends.
            found = {_LABELS: tf.cast(part_of_batch.labels, tf.int64), **program(*arguments)}
            return {name: part for name, part in found.items() if keep_probabilities or name != _PROBABILITIES}

        def run(batch: Batch, temperatures: tf.Tensor | None) -> dict[str, tuple[tf.Tensor, ...]]:
            results = self._strategy.run(in_replica, args=(batch, temperatures))
            if self._num_workers > 1:
                return {name: (self._strategy.gather(result, axis=0),) for name, result in results.items()}
            return {name: self._strategy.experimental_local_results(result) for name, result in results.items()}

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
          The task's figures by name, `[n, ...]` each, but those of one float32 number an image in one tensor,
          "numbers"; "probabilities", `[n, num_classes] float32`; with temperatures "tempered", `[n, 3 t] float32`: for
          each of them loss, confidence and slope.
        """
        images, labels, sizes = batch
        if self._features is not None:
            inputs = self._features.split(images)
        else:
            pixels = evaluation_view(images, sizes, image_size=self._image_size, fit=self._fit)
            inputs = normalize(pixels, self._normalization)
        with folded_batch_norm(self._model):
            outputs, _ = self._model.stateless_call(trainable, non_trainable, inputs, training=False)
        found = dict(self._task.figures(labels, outputs))
        if taken := {_LABELS, _NUMBERS, _PROBABILITIES, _TEMPERED} & set(found):
            raise UserError(f"task {self._task.name}: its figures may not be called {taken.pop()}")
        if "loss" not in found:
            raise UserError(f"task {self._task.name}: its figures lack loss, [batch] float32")
        numbers = {name: part for name, part in found.items() if part.shape.rank == 1 and part.dtype == tf.float32}
        self._numbers = tuple(numbers)
        found = {name: part for name, part in found.items() if name not in numbers}
        found[_NUMBERS] = tf.stack(list(numbers.values()), axis=1)
        if temperatures is not None:
            found[_TEMPERED] = _at_temperatures(outputs, labels, temperatures)
        return {**found, _PROBABILITIES: activated(outputs, self._task.activation)}


def _joined(parts: Sequence[tuple[int, Sequence[tf.Tensor]]]) -> np.ndarray:
    """Returns the real rows of the batches of a split; each batch lies in parts."""
    return np.concatenate([np.concatenate([one.numpy() for one in given])[:count] for count, given in parts])


def activated(outputs: tf.Tensor, activation: str) -> tf.Tensor:
    """Returns what a saved model returns of a network's outputs; `activation` is softmax, sigmoid or linear."""
    return {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid, "linear": tf.identity}[activation](outputs)


def _at_temperatures(logits: Any, labels: Any, temperatures: Any) -> tf.Tensor:
    """Returns loss, confidence and slope of the loss by 1 / T, at one temperature after the other: `[n, 3 t] float32`.

    One at a time: all of them at once would take the room of examples times classes times temperatures.

    Args:
      logits: `[n, num_classes] float32`.
      labels: `[n] int32`.
      temperatures: `[t] float32`.
    """
    own = tf.gather(logits, labels, batch_dims=1)[:, tf.newaxis]

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
