"""Checkpoints of a run through `tf.train.Checkpoint`: the newest few, and the best by validation accuracy.

A checkpoint holds every variable and a small JSON text with the position of the run (`Position`); the order of
the data, augmentation, dropout and learning rate are functions of the step in it, so nothing else is needed.
"""

import dataclasses
import json
import logging
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.commandline import UserError
from tl_distributed.training.step import TrainStep

_LOG = logging.getLogger(__name__)

_POSITION_KEY = "position/.ATTRIBUTES/VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
      step: Steps done in all.
      phase: Index of the current phase.
      phase_first_step: Step at which it began (earlier than planned after an early stop).
      best_val_accuracy: Highest so far, -1 before the first validation.
      best_step: Step at which it was reached.
      stale_epochs: Epochs of this phase since its best.
      phase_best_val_accuracy: Highest of this phase, -1 before its first validation.
      seconds: Time spent training so far, over all resumes, and building the feature banks that it trains from.
      banks_counted: Phases whose banks are in `seconds`.
    """

    step: int = 0
    phase: int = 0
    phase_first_step: int = 0
    best_val_accuracy: float = -1.0
    best_step: int = 0
    stale_epochs: int = 0
    phase_best_val_accuracy: float = -1.0
    seconds: float = 0.0
    banks_counted: int = 0


class Checkpoints:
    """The two checkpoint folders of a workdir: `checkpoints/` and `checkpoints/best/`."""

    def __init__(self, workdir: str, *, keep: int):
        self._folder, self._keep = f"{workdir}/checkpoints", keep

    def latest_position(self) -> Position | None:
        """Returns where the newest checkpoint stands, or `None` where there is none.

        Raises:
          UserError: A checkpoint that cannot be read.
        """
        path = tf.train.latest_checkpoint(self._folder)
        if path is None:
            return None
        try:
            text = tf.train.load_checkpoint(path).get_tensor(_POSITION_KEY)
            return Position(**json.loads(text))
        except (tf.errors.OpError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not a readable checkpoint ({type(error).__name__}); delete it to go on from the one before"
            ) from None

    def restore(self, model: keras.Model, step: TrainStep) -> None:
        """Restores every variable from the newest checkpoint.

        Raises:
          UserError: Variables that do not fit.
        """
        path = tf.train.latest_checkpoint(self._folder)
        position = tf.Variable("", dtype=tf.string)
        try:
            _checkpoint(model, step, position).restore(path).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: does not fit this run ({first_line}); use another --workdir") from None

    def restore_weights(self, model: keras.Model) -> None:
        """Restores the model's weights alone, for what has to be computed from them before the step is built."""
        weights = [variable.value for variable in _weights(model)]
        path = tf.train.latest_checkpoint(self._folder)
        tf.train.Checkpoint(weights=weights).restore(path).assert_existing_objects_matched().expect_partial()

    def save(self, model: keras.Model, step: TrainStep, position: Position) -> str:
        """Saves everything; returns the path. A checkpoint of the same step is written over."""
        text = tf.Variable(json.dumps(dataclasses.asdict(position)), dtype=tf.string)
        manager = tf.train.CheckpointManager(
            _checkpoint(model, step, text), self._folder, max_to_keep=self._keep, checkpoint_name="step"
        )
        return manager.save(checkpoint_number=position.step)

    def save_best(self, model: keras.Model, step: TrainStep, at_step: int) -> None:
        """Saves the weights that were evaluated: the averages where there are any."""
        values = [variable.value for variable in step.trainable_variables]
        evaluated = dict(zip(map(id, values), step.averages or values, strict=True))
        weights = [evaluated.get(id(variable.value), variable.value) for variable in _weights(model)]
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(weights=weights), f"{self._folder}/best", max_to_keep=1, checkpoint_name="step"
        )
        manager.save(checkpoint_number=at_step)

    def restore_best(self, model: keras.Model, step: TrainStep) -> None:
        """Puts the best weights into the model; before any validation the newest, averaged if there are averages."""
        path = tf.train.latest_checkpoint(f"{self._folder}/best")
        if path is None:
            _LOG.info("No epoch has been validated yet: the newest weights are taken.")
            for average, variable in zip(step.averages, step.trainable_variables, strict=bool(step.averages)):
                variable.assign(average)
            return
        weights = [variable.value for variable in _weights(model)]
        tf.train.Checkpoint(weights=weights).restore(path).assert_consumed()


def _weights(model: keras.Model) -> list[Any]:
    """Returns the model's weights without generator states, in an order that freezing does not change."""
    return [variable for variable in model.weights if "seed_generator" not in variable.path]


def _checkpoint(model: keras.Model, step: TrainStep, position: tf.Variable) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(
        weights=[variable.value for variable in _weights(model)],
        optimizer=[variable.value for variable in step.optimizer.variables],
        averages=list(step.averages),
        loss_scale=step.loss_scale.scale,
        loss_scale_good_steps=step.loss_scale.good_steps,
        position=position,
    )
