"""BatchNorm of channels that oneDNN is slow with, by programs that XLA compiles within a CPU's training step.

oneDNN's kernel goes by vectors of sixteen channels. Of 24 channels (MobileNetV2, EfficientNet) it takes 2.5 times as
long, forward and back, as XLA does. XLA sums over images slowly on a CPU; sums of sixteen rows each are an elementwise
pass to it, and what is left a sixteenth of the map.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.models.fused_kernels import is_trained_batch_norm, move_statistics
from tl_distributed.models.layer_values import factor_and_offset
from tl_distributed.models.programs import run_program, sum_of_rows
from tl_distributed.models.replacing import replaced_methods

_ROWS_OF_A_SUM = 16
_CHANNELS_OF_ONEDNN = 16
_LEAST_VALUES = 1 << 18  # below there is little to gain, and each size of map is compiled


@contextlib.contextmanager
def compiled_batch_norm(model: keras.Model) -> Iterator[None]:
    """Makes calls of a built model within it (the trace of a training step on a CPU) compile such BatchNorm.

    Of layers in float32 that train, on maps of over a quarter of a million values, whose channels are no multiple of
    sixteen, and whose rows (images times cells) are one.
    """
    norms = filter(_is_norm, model._flatten_layers())
    with replaced_methods("call", {norm: _norm_call(norm, norm.call) for norm in norms}):
        yield


def _is_norm(layer: Any) -> bool:
    return is_trained_batch_norm(layer) and layer.input_spec.axes[layer.axis] % _CHANNELS_OF_ONEDNN != 0


def _norm_call(norm: Any, plain: Callable) -> Callable:
    """Returns `norm.call`; `plain` is what it was before."""

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        rows, channels = inputs.shape[:-1].num_elements(), inputs.shape[-1]
        if not training or rows is None or rows % _ROWS_OF_A_SUM or rows * channels < _LEAST_VALUES:
            return plain(inputs, training=training)
        gamma, beta = factor_and_offset(norm, channels)
        outputs, mean, variance = batch_norm(tf.reshape(inputs, [-1, channels]), gamma, beta, epsilon=norm.epsilon)
        move_statistics(norm, mean, variance)
        return tf.reshape(outputs, inputs.shape)

    return call


def batch_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns `batch_norm(x)`, and each channel's mean and variance (Ioffe and Szegedy, arXiv:1502.03167).

    These two are `[channels]`, and no gradient comes back of them; the variance is divided by the number of rows.

    Args:
      x: `[rows, channels] float32`, the rows a multiple of sixteen.
      gamma: `[channels] float32`, factor.
      beta: `[channels] float32`, offset.
      epsilon: Added to the variance.
    """
    rows = float(x.shape[0])

    @tf.custom_gradient
    def normal(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean = sum_of_rows(run_program(_sums, x)) / rows
        variance = sum_of_rows(run_program(_squares, x, mean)) / rows
        inverse = tf.math.rsqrt(variance + epsilon)
        factor = inverse * gamma

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_beta, along = map(sum_of_rows, run_program(_gradient_sums, x, mean, upstream))
            slope = along * inverse * inverse / rows
            inputs = run_program(_gradient, x, mean, factor, upstream, of_beta / rows, slope)
            return inputs, along * inverse, of_beta

        return (run_program(_normal, x, mean, factor, beta), mean, variance), gradient

    return normal(x, gamma, beta)


@tf.function(autograph=False, jit_compile=True)
def _normal(x: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    return (x - mean) * factor + beta


@tf.function(autograph=False, jit_compile=True)
def _gradient_sums(x: tf.Tensor, mean: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    along = _partial_sums(lambda x, upstream: upstream * (x - mean), x, upstream)
    return _partial_sums(lambda upstream: upstream, upstream), along


@tf.function(autograph=False, jit_compile=True)
def _gradient(
    x: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, upstream: tf.Tensor, average: tf.Tensor, slope: tf.Tensor
) -> tf.Tensor:
    return (upstream - average - (x - mean) * slope) * factor


@tf.function(autograph=False, jit_compile=True)
def _sums(x: tf.Tensor) -> tf.Tensor:
    return _partial_sums(lambda x: x, x)


@tf.function(autograph=False, jit_compile=True)
def _squares(x: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    return _partial_sums(lambda x: tf.square(x - mean), x)


def _partial_sums(function: Callable, *values: tf.Tensor) -> tf.Tensor:
    """Returns `[rows / 16, channels]`, sums of sixteen rows each of a function of `[rows, channels]`.

    Written out: XLA makes one pass of it over all values and vectors of channels, which it does of no reduction.
    """
    groups = [tf.reshape(value, [-1, _ROWS_OF_A_SUM, value.shape[-1]]) for value in values]
    terms = [function(*(group[:, row] for group in groups)) for row in range(_ROWS_OF_A_SUM)]
    while len(terms) > 1:
        terms = [one + other for one, other in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]
