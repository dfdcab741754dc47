"""What the small programs within a CPU's step have in common."""

from typing import Any

import tensorflow as tf


def run_program(program: Any, *arguments: tf.Tensor) -> Any:
    """Calls a program; without TensorFlow's warning of many traces, which here are as many as there are shapes."""
    return program.get_concrete_function(*arguments)(*arguments)


def sum_of_rows(values: tf.Tensor) -> tf.Tensor:
    """Returns `[channels] float32` of `[..., channels]`; XLA sums over rows slowly on a CPU, this does not."""
    return tf.raw_ops.BiasAddGrad(out_backprop=tf.cast(values, tf.float32))
