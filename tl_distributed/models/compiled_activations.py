"""GELU and SiLU as one pass over memory forward and one back, by programs that XLA compiles within a CPU's step."""

import math
from typing import Any

import tensorflow as tf

from tl_distributed.models.programs import run_program

_DENSITY_AT_0 = 1.0 / math.sqrt(2.0 * math.pi)


@tf.custom_gradient
def gelu(x: tf.Tensor) -> Any:
    """Returns `x * P(X <= x)` of a standard normal X (Hendrycks and Gimpel, arXiv:1606.08415), by the error function.

    In float32 inside, to 2e-7 of |x|: `1 + erf` is one pass where Keras's `erfc`, exact far below 0 too, is two.

    Args:
      x: Floating-point, of any shape.
    """
    x = tf.convert_to_tensor(x)
    return run_program(_gelu, x), lambda upstream: run_program(_gelu_gradient, x, upstream)


@tf.custom_gradient
def silu(x: tf.Tensor) -> Any:
    """Returns `x * sigmoid(x)`, also called Swish (Ramachandran et al., arXiv:1710.05941); in float32 inside.

    Args:
      x: Floating-point, of any shape.
    """
    x = tf.convert_to_tensor(x)
    return run_program(_silu, x), lambda upstream: run_program(_silu_gradient, x, upstream)


@tf.function(autograph=False, jit_compile=True)
def _gelu(x: tf.Tensor) -> tf.Tensor:
    wide = tf.cast(x, tf.float32)
    return tf.cast(wide * _normal_cdf(wide), x.dtype)


@tf.function(autograph=False, jit_compile=True)
def _gelu_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    wide = tf.cast(x, tf.float32)
    slope = _normal_cdf(wide) + wide * tf.exp(-0.5 * wide * wide) * _DENSITY_AT_0
    return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)


def _normal_cdf(x: tf.Tensor) -> tf.Tensor:
    # XLA's error function does not quite reach -1, which a large |x| would show; what is left here is below 2e-8.
    return tf.where(x < -5.5, 0.0, 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5)))


@tf.function(autograph=False, jit_compile=True)
def _silu(x: tf.Tensor) -> tf.Tensor:
    wide = tf.cast(x, tf.float32)
    return tf.cast(wide * tf.sigmoid(wide), x.dtype)


@tf.function(autograph=False, jit_compile=True)
def _silu_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    wide = tf.cast(x, tf.float32)
    share = tf.sigmoid(wide)
    return tf.cast(tf.cast(upstream, tf.float32) * (share * (1.0 + wide * (1.0 - share))), x.dtype)
