"""Activations, LayerNorm and scaled dense layers in few passes over memory, for a CPU's steps without XLA as a whole.

Run operation by operation, GELU with its gradient takes five times as long as in one pass forward and one back, and was
a third of ConvNeXt's step on a CPU; LayerNorm likewise, with less to gain. Here XLA compiles each of them to one pass,
and nothing else of the step. A dense layer is one matrix product with its bias, and takes LayerScale into its kernel.
All compute the same as Keras, to rounding.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.models.compiled_activations import gelu, silu
from tl_distributed.models.fused_kernels import is_depthwise
from tl_distributed.models.layer_pairs import pairs_of_layers
from tl_distributed.models.layer_values import factor_and_offset, value_of
from tl_distributed.models.programs import run_program, sum_of_rows
from tl_distributed.models.replacing import replaced_methods

_ACTIVATIONS = {keras.activations.gelu: gelu, keras.activations.silu: silu}


@contextlib.contextmanager
def compiled_layers(model: keras.Model) -> Iterator[None]:
    """Makes calls of a built model within it (the trace of a training step on a CPU) take fewer passes.

    GELU and SiLU as any layer's activation, LayerNorm over the last axis, dense layers on maps, LayerScale after one of
    these, and the gradients of depthwise convolutions of small maps. Without this context they are what they were, also
    in files and exports.
    """
    layers = list(model._flatten_layers())
    norms = {layer: types.MethodType(_compiled_layer_norm, layer) for layer in layers if _is_plain_layer_norm(layer)}
    dense = {layer: types.MethodType(_dense_call(None), layer) for layer in layers if _is_plain_dense(layer)}
    for layer, scale in pairs_of_layers(model, _takes_scale, _is_layer_scale):
        dense[layer] = types.MethodType(_dense_call(scale), layer)
        dense[scale] = lambda inputs: inputs
    depthwise = {
        layer: types.MethodType(_depthwise_convolution, layer) for layer in layers if _is_depthwise_of_small_maps(layer)
    }
    activations = {
        layer: _ACTIVATIONS[layer.activation] for layer in layers if getattr(layer, "activation", None) in _ACTIVATIONS
    }
    with (
        replaced_methods("call", norms | dense),
        replaced_methods("convolution_op", depthwise),
        replaced_methods("activation", activations),
    ):
        yield


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Returns LayerNorm over the last axis (Ba et al., arXiv:1607.06450); in float32 inside.

    Args:
      x: `[..., channels]`, floating-point.
      gamma: `[channels] float32`, factor.
      beta: `[channels] float32`, offset.
      epsilon: Added to the variance.
    """

    @tf.custom_gradient
    def normalized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        outputs, mean, factor = run_program(_layer_norm, x, gamma, beta, tf.constant(epsilon))

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            inputs, products = run_program(_layer_norm_gradient, x, mean, factor, gamma, upstream)
            return inputs, sum_of_rows(products), sum_of_rows(upstream)

        return outputs, gradient

    return normalized(x, gamma, beta)


@tf.function(autograph=False, jit_compile=True)
def _layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, ...]:
    wide = tf.cast(x, tf.float32)
    mean = tf.reduce_mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    factor = tf.math.rsqrt(tf.reduce_mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    return tf.cast(centred * factor * gamma + beta, x.dtype), mean, factor


@tf.function(autograph=False, jit_compile=True)
def _layer_norm_gradient(
    x: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, gamma: tf.Tensor, upstream: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradient of `x`, and what sums up to that of `gamma`: XLA sums over rows slowly on a CPU."""
    normal = (tf.cast(x, tf.float32) - mean) * factor
    upstream = tf.cast(upstream, tf.float32)
    wanted = upstream * gamma
    along = tf.reduce_mean(wanted * normal, axis=-1, keepdims=True)
    inputs = factor * (wanted - tf.reduce_mean(wanted, axis=-1, keepdims=True) - normal * along)
    return tf.cast(inputs, x.dtype), upstream * normal


def _is_plain_layer_norm(layer: Any) -> bool:
    return type(layer) is keras.layers.LayerNormalization and layer.axis == [-1] and not layer.rms_scaling


def _compiled_layer_norm(layer: Any, inputs: Any) -> Any:
    """`LayerNormalization.call`."""
    channels = inputs.shape[-1]
    gamma, beta = factor_and_offset(layer, channels)
    return keras.ops.cast(layer_norm(inputs, gamma, beta, layer.epsilon), layer.compute_dtype)


def _is_plain_dense(layer: Any) -> bool:
    return type(layer) is keras.layers.Dense and layer.quantization_mode is None


def _takes_scale(layer: Any) -> bool:
    """In float32: elsewhere a scaled kernel would be rounded otherwise, and in float16 a scale of 1e-6 be nothing."""
    return (
        _is_plain_dense(layer)
        and layer.activation is keras.activations.linear
        and layer.compute_dtype == layer.variable_dtype == "float32"
    )


def _is_layer_scale(layer: Any) -> bool:
    """Whether a layer is that of Keras's ConvNeXt, which has no public name (Touvron et al., arXiv:2103.17239)."""
    return type(layer).__name__ == "LayerScale" and type(layer).__module__.startswith("keras.")


def _dense_call(scale: Any | None) -> Any:
    """Returns `Dense.call` on maps as one matrix product, and what `scale`, a layer after it, would do to it."""

    def call(layer: Any, inputs: Any, training: bool | None = None) -> Any:
        if scale is None and inputs.shape.rank == 2:
            return type(layer).call(layer, inputs, training=training)
        kernel, bias = value_of(layer.kernel), value_of(layer.bias) if layer.use_bias else None
        if scale is not None:
            gamma = value_of(scale.gamma)
            kernel, bias = kernel * gamma, None if bias is None else bias * gamma
        outputs = tf.linalg.matmul(tf.reshape(inputs, [-1, inputs.shape[-1]]), kernel)
        if bias is not None:
            outputs = tf.nn.bias_add(outputs, bias)  # which oneDNN adds while it writes the product
        outputs = tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [layer.units]], axis=0))
        return layer.activation(tf.ensure_shape(outputs, [*inputs.shape[:-1], layer.units]))

    return call


def _is_depthwise_of_small_maps(layer: Any) -> bool:
    """Whether a convolution is ConvNeXt's: depthwise, of one filter a channel, on maps of its own size or less.

    There oneDNN takes up to seven times as long for the kernel's gradient as for a forward convolution of the same.
    """
    if not (isinstance(layer, keras.layers.Conv2D) and is_depthwise(layer)):
        return False
    maps = [tensor.shape for node in layer._inbound_nodes for tensor in node.input_tensors]
    return (
        layer.filters == layer.groups
        and layer.padding == "same"
        and layer.strides == layer.dilation_rate == (1, 1)
        and bool(maps)
        and all(None not in shape[1:3] and max(shape[1:3]) <= min(layer.kernel_size) for shape in maps)
    )


def _depthwise_convolution(layer: Any, inputs: Any, kernel: Any) -> Any:
    """`Conv2D.convolution_op` of as many groups as channels, `[batch, height, width, channels]`."""
    kernel = tf.transpose(value_of(kernel), [0, 1, 3, 2])  # [height, width, channels, 1], as the operation has it
    padding = [((size - 1) // 2, size // 2) for size in layer.kernel_size]

    @tf.custom_gradient
    def convolved(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        how = {"strides": [1, 1, 1, 1], "padding": "SAME"}

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **how
            )
            return of_x, _kernel_gradient(x, upstream, padding)

        return tf.nn.depthwise_conv2d(x, kernel, **how), gradient

    return convolved(inputs, kernel)


def _kernel_gradient(x: tf.Tensor, upstream: tf.Tensor, padding: list[tuple[int, int]]) -> tf.Tensor:
    """Returns `[height, width, channels, 1]`: each image's map convolved with what comes back to it, and summed."""
    rows, columns, channels = x.shape[1:]
    padded = tf.pad(tf.transpose(x, [1, 2, 0, 3]), [*padding, (0, 0), (0, 0)])
    padded = tf.reshape(padded, [1, rows + sum(padding[0]), columns + sum(padding[1]), -1])
    upstream = tf.reshape(tf.transpose(upstream, [1, 2, 0, 3]), [rows, columns, -1, 1])
    of_images = tf.nn.depthwise_conv2d(padded, upstream, [1, 1, 1, 1], "VALID")[0]
    height, width = of_images.shape[:2]
    return tf.reduce_sum(tf.reshape(of_images, [height, width, -1, channels]), axis=2)[..., tf.newaxis]
