"""Folds BatchNorm into the convolution before it, where it only infers: in evaluation, and in frozen layers.

With fixed statistics BatchNorm is a factor and an offset a channel: `norm(conv(x, kernel))` is
`conv(x, kernel * factor) + offset` (Jacob et al., arXiv:1712.05877, equation 14). The kernel is scaled inside the
program, from the values that the variables have in that call, so nothing has to be folded anew after training steps or
for averaged weights. What is left is a convolution, a bias and an activation, which TensorFlow runs as one kernel.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.models.layer_pairs import pairs_of_layers
from tl_distributed.models.layer_values import value_of
from tl_distributed.models.replacing import replaced_methods


@contextlib.contextmanager
def folded_batch_norm(model: keras.Model, *, frozen_only: bool = False) -> Iterator[None]:
    """Makes calls of a functional model within it (traces of programs) fold BatchNorm, nested models' too.

    The result is the same to rounding. A BatchNorm stays as it is where it does not directly follow a layer that can
    take it, where another layer takes that one's output too, where one of both is called several times, and in half
    precision, in which a scaled kernel would be rounded otherwise.

    Args:
      model: Called with `training=False`, or in any way where `frozen_only`.
      frozen_only: Whether a layer and its BatchNorm have to be frozen: in training such a BatchNorm infers too.
    """
    calls = {}
    for layer, norm in pairs_of_layers(model, _takes_norm, _is_foldable_norm):
        if frozen_only and (layer.trainable or norm.trainable):
            continue
        calls[layer] = types.MethodType(_folded_call(norm), layer)
        calls[norm] = lambda inputs, training=None, mask=None: inputs
    with replaced_methods("call", calls):
        yield


def _takes_norm(layer: Any) -> bool:
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    return (
        type(layer) in kinds
        and layer.data_format == "channels_last"
        and layer.activation is keras.activations.linear
        and layer.compute_dtype == "float32"
    )


def _is_foldable_norm(norm: Any) -> bool:
    return (
        type(norm) is keras.layers.BatchNormalization
        and norm.axis in (-1, 3)
        and norm.compute_dtype == "float32"
        and not norm.renorm
    )


def _folded_call(norm: Any) -> Any:
    """Returns the `call` of a layer with what `norm` would do to its output."""

    def call(layer: Any, inputs: Any) -> tf.Tensor:
        factor = tf.math.rsqrt(value_of(norm.moving_variance) + norm.epsilon)
        if norm.scale:
            factor *= value_of(norm.gamma)
        mean = value_of(norm.moving_mean)
        if layer.use_bias:
            mean -= value_of(layer.bias)
        offset = -mean * factor
        if norm.center:
            offset += value_of(norm.beta)
        return tf.nn.bias_add(_scaled(layer, inputs, factor), offset)

    return call


def _scaled(layer: Any, inputs: Any, factor: tf.Tensor) -> Any:
    """Returns a layer's output without bias, each channel times its factor."""
    if isinstance(layer, keras.layers.Conv2D):
        return layer.convolution_op(inputs, value_of(layer.kernel) * factor)
    how = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
    if isinstance(layer, keras.layers.SeparableConv2D):
        pointwise = value_of(layer.pointwise_kernel) * factor
        return keras.ops.separable_conv(inputs, value_of(layer.depthwise_kernel), pointwise, **how)
    kernel = value_of(layer.kernel)
    # Channel c * multiplier + m of the output belongs to kernel[..., c, m].
    return keras.ops.depthwise_conv(inputs, kernel * tf.reshape(factor, kernel.shape[2:]), **how)
