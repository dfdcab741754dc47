"""Many tensors as one vector, which travels and is summed at once."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def pack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Joins float32 tensors of any shapes into one vector."""
    return tf.concat([tf.zeros([0]), *(tf.reshape(tensor, [-1]) for tensor in tensors)], axis=0)


def unpack(vector: tf.Tensor, like: Sequence[Any]) -> list[tf.Tensor]:
    """Cuts a vector made by `pack` into tensors of the shapes of `like`."""
    parts = tf.split(vector, [math.prod(one.shape) for one in like]) if like else []
    return [tf.reshape(part, one.shape) for part, one in zip(parts, like, strict=True)]
