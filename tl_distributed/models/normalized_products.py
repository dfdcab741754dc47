"""1x1 convolutions that widen, with the BatchNorm and ReLU after them, as one matrix product in a CPU's training step.

The wide map before the normalisation is never made. Of `y = x @ kernel` BatchNorm needs each channel's mean, which is
`mean(x) @ kernel`, and its variance, which is `kernel' @ cov(x) @ kernel` on its diagonal: `cov(x)` is a product of the
narrow map with itself. With both known BatchNorm is a factor and an offset a channel, which the kernel and a bias take.

Likewise backward: with BatchNorm's own gradient (Ioffe and Szegedy, arXiv:1502.03167, section 3) written out and
`upstream - mean - normal * mean(upstream * normal)` multiplied by the narrow map, all that is left of the wide maps are
`x' @ upstream` and `upstream @ kernel'`, the products that a convolution's gradients are anyway. So there are seven
passes over the wide map in place of seventeen. All is equal to Keras's to rounding.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.models.fused_kernels import is_pointwise, is_trained_batch_norm, move_statistics
from tl_distributed.models.layer_pairs import pairs_of_layers
from tl_distributed.models.layer_values import factor_and_offset, value_of
from tl_distributed.models.programs import sum_of_rows
from tl_distributed.models.replacing import replaced_methods

# Below these the products of the narrow map with itself cost more than the passes over the wide one.
_LEAST_WIDENING = 3
_LEAST_ROWS_A_CHANNEL = 16


@contextlib.contextmanager
def normalized_products(model: keras.Model) -> Iterator[None]:
    """Makes calls of a built model within it (the trace of a training step on a CPU) take such layers as one product.

    Of 1x1 convolutions in float32 whose BatchNorm trains, and that nobody else takes from, to at least three times as
    many channels.

    Args:
      model: Called with `training=True`.
    """
    rectifiers = dict(pairs_of_layers(model, is_trained_batch_norm, _is_rectifier))
    calls: dict[Any, Callable] = {}
    for layer, norm in pairs_of_layers(model, _widens, is_trained_batch_norm):
        rectifier = rectifiers.get(norm)
        calls[layer] = lambda inputs: inputs  # since BatchNorm alone is told whether it trains
        calls[norm] = _norm_call(layer, norm, rectifier)
        if rectifier is not None:
            calls[rectifier] = lambda inputs: inputs
    with _of_any_channels(filter(is_trained_batch_norm, list(calls))), replaced_methods("call", calls):
        yield


@contextlib.contextmanager
def _of_any_channels(norms: Iterable[Any]) -> Iterator[None]:
    """Has layers take any number of channels, which Keras checks before it calls them."""
    before = {norm: norm.input_spec for norm in norms}
    try:
        for norm in before:
            norm.input_spec = None
        yield
    finally:
        for norm, spec in before.items():
            norm.input_spec = spec


def _widens(layer: Any) -> bool:
    return (
        type(layer) is keras.layers.Conv2D
        and is_pointwise(layer)
        and layer.trainable
        and layer.activation is keras.activations.linear
        and layer.compute_dtype == layer.variable_dtype == "float32"
        and layer.filters >= _LEAST_WIDENING * layer.input_spec.axes[-1]
    )


def _is_rectifier(layer: Any) -> bool:
    return _rectifier(layer) is not None


def _rectifier(layer: Any) -> Any | None:
    """Returns TensorFlow's function of a ReLU layer in float32, `None` for other layers."""
    if type(layer) not in (keras.layers.ReLU, keras.layers.Activation) or layer.compute_dtype != "float32":
        return None
    if type(layer) is keras.layers.ReLU and layer.threshold == layer.negative_slope == 0.0:
        return {None: tf.nn.relu, 6.0: tf.nn.relu6}.get(layer.max_value)
    if type(layer) is keras.layers.Activation:
        return {keras.activations.relu: tf.nn.relu, keras.activations.relu6: tf.nn.relu6}.get(layer.activation)
    return None


def _norm_call(layer: Any, norm: Any, rectifier: Any | None) -> Callable:
    """Returns `norm.call` of what a convolution is given, with the convolution before it and the rectifier after it."""
    convolution, plain, after = layer.call, norm.call, rectifier and rectifier.call

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        channels, rows = inputs.shape[-1], inputs.shape[:-1].num_elements()
        if not training or rows is None or rows < _LEAST_ROWS_A_CHANNEL * channels:
            outputs = plain(convolution(inputs), training=training)
            return outputs if after is None else after(outputs)
        kernel = tf.reshape(value_of(layer.kernel), [channels, layer.filters])
        gamma, beta = factor_and_offset(norm, layer.filters)
        outputs, mean, variance = normalized_product(
            tf.reshape(inputs, [-1, channels]), kernel, gamma, beta,
            epsilon=norm.epsilon, rectifier=_rectifier(rectifier),
        )  # fmt: skip
        if layer.use_bias:
            mean += value_of(layer.bias)  # which the normalisation takes out again
        move_statistics(norm, mean, variance)
        return tf.reshape(outputs, [*inputs.shape[:-1], layer.filters])

    return call


def normalized_product(
    x: tf.Tensor, kernel: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float, rectifier: Any | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns `rectifier(batch_norm(x @ kernel))`, `[rows, filters]`, and each channel's mean and variance before it.

    These two are `[filters]`, and no gradient comes back of them; the variance is divided by the number of rows.

    Args:
      x: `[rows, channels] float32`.
      kernel: `[channels, filters] float32`.
      gamma: `[filters] float32`, factor.
      beta: `[filters] float32`, offset.
      epsilon: Added to the variance.
      rectifier: `tf.nn.relu`, `tf.nn.relu6` or `None`.
    """
    rows = float(x.shape[0])

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean = sum_of_rows(x) / rows
        centred = x - mean
        # The covariance of x and x @ kernel, times rows.
        shared = tf.linalg.matmul(tf.linalg.matmul(centred, centred, transpose_a=True), kernel)
        variance = tf.maximum(tf.reduce_sum(kernel * shared, axis=0) / rows, 0.0)
        factor = tf.math.rsqrt(variance + epsilon)
        scaled = kernel * (factor * gamma)
        outputs = tf.nn.bias_add(tf.linalg.matmul(centred, scaled), beta)
        if rectifier is not None:
            outputs = rectifier(outputs)  # which oneDNN does, like the bias, while it writes the product

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            upstream = _rectified_gradient(rectifier, upstream, outputs)
            of_beta = tf.linalg.matmul(tf.ones([1, x.shape[0]]), upstream)[0]  # of wide maps the fastest sum
            products = tf.linalg.matmul(centred, upstream, transpose_a=True)
            of_gamma = tf.reduce_sum(kernel * products, axis=0) * factor
            along = of_gamma * factor / rows
            of_kernel = (products - shared * along) * (factor * gamma)
            narrow = tf.linalg.matmul(centred, tf.linalg.matmul(scaled * along, kernel, transpose_b=True))
            narrow += tf.linalg.matvec(scaled, of_beta / rows)
            return tf.linalg.matmul(upstream, scaled, transpose_b=True) - narrow, of_kernel, of_gamma, of_beta

        return (outputs, tf.linalg.matvec(kernel, mean, transpose_a=True), variance), gradient

    return product(x, kernel, gamma, beta)


def _rectified_gradient(rectifier: Any | None, upstream: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    if rectifier is tf.nn.relu:
        return tf.raw_ops.ReluGrad(gradients=upstream, features=outputs)
    if rectifier is tf.nn.relu6:
        return tf.raw_ops.Relu6Grad(gradients=upstream, features=outputs)
    return upstream
