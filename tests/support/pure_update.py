"""A step's update as a pure twin: a function of the values of its variables, which it returns as they are then.

TensorFlow lowers no function that captures variables for a device that is not there. So the very body of the update is
traced with values in its variables' places. Not where a kernel of TensorFlow's updates a variable by its handle.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import tensorflow as tf

from tl_distributed.training.update import Update


class Held:
    """A value that is read and assigned as a variable is, and goes by its name."""

    def __init__(self, variable: tf.Variable, value: tf.Tensor):
        self.tensor, self.dtype, self.shape = value, value.dtype, value.shape
        self._unique_id = variable._unique_id  # by which Keras's optimizers know it

    def assign(self, value: Any, **_: Any) -> None:
        self.tensor = tf.cast(value, self.dtype)

    def assign_add(self, value: Any, **_: Any) -> None:
        self.tensor += tf.cast(value, self.dtype)

    def assign_sub(self, value: Any, **_: Any) -> None:
        self.tensor -= tf.cast(value, self.dtype)

    def read_value(self) -> tf.Tensor:
        return self.tensor

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return self.tensor

    def __mul__(self, other: Any) -> tf.Tensor:
        return self.tensor * other

    def __sub__(self, other: Any) -> tf.Tensor:
        return self.tensor - tf.convert_to_tensor(other)


def variables_of(update: Update) -> list[tf.Variable]:
    """Returns every variable that the update reads or changes, once."""
    return list({id(variable): variable for variable in update._all_variables()}.values())


def pure_update(update: Update) -> Callable[[tf.Tensor, Any, Sequence[tf.Tensor]], tuple[tf.Tensor, list[tf.Tensor]]]:
    """Returns `twin(step, results, values)`, of the values of `variables_of`: the norm, and their new values."""

    def twin(step: tf.Tensor, results: Any, values: Sequence[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        pairs = zip(variables_of(update), values, strict=True)
        held = {id(variable): Held(variable, value) for variable, value in pairs}
        with _in_place_of_variables(update, held):
            norm = update.body(step, results)
        return norm, [one.tensor for one in held.values()]

    return twin


@contextlib.contextmanager
def _in_place_of_variables(update: Update, held: dict[int, Held]) -> Iterator[None]:
    """Puts held values where the update finds its variables; a branch becomes a choice between values."""

    def choose(wanted: tf.Tensor, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        before = {key: one.tensor for key, one in held.items()}
        then()
        for key, one in held.items():
            if one.tensor is not before[key]:
                one.tensor = tf.where(wanted, one.tensor, before[key])

    scale = update._loss_scale
    own = {
        "_sums": held[id(update._sums)],
        "averages": [held[id(average)] for average in update.averages],
        "_loss_scale": dataclasses.replace(
            scale, scale=held[id(scale.scale)], good_steps=held[id(scale.good_steps)]
        ),
    }  # fmt: skip
    groups = (update._variables, update._changed(), update._averaged, update._optimizer.variables)
    with contextlib.ExitStack() as stack:
        for variable in {id(variable): variable for group in groups for variable in group}.values():
            stack.enter_context(mock.patch.object(variable, "_value", held[id(variable._value)]))
        for name, value in own.items():
            stack.enter_context(mock.patch.object(update, name, value))
        stack.enter_context(mock.patch.object(tf, "cond", choose))
        yield
