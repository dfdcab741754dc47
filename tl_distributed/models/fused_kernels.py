"""Lets layers of Keras call TensorFlow's fused kernels, for steps that XLA does not compile.

Keras 3 writes out BatchNorm as a dozen elementwise operations, and has XLA compile every grouped convolution, whose
gradient XLA computes very slowly on a CPU. Compiled whole for a GPU both are well; run operation by operation, as on
a CPU, they take most of a step. The layers compute the same as before, to rounding, and are saved as before: only
what they call differs, and only in this process.
"""

import contextlib
import math
import types
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.models.layer_values import factor_and_offset
from tl_distributed.models.replacing import replaced_methods


def use_fused_kernels(model: keras.Model) -> None:
    """Changes what the layers of a built model call, nested models' too; twice is as once."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and is_plain_batch_norm(layer):
            layer.call = types.MethodType(_fused_batch_norm, layer)
        elif isinstance(layer, keras.layers.Conv2D) and is_depthwise(layer):
            layer.convolution_op = types.MethodType(_depthwise_convolution, layer)
        elif isinstance(layer, keras.layers.Conv2D) and _has_wrong_gradient(layer):
            layer.convolution_op = types.MethodType(_convolution_of_kept_cells, layer)


def is_plain_batch_norm(layer: Any) -> bool:
    """Whether a BatchNorm computes as Keras's own, of the channels of maps, and of this replica's images alone."""
    is_keras = type(layer).call is keras.layers.BatchNormalization.call
    is_of_channels = layer.input_spec.ndim == 4 and layer.axis in (-1, 3)
    return is_keras and is_of_channels and not (layer.renorm or layer.synchronized)


def is_trained_batch_norm(layer: Any) -> bool:
    """Whether a layer is Keras's own BatchNorm, plain, trained and in float32."""
    return (
        type(layer) is keras.layers.BatchNormalization
        and is_plain_batch_norm(layer)
        and layer.trainable
        and layer.compute_dtype == "float32"
    )


def _fused_batch_norm(layer: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    """`BatchNormalization.call` in one kernel; in float32 where the policy is a mixed one, as Keras does."""
    del mask  # of sequences; images have none
    x = keras.ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    channels = x.shape[-1]
    scale, offset = factor_and_offset(layer, channels)
    moving_mean, moving_variance = map(keras.ops.convert_to_tensor, (layer.moving_mean, layer.moving_variance))
    if training and layer.trainable:
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, epsilon=layer.epsilon)
        # The kernel's variance is the unbiased one, n / (n - 1) of the batch's own, which Keras keeps.
        count = tf.cast(tf.size(x) // channels, x.dtype)
        variance *= (count - 1.0) / count
        move_statistics(layer, mean, variance)
    else:
        outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
            x, scale, offset, mean=moving_mean, variance=moving_variance, epsilon=layer.epsilon, is_training=False
        )
    return keras.ops.cast(outputs, layer.compute_dtype)


def move_statistics(layer: Any, mean: tf.Tensor, variance: tf.Tensor) -> None:
    """Gives a BatchNorm layer's moving statistics their next values.

    Args:
      layer: In training.
      mean: `[channels] float32`, of the batch.
      variance: `[channels] float32`, of the batch, divided by the number of values.
    """
    for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        before = keras.ops.convert_to_tensor(moving)
        moving.assign(before * layer.momentum + value * (1.0 - layer.momentum))


def is_depthwise(layer: Any) -> bool:
    """Whether each channel of a convolution is a group of its own, in a form that the depthwise kernel takes."""
    return (
        _convolves_as_keras(layer)
        and layer.data_format == "channels_last"
        and layer.groups == layer.input_spec.axes[-1] > 1
        and layer.padding in ("same", "valid")
        and layer.strides[0] == layer.strides[1]
        and (math.prod(layer.strides) == 1 or math.prod(layer.dilation_rate) == 1)
    )


def _convolves_as_keras(layer: Any) -> bool:
    """Whether a convolution's class has left what it computes as it is: one may standardise its kernel there."""
    return type(layer).convolution_op is keras.layers.Conv2D.convolution_op


def _depthwise_convolution(layer: Any, inputs: Any, kernel: Any) -> Any:
    """`Conv2D.convolution_op` of as many groups as channels."""
    kernel = keras.ops.convert_to_tensor(kernel)
    height, width, _, filters = kernel.shape
    channels = inputs.shape[-1]
    # Output channel c * multiplier + m belongs to input channel c in both.
    kernel = tf.reshape(kernel, [height, width, channels, filters // channels])
    return tf.nn.depthwise_conv2d(
        inputs, kernel, [1, *layer.strides, 1], layer.padding.upper(), dilations=layer.dilation_rate
    )


def _has_wrong_gradient(layer: Any) -> bool:
    """Whether oneDNN gets the kernel's gradient wrong: of strided 1x1 convolutions of few channels, call by call.

    It writes past its workspace where a pixel's channels do not fill a vector, of sixteen at most
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    return (
        _convolves_as_keras(layer)
        and tuple(layer.kernel_size) == (1, 1)
        and max(layer.strides) > 1
        and layer.data_format == "channels_last"
        and layer.input_spec.axes[-1] < 16
    )


def _convolution_of_kept_cells(layer: Any, inputs: Any, kernel: Any) -> Any:
    """`Conv2D.convolution_op` of a kernel of one cell: its strides skip whole cells."""
    rows, columns = layer.strides
    return keras.ops.conv(inputs[:, ::rows, ::columns], kernel, data_format="channels_last")


@contextlib.contextmanager
def pointwise_products(model: keras.Model) -> Iterator[None]:
    """Makes calls of a model within it (the trace of a training step) take 1x1 convolutions as matrix products.

    They are, and oneDNN's product and its gradients take three quarters of the time of its convolution on a CPU. Where
    nothing trains the convolution stays: it takes bias and activation along.
    """
    layers = [layer for layer in model._flatten_layers() if layer.trainable and is_pointwise(layer)]
    products = {layer: types.MethodType(_pointwise_product, layer) for layer in layers}
    with replaced_methods("convolution_op", products):
        yield


def is_pointwise(layer: Any) -> bool:
    """Whether a convolution is a matrix product of each cell's channels."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and _convolves_as_keras(layer)
        and layer.kernel_size == layer.strides == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def _pointwise_product(layer: Any, inputs: Any, kernel: Any) -> Any:
    """`Conv2D.convolution_op` of a kernel of one cell."""
    del layer
    kernel = keras.ops.convert_to_tensor(kernel)
    return tf.tensordot(inputs, tf.reshape(kernel, kernel.shape[2:]), axes=1)
