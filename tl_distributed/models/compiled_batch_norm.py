"""BatchNorm with the activation after it in few passes over memory, for a CPU's steps without XLA as a whole.

Each for itself TensorFlow's kernels go over a map fourteen times for BatchNorm, ReLU and their gradients. Here XLA
compiles the normalisation and the activation to one pass, and computes what the activation was anew where the gradients
ask for it. XLA sums over images slowly on a CPU; sums of sixteen rows each are an elementwise pass to it, and what is
left a sixteenth of the map.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tl_distributed.models.fused_kernels import is_plain_batch_norm, move_statistics
from tl_distributed.models.layer_pairs import pairs_of_layers
from tl_distributed.models.programs import run_program, sum_of_rows
from tl_distributed.models.replacing import replaced_methods

_ROWS_OF_A_SUM = 16
_CHANNELS_OF_ONEDNN = 16
_LEAST_VALUES = 1 << 19  # below there is little to gain, and each size of map is compiled


class _Programs(NamedTuple):
    """What XLA compiles for one activation: outputs, sums of rows for the gradients, the gradient of the inputs."""

    outputs: Any
    sums: Any
    gradient: Any


@contextlib.contextmanager
def compiled_batch_norm(model: keras.Model) -> Iterator[None]:
    """Makes calls of a built model within it (the trace of a training step on a CPU) take BatchNorm in few passes.

    Of layers in float32 that train, on maps of over half a million values, each with the ReLU or ReLU6 that alone
    takes what it puts out; without one only where oneDNN's kernel is slow, which likes channels by sixteens.

    Args:
      model: Called with `training=True`.
    """
    after = dict(pairs_of_layers(model, _is_norm, _is_activation))
    calls: dict[Any, Callable] = {}
    for norm in filter(_is_norm, model._flatten_layers()):
        activation = after.get(norm)
        calls[norm] = _norm_call(norm, norm.call, activation and activation.call, _name_of(activation))
        if activation is not None:
            calls[activation] = lambda inputs: inputs
    with replaced_methods("call", calls):
        yield


def _is_norm(layer: Any) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and is_plain_batch_norm(layer)
        and layer.trainable
        and layer.compute_dtype == "float32"
    )


def _is_activation(layer: Any) -> bool:
    return _name_of(layer) != "linear" and layer.compute_dtype == "float32"


def _name_of(layer: Any | None) -> str:
    """Returns the activation that a layer is: a key of `_PROGRAMS`; `linear` for all others."""
    if type(layer) is keras.layers.ReLU and layer.threshold == layer.negative_slope == 0.0:
        return {None: "relu", 6.0: "relu6"}.get(layer.max_value, "linear")
    if type(layer) is keras.layers.Activation:
        known = {getattr(keras.activations, name): name for name in ("relu", "relu6")}
        return known.get(layer.activation, "linear")
    return "linear"


def _norm_call(norm: Any, plain: Callable, activation: Callable | None, name: str) -> Callable:
    """Returns `norm.call` with the activation after it; `plain` and `activation` are what both did before."""

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        rows, channels = inputs.shape[:-1].num_elements(), inputs.shape[-1]
        is_large = rows is not None and rows % _ROWS_OF_A_SUM == 0 and rows * channels >= _LEAST_VALUES
        if not (training and is_large and (name != "linear" or channels % _CHANNELS_OF_ONEDNN)):
            outputs = plain(inputs, training=training)
            return outputs if activation is None else activation(outputs)
        gamma = _value(norm.gamma) if norm.scale else tf.ones([channels])
        beta = _value(norm.beta) if norm.center else tf.zeros([channels])
        outputs, mean, variance = batch_norm(
            tf.reshape(inputs, [-1, channels]), gamma, beta, epsilon=norm.epsilon, activation=name
        )
        move_statistics(norm, mean, variance)
        return tf.reshape(outputs, inputs.shape)

    return call


def batch_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float, activation: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns `activation(batch_norm(x))`, and each channel's mean and variance (Ioffe and Szegedy, arXiv:1502.03167).

    These two are `[channels]`, and no gradient comes back of them; the variance is divided by the number of rows.

    Args:
      x: `[rows, channels] float32`, the rows a multiple of sixteen.
      gamma: `[channels] float32`, factor.
      beta: `[channels] float32`, offset.
      epsilon: Added to the variance.
      activation: `linear`, `relu` or `relu6`.
    """
    rows, programs = float(x.shape[0]), _PROGRAMS[activation]

    @tf.custom_gradient
    def normal(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean = sum_of_rows(run_program(_sums, x)) / rows
        variance = sum_of_rows(run_program(_squares, x, mean)) / rows
        inverse = tf.math.rsqrt(variance + epsilon)
        factor = inverse * gamma
        outputs = run_program(programs.outputs, x, mean, factor, beta)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_beta, along = map(sum_of_rows, run_program(programs.sums, x, mean, factor, beta, upstream))
            slope = along * inverse * inverse / rows
            inputs = run_program(programs.gradient, x, mean, factor, beta, upstream, of_beta / rows, slope)
            return inputs, along * inverse, of_beta

        return (outputs, mean, variance), gradient

    return normal(x, gamma, beta)


def _programs(function: Callable, pulled_back: Callable) -> _Programs:
    """Returns the programs of an activation: `function(y)`, and `pulled_back(y, upstream)`, its gradient."""

    @tf.function(autograph=False, jit_compile=True)
    def outputs(x: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        return function((x - mean) * factor + beta)

    @tf.function(autograph=False, jit_compile=True)
    def sums(
        x: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, beta: tf.Tensor, upstream: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def of_beta(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
            return pulled_back((x - mean) * factor + beta, upstream)

        def along(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
            return of_beta(x, upstream) * (x - mean)

        return _partial_sums(of_beta, x, upstream), _partial_sums(along, x, upstream)

    @tf.function(autograph=False, jit_compile=True)
    def gradient(
        x: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, beta: tf.Tensor, upstream: tf.Tensor,
        average: tf.Tensor, slope: tf.Tensor,
    ) -> tf.Tensor:  # fmt: skip
        centred = x - mean
        return (pulled_back(centred * factor + beta, upstream) - average - centred * slope) * factor

    return _Programs(outputs, sums, gradient)


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


_PROGRAMS = {
    "linear": _programs(lambda y: y, lambda y, upstream: upstream),
    "relu": _programs(tf.nn.relu, lambda y, upstream: tf.where(y > 0.0, upstream, 0.0)),
    "relu6": _programs(tf.nn.relu6, lambda y, upstream: tf.where((y > 0.0) & (y < 6.0), upstream, 0.0)),
}


def _value(variable: Any) -> tf.Tensor:
    return tf.convert_to_tensor(keras.ops.convert_to_tensor(variable))
