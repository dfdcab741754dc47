"""Zero padding before a depthwise convolution as the convolution's own, where it is what TensorFlow calls SAME.

Keras pads maps of an even size with a layer of its own before a convolution of stride 2, below and on the right, which
is where SAME pads them. As a layer it copies the whole map, and its gradient another time.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.models.layer_pairs import pairs_of_layers
from tl_distributed.models.layer_values import value_of
from tl_distributed.models.replacing import replaced_methods


@contextlib.contextmanager
def same_padding(model: keras.Model) -> Iterator[None]:
    """Makes calls of a built model within it (the trace of a training step) leave out such padding layers.

    Of depthwise convolutions that train, and maps of known size.
    """
    calls: dict[Any, Callable] = {}
    for padding, layer in pairs_of_layers(model, _is_padding, _is_padded):
        if _is_same(padding, layer):
            calls[padding] = lambda inputs: inputs
            calls[layer] = _same_call(layer)
    with replaced_methods("call", calls):
        yield


def _is_padding(layer: Any) -> bool:
    return type(layer) is keras.layers.ZeroPadding2D and layer.data_format == "channels_last"


def _is_padded(layer: Any) -> bool:
    return (
        type(layer) is keras.layers.DepthwiseConv2D
        and layer.data_format == "channels_last"
        and layer.padding == "valid"
        and layer.strides[0] == layer.strides[1]
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.trainable
    )


def _is_same(padding: Any, layer: Any) -> bool:
    """Whether a layer pads as SAME does: as much as the last window needs, half of it, rounded down, first."""
    (inputs,) = padding._inbound_nodes[-1].input_tensors
    for size, given, kernel, stride in zip(
        inputs.shape[1:3], padding.padding, layer.kernel_size, layer.strides, strict=True
    ):
        if size is None:
            return False
        needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        if tuple(given) != (needed // 2, needed - needed // 2):
            return False
    return True


def _same_call(layer: Any) -> Callable:
    """Returns `DepthwiseConv2D.call` with SAME in place of its padding."""

    def call(inputs: Any) -> Any:
        kernel = value_of(layer.kernel)
        outputs = tf.nn.depthwise_conv2d(inputs, kernel, [1, *layer.strides, 1], "SAME")
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, value_of(layer.bias))
        return layer.activation(outputs)

    return call
