"""Checkpoints of a run through `tf.train.Checkpoint`: the newest few, and the best by `--select_by`.

A checkpoint holds every variable and a small JSON text with the position of the run (`Position`); the order of
the data, augmentation, dropout and learning rate are functions of the step in it, so nothing else is needed.

Training stands still while the variables are copied to the host; a thread writes the copies. TensorFlow's own way,
`tf.train.CheckpointOptions(enable_async=True)`, writes the same files (tried with 2.21), but says that one could not be
written at the next save alone: `sync()` is silent, and at the end of the process the error is printed and the exit code
stays 0, so a run that a signal stops would say that it is safe when it is not. It also keeps a thread and a host copy
for each object that was ever saved, until the process ends.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.data.host import HOST
from tl_distributed.errors import UserError, tensorflow_cause
from tl_distributed.runtime.shared_files import wait_until_visible
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.background_writer import BackgroundWriter
from tl_distributed.training.checkpoint_files import (
    DAMAGED,
    VALUE,
    checkpoint_paths,
    checkpoint_reader,
    keep_only,
    mend_list,
    put_aside,
    remove_unfinished,
    restore_variables,
    sync_checkpoint,
    verified_scalars,
)
from tl_distributed.training.position import Position
from tl_distributed.training.step import TrainStep

_LOG = logging.getLogger(__name__)

_POSITION_KEY = f"position/{VALUE}"
_ALL = 2**31 - 1  # of TensorFlow's manager, which forgets all but the last where it is to keep any number


class Checkpoints:
    """The two checkpoint folders of a workdir: `checkpoints/` and `checkpoints/best/`.

    The chief writes and chooses; every worker reads the same files. A context manager: what is being written is
    finished at its end, unless a second signal asks to end at once.

    Attributes:
      blocking_seconds: For which training stood still so far: copying, and waiting for earlier writes.
    """

    def __init__(self, workdir: str, *, keep: int, workers: Workers):
        self._folder, self._keep, self._workers = f"{workdir}/checkpoints", keep, workers
        self._newest: str | None = None  # the one to go on from
        self._best_steps: dict[int, int] = {}  # of each checkpoint that is kept: where its best weights are from
        self._writer = BackgroundWriter()
        self.blocking_seconds = 0.0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            return
        failure = self._writer.finish()
        if failure is not None and error is None:
            raise failure
        if failure is not None and failure is not error:
            _LOG.error("%s", failure)

    @property
    def write_seconds(self) -> float:
        """That writing took so far, beside training."""
        return self._writer.seconds

    @property
    def written(self) -> int:
        """How many were written, the best weights counted too."""
        return self._writer.finished

    def wait(self) -> None:
        """Waits until everything saved so far is on disk.

        Raises:
          UserError: It could not be written.
        """
        with _Stopwatch() as watch:
            self._writer.wait()
        self.blocking_seconds += watch.seconds

    def raise_failure(self) -> None:
        """Raises the `UserError` of a checkpoint that could not be written; costs nothing otherwise."""
        self._writer.raise_failure()

    def latest_position(self) -> Position | None:
        """Returns where the newest readable checkpoint stands, or `None` where there is none.

        Every byte is read and its checksum compared. One that is damaged is put aside, loudly, and the one before is
        taken; the best weights likewise, which are then chosen anew among the epochs to come.

        Raises:
          UserError: There are checkpoints, but none that can be read; or not every worker sees them.
        """
        found = self._workers.from_chief("checkpoint", self._find() if self._workers.is_chief else None)
        if found is None:
            return None
        self._newest, position = found
        wait_until_visible(f"{self._newest}.index", self._workers, flag="--workdir")
        return Position(**position)

    def _find(self) -> tuple[str, dict[str, Any]] | None:
        for folder in (self._folder, f"{self._folder}/best"):
            remove_unfinished(folder)
            mend_list(folder)
        paths = checkpoint_paths(self._folder)
        for path in paths:
            try:
                position = Position.from_json(verified_scalars(path)[_POSITION_KEY])
            except DAMAGED as error:
                put_aside(self._folder, path, error)
                continue
            self._note_best_steps()
            return path, dataclasses.asdict(self._with_best(position))
        if paths:
            raise UserError(
                f"{self._folder}: none of its {len(paths)} checkpoints can be read, see above; delete the folder to "
                "train from the start"
            )
        return None

    def _note_best_steps(self) -> None:
        for path in checkpoint_paths(self._folder):
            with contextlib.suppress(*DAMAGED):  # an older one that is damaged is found when it is needed
                with checkpoint_reader(path) as reader:
                    position = Position.from_json(reader.get_tensor(_POSITION_KEY))
                self._best_steps[position.step] = position.best_step

    def _with_best(self, position: Position) -> Position:
        """Returns the position, without its best weights where they are not there whole: they are chosen anew then."""
        path = self._best_path(position)
        if path is None:
            return position
        try:
            verified_scalars(path)
            return position
        except tf.errors.NotFoundError:
            _LOG.warning("%s: the best weights so far are gone; they are chosen anew.", path)
        except DAMAGED as error:
            put_aside(f"{self._folder}/best", path, error)
        return dataclasses.replace(position, best_score=None, best_loss=None, best_step=0)

    def _best_path(self, position: Position) -> str | None:
        """Returns the checkpoint of the best weights: the position's own, since later ones may be of a lost future."""
        return f"{self._folder}/best/step-{position.best_step}" if position.best_score is not None else None

    def restore(self, model: keras.Model, step: TrainStep) -> None:
        """Restores every variable from the checkpoint that `latest_position` found.

        Raises:
          UserError: Variables that do not fit.
        """
        try:
            restore_variables(self._newest, _variables(model, step), besides={_POSITION_KEY})
            step.loss_scale.adopt()
        except (ValueError, tf.errors.OpError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise UserError(f"{self._newest}: does not fit this run ({first_line}); use another --workdir") from None

    def restore_weights(self, model: keras.Model) -> None:
        """Restores the model's weights alone, for what has to be computed from them before the step is built."""
        restore_variables(self._newest, {"weights": [variable.value for variable in _weights(model)]}, besides=None)

    def save(self, model: keras.Model, step: TrainStep, position: Position) -> None:
        """Saves everything, as it is now. A checkpoint of the same step is written over.

        Raises:
          UserError: An earlier one could not be written.
        """
        content = {**_variables(model, step), "position": position.to_json()}
        self._best_steps[position.step] = position.best_step
        self._best_steps = dict(sorted(self._best_steps.items())[-self._keep :])
        self._save(self._folder, position.step, self._keep, content)

    def save_best(self, model: keras.Model, step: TrainStep, at_step: int) -> None:
        """Saves the weights that were evaluated: the averages where there are any.

        Those that a checkpoint names which is kept stay too: a run that goes on from it may have to end with them.

        Raises:
          UserError: An earlier checkpoint could not be written.
        """
        weights = [step.averages.get(id(variable), variable.value) for variable in _weights(model)]
        self._save(f"{self._folder}/best", at_step, 1, {"weights": weights}, self._best_steps.values())

    def _save(self, folder: str, number: int, keep: int, content: dict[str, Any], kept: Collection[int] = ()) -> None:
        """Copies the variables in `content`, and has the copies written; the chief's alone."""
        if not self._workers.is_chief:
            return
        with _Stopwatch() as watch:
            self._writer.make_room()
            copies = tf.nest.map_structure(_copy_to_host, content)
            self._writer.submit(_write_job(copies, folder, number=number, keep=keep, kept=frozenset(kept)))
        self.blocking_seconds += watch.seconds

    def restore_best(self, model: keras.Model, step: TrainStep, position: Position) -> None:
        """Puts the best weights into the model; before any validation the newest, averaged if there are averages.

        Raises:
          UserError: What was saved could not be written.
        """
        self.wait()
        # However long the chief writes; and a file of that name may be there of a start before.
        self._workers.exchange("the best weights are written", None)
        path = self._best_path(position)
        if path is None:
            _LOG.info("No epoch has been validated with a finite measure: the newest weights are taken.")
            for variable in _weights(model):
                if id(variable) in step.averages:
                    variable.assign(step.averages[id(variable)])
            return
        wait_until_visible(f"{path}.index", self._workers, flag="--workdir")
        restore_variables(path, {"weights": [variable.value for variable in _weights(model)]})


def _weights(model: keras.Model) -> list[Any]:
    """Returns the model's weights without generator states, in an order that freezing does not change."""
    return [variable for variable in model.weights if "seed_generator" not in variable.path]


def _variables(model: keras.Model, step: TrainStep) -> dict[str, Any]:
    """Returns what a checkpoint holds beside the position, under the names that it has there."""
    return {
        "weights": [variable.value for variable in _weights(model)],
        "optimizer": [variable.value for variable in step.optimizer.variables],
        "averages": list(step.averages.values()),
        "loss_scale": step.loss_scale.scale,
        "loss_scale_good_steps": step.loss_scale.good_steps,
    }


def _copy_to_host(value: Any) -> Any:
    """Returns a variable's value as an array that later updates do not reach; of replicas, the first one's."""
    return value if isinstance(value, str) else value.numpy()


def _write_job(
    content: dict[str, Any], folder: str, *, number: int, keep: int, kept: Collection[int]
) -> Callable[[], None]:
    """Returns what writes a checkpoint; it appears in the folder's list once all of it is there.

    Args:
      content: Arrays and text, in the structure of the checkpoint.
      folder: Where it goes.
      number: Of the step; part of the name.
      keep: How many of the folder's newest checkpoints are kept.
      kept: Steps of those that are kept besides.
    """

    def write() -> None:
        try:
            with tf.device(HOST):
                variables = tf.nest.map_structure(tf.Variable, content)
            manager = tf.train.CheckpointManager(
                tf.train.Checkpoint(**variables), folder, max_to_keep=_ALL, checkpoint_name="step"
            )
            path = manager.save(checkpoint_number=number)
            sync_checkpoint(folder, path)
            keep_only(folder, newest=keep, steps=kept)
        except (tf.errors.OpError, OSError) as error:
            with contextlib.suppress(tf.errors.OpError, OSError):
                remove_unfinished(folder)  # it may be what fills the disk
            cause = tensorflow_cause(getattr(error, "message", None) or str(error))
            raise UserError(
                f"{folder}: the checkpoint of step {number} could not be written ({cause}); make room, or mend the "
                "folder, and start again: the run goes on from the checkpoint before"
            ) from None

    return write


class _Stopwatch:
    """Times a block.

    Attributes:
      seconds: That it took, also where it ended in an exception.
    """

    seconds = 0.0

    def __enter__(self) -> "_Stopwatch":
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._start
