"""Computes a feature bank, shard by shard, going on where a build stopped.

Of several workers each builds its share of the shards; its replicas share each batch.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.layout import BankShard, BankShardWriter, FeatureLayout, note_build_seconds
from tl_distributed.data.fit_rules import DEFAULT_FIT, Fit
from tl_distributed.data.host import HOST
from tl_distributed.data.shards import RecordFormat, read_in_order
from tl_distributed.data.splits import Batch
from tl_distributed.errors import UserError, tensorflow_cause
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.pixels.augment import augment_batch
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.pixels.fit import evaluation_view
from tl_distributed.pixels.normalize import normalize
from tl_distributed.pixels.seeds import per_image_seeds
from tl_distributed.progress import Progress
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.handles import explicitly_ordered, handles_of, read_handles
from tl_distributed.runtime.in_flight import map_in_flight
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers

_LOG = logging.getLogger(__name__)
_PLAIN = -1  # in the place of a view's number


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What the features depend on beside weights and images.

    Attributes:
      image_size: Side in pixels that the backbone sees.
      normalization: Of the backbone.
      augment: Augmentations of the views, resolved, or `None` for plain images.
      seed: Of the views, and of the choice of a part of the images.
      fit: Of pictures that are stored whole, see `pixels.fit`.
    """

    image_size: int
    normalization: str
    augment: AugmentSettings | None
    seed: int
    fit: Fit = DEFAULT_FIT


class ImageSource(Protocol):
    """Where the images of a bank's shards are read."""

    def batches(self, shards: Sequence[BankShard], batch_size: int) -> Iterator[Batch]:
        """Yields the shards' images in order, at most `batch_size` at once, as arrays.

        Raises:
          UserError: A file that cannot be read, or does not hold what it should.
        """


@dataclasses.dataclass(frozen=True)
class ShardImages:
    """The images of the data set's own shards, whose records have this format."""

    format: RecordFormat

    def batches(self, shards: Sequence[BankShard], batch_size: int) -> Iterator[Batch]:
        files, expected = [shard.source for shard in shards], sum(len(shard.examples) for shard in shards)
        return read_in_order(files, expected, self.format, batch_size=batch_size)


class ImagesOfSplit(Protocol):
    """The images of a split, or of a part of it, of which any can be had by its place.

    Attributes:
      num_examples: As many as there are.
    """

    num_examples: int

    def examples(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices [k]` as arrays; asked for a part of a split alone."""


@dataclasses.dataclass(frozen=True)
class HeldImages:
    """The images of a part of a split that is held in memory."""

    split: ImagesOfSplit

    def batches(self, shards: Sequence[BankShard], batch_size: int) -> Iterator[Batch]:
        indices = np.concatenate([np.asarray(shard.examples) for shard in shards])
        for start in range(0, len(indices), batch_size):
            yield self.split.examples(indices[start : start + batch_size])


class BankBuilder:
    """Compiled once for a prefix; builds any shards of it."""

    def __init__(self, prefix: keras.Model, layout: FeatureLayout, settings: FeatureSettings, runtime: Runtime):
        self._prefix, self._layout, self._settings = prefix, layout, settings
        self._strategy, self._workers = runtime.strategy, runtime.workers
        self._num_replicas, self._first_replica = runtime.num_local_replicas, runtime.first_replica
        self._in_flight = runtime.batches_in_flight
        if not runtime.use_xla:
            use_fused_kernels(prefix)
        self.function = tf.function(self._read_and_compute, autograph=False, jit_compile=runtime.use_xla or None)
        self._concrete: Any = None
        self._global_batch = explicitly_ordered(self._global_batch_body)

    def build(
        self, shards: Sequence[BankShard], images: ImageSource, *, label: str, batch_size: int, stop: StopRequest
    ) -> None:
        """Builds shards in order; each is there as soon as it is finished.

        Args:
          shards: That are missing; every worker is given the same.
          images: Where their images are read.
          label: Of the progress: the split.
          batch_size: Of all workers; a worker's part is rounded up to a multiple of its replicas.
          stop: Asked between batches.

        Raises:
          UserError: A source that cannot be read, or a device out of memory.
          SystemExit: 128 + the signal's number, when a signal asked any worker to stop.
        """
        shards = shards[self._workers.index :: self._workers.count]
        batch_size = -(-batch_size // self._workers.count // self._num_replicas) * self._num_replicas
        silent = not self._workers.is_chief
        total = sum(len(shard.examples) for shard in shards)
        progress = Progress(total=total, unit="images", label=f"Feature bank, {label}", silent=silent)
        with contextlib.suppress(_Stopped), progress:
            for view in dict.fromkeys(shard.view for shard in shards):
                members = [shard for shard in shards if shard.view == view]
                _write(members, self._rows(members, images, batch_size), progress, stop, self._workers)
        if stop.agree():
            _LOG.info("Stopped; the shards that are finished are kept, and the same command goes on.")
            raise SystemExit(128 + stop.signal_number)

    def _rows(
        self, shards: list[BankShard], images: ImageSource, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows of features and their labels, in order."""
        positions = np.concatenate([np.asarray(shard.examples, np.int32) for shard in shards])
        view = _PLAIN if shards[0].view is None else shards[0].view

        def batches() -> Iterator[tuple[Batch, np.ndarray]]:
            done = 0
            for batch in images.batches(shards, batch_size):
                yield batch, positions[done : done + len(batch.labels)]
                done += len(batch.labels)

        def computed(given: tuple[Batch, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            batch, chosen = given
            with tf.device(HOST):
                sizes = None if batch.sizes is None else tf.constant(_padded(batch.sizes, batch_size))
                arguments = (
                    tf.constant(_padded(batch.images, batch_size)), sizes, tf.constant(_padded(chosen, batch_size)),
                    tf.constant(view),
                )  # fmt: skip
            rows = [part.numpy() for part in self._global_batch(*arguments)]
            return np.concatenate(rows)[: len(batch.labels)], batch.labels

        try:
            yield from map_in_flight(computed, batches(), in_flight=self._in_flight)
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(
                f"out of memory while building the feature bank ({tensorflow_cause(error.message)}); try a smaller "
                "--global_batch_size or --image_size"
            ) from None

    def _global_batch_body(self, images: Any, sizes: Any, positions: Any, view: Any) -> tuple[tf.Tensor, ...]:
        def in_replica() -> tf.Tensor:
            replica_id = tf.distribute.get_replica_context().replica_id_in_sync_group
            size = images.shape[0] // self._num_replicas
            with tf.device(HOST):  # so that only the replica's own part goes to its device
                first = (tf.cast(replica_id, tf.int32) - self._first_replica) * size
                own = [part[first : first + size] for part in (images, positions)]
                own_sizes = None if sizes is None else sizes[first : first + size]
            images_of, positions_of = map(tf.identity, own)
            arguments = (
                images_of, None if own_sizes is None else tf.identity(own_sizes), positions_of, tf.identity(view),
                handles_of(self._prefix.trainable_variables),
                handles_of(self._prefix.non_trainable_variables),
            )  # fmt: skip
            if self._concrete is None:
                self._concrete = self.function.get_concrete_function(*arguments)
            return self._concrete(*arguments)

        return self._strategy.experimental_local_results(self._strategy.run(in_replica))

    def _read_and_compute(
        self, images: Any, sizes: Any, positions: Any, view: Any, trainable: Any, non_trainable: Any
    ) -> tf.Tensor:
        return self.compute(
            images, sizes, positions, view,
            read_handles(trainable, self._prefix.trainable_variables),
            read_handles(non_trainable, self._prefix.non_trainable_variables),
        )  # fmt: skip

    def compute(
        self, images: Any, sizes: Any, positions: Any, view: Any, trainable: Any, non_trainable: Any
    ) -> tf.Tensor:
        """Returns rows of features; the program on values in place of handles."""
        settings = self._settings
        pixels = evaluation_view(images, sizes, image_size=settings.image_size, fit=settings.fit)
        if settings.augment is not None:
            pixels = tf.where(view == _PLAIN, pixels, self._view(images, sizes, positions, view))
        inputs = normalize(pixels, settings.normalization)
        with folded_batch_norm(self._prefix):
            boundary, _ = self._prefix.stateless_call(trainable, non_trainable, inputs, training=False)
        return self._layout.join(tf.nest.flatten(boundary))

    def _view(self, images: tf.Tensor, sizes: tf.Tensor | None, positions: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
        settings = self._settings
        seeds = per_image_seeds(tf.constant(settings.seed), view, positions)
        labels = tf.zeros_like(positions)  # images are not mixed, so labels stay as they are
        pixels, _ = augment_batch(
            images, labels, seeds, settings=settings.augment, image_size=settings.image_size, num_classes=1,
            sizes=sizes, fit=settings.fit,
        )  # fmt: skip
        return pixels


class _Stopped(Exception):
    """A stop was requested, of this worker or of another."""


def _write(
    shards: list[BankShard],
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    progress: Progress,
    stop: StopRequest,
    workers: Workers,
) -> None:
    """Deals rows out to shards; raises `_Stopped` where a stop is requested."""
    rows, labels = next(batches)  # compiles, which no shard's time should hold
    for shard in shards:
        missing, start = len(shard.examples), time.perf_counter()
        with BankShardWriter(shard.path) as writer:
            while missing:
                if stop.requested():
                    raise _Stopped
                if not len(rows):
                    rows, labels = next(batches)
                writer.write(rows[:missing], labels[:missing])
                taken = min(missing, len(rows))
                rows, labels, missing = rows[taken:], labels[taken:], missing - taken
                progress.update(taken)
        seconds = (time.perf_counter() - start) / workers.count  # the others build theirs meanwhile
        note_build_seconds(os.path.dirname(shard.path), shard, seconds, worker=workers.index)


def _padded(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Repeats the last row, so that one compiled program serves every batch."""
    missing = batch_size - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
