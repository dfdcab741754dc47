"""What layers hold, as tensors, in the dtype in which Keras computes."""

from typing import Any

import keras
import tensorflow as tf


def value_of(variable: Any) -> tf.Tensor:
    """Returns the value of a variable of Keras, also within `stateless_call`."""
    return tf.convert_to_tensor(keras.ops.convert_to_tensor(variable))  # Keras may give a variable of TensorFlow


def factor_and_offset(norm: Any, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what a normalisation layer multiplies by and adds, `[channels]` each: 1 and 0 where it has none."""
    gamma = value_of(norm.gamma) if norm.scale else tf.ones([channels])
    beta = value_of(norm.beta) if norm.center else tf.zeros([channels])
    return gamma, beta
