"""Functions that run on every replica: without captures, and in no other order than their tensors say."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def explicitly_ordered(function: Callable[..., Any]) -> Any:
    """Returns a `tf.function` without automatic control dependencies, and so without what they cost on several devices.

    They order all that changes a variable or reads a file, across devices too: a control edge from a GPU to the host
    waits for all that the GPU has been given. And they put every result through an operation of the default device.
    What has to come after what is for the function to say, by tensors and `tf.control_dependencies`.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_disable_acd": True})


def handles_of(variables: Sequence[Any]) -> list[tf.Tensor]:
    """Returns the handles of the copies of Keras's variables that belong to the replica whose context this is."""
    return [variable.value.handle for variable in variables]


def read_handles(handles: Sequence[tf.Tensor], variables: Sequence[Any]) -> list[tf.Tensor]:
    """Returns the values behind handles, of the types and shapes of Keras's `variables`."""
    values = []
    for handle, variable in zip(handles, variables, strict=True):
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.value.dtype)
        value.set_shape(variable.shape)
        values.append(value)
    return values
