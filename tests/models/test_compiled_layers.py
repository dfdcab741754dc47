"""GELU, LayerNorm and scaled dense layers against Keras's own, and against formulas in float64."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from replicas import replica_names, replica_strategy

from tl_distributed.models.compiled_activations import gelu, silu
from tl_distributed.models.compiled_layers import compiled_layers, layer_norm

# Of the largest value; half precisions differ by where Keras rounds and we do not.
TOLERANCE = {"float32": 5e-6, "bfloat16": 4e-2, "float16": 5e-3}


def noise(*shape: int, seed: int = 0, dtype: str = "float32") -> tf.Tensor:
    return tf.cast(np.random.default_rng(seed).normal(0.5, 2.0, shape), dtype)


@pytest.fixture(scope="module", params=["float32", "mixed_bfloat16", "mixed_float16"])
def network(request) -> keras.Model:
    """Returns a block of ConvNeXt with what surrounds it, whose weights are not those that layers begin with."""
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy().name
    keras.config.set_dtype_policy(request.param)
    try:
        convnext = keras.applications.ConvNeXtTiny(weights=None, include_top=False, input_shape=(32, 32, 3))
    finally:
        keras.config.set_dtype_policy(policy)
    block = keras.Model(convnext.input, convnext.get_layer("convnext_tiny_stage_0_block_1_identity").output)
    for index, variable in enumerate(block.trainable_variables):
        if len(variable.shape) == 1:
            variable.assign(np.random.default_rng(index).uniform(0.3, 1.0, variable.shape))
    return block


def values_of(variables: list) -> list[tf.Tensor]:
    return [tf.identity(variable.value) for variable in variables]


def results(model: keras.Model, images: tf.Tensor) -> list[np.ndarray]:
    """Returns what a model makes of images, and the gradients of a function of that."""

    @tf.function
    def run(images, trainable):
        with tf.GradientTape() as tape:
            tape.watch([images, trainable])
            outputs, _ = model.stateless_call(trainable, values_of(model.non_trainable_variables), images)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
        return [outputs, *tape.gradient(loss, [images, *trainable])]

    return [tf.cast(value, tf.float64).numpy() for value in run(images, values_of(model.trainable_variables))]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tolerance)


def operations_of(model: keras.Model, images: tf.Tensor) -> list[str]:
    function = tf.function(lambda given: model(given, training=True)).get_concrete_function(images)
    return [operation.type for operation in function.graph.get_operations()]


def test_a_block_of_convnext_computes_the_same_in_fewer_operations(network):
    images = noise(2, 32, 32, 3) * 60.0
    before, stock = results(network, images), operations_of(network, images)
    with compiled_layers(network):
        found, compiled = results(network, images), operations_of(network, images)
    assert_close(found, before, TOLERANCE[network.output.dtype])
    assert {"Erfc", "Rsqrt"} <= set(stock) and not {"Erfc", "Rsqrt", "Mean"} & set(compiled)
    assert operations_of(network, images) == stock  # all is put back


@pytest.mark.parametrize("network", ["float32"], indirect=True)
def test_on_replicas(network):
    strategy = replica_strategy(replica_names(2))
    images, weights = (
        noise(2, 32, 32, 3),
        [values_of(network.trainable_variables), values_of(network.non_trainable_variables)],
    )
    with compiled_layers(network):
        expected, _ = network.stateless_call(*weights, images)
        run = tf.function(lambda: strategy.run(lambda: network.stateless_call(*weights, images)[0]))
        for found in strategy.experimental_local_results(run()):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gelu_and_its_gradient(dtype):
    x, upstream = tf.cast(tf.linspace(-40.0, 40.0, 3201), dtype), noise(3201, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = gelu(x)
    gradient = tape.gradient(found, x, output_gradients=upstream)
    wide, given = x.numpy().astype(np.float64), upstream.numpy().astype(np.float64)
    cdf = np.array([math.erfc(-value * math.sqrt(0.5)) / 2.0 for value in wide])
    slope = cdf + wide * np.exp(-(wide**2) / 2.0) / math.sqrt(2.0 * math.pi)
    assert found.dtype == gradient.dtype == dtype
    rounding = {"float32": 2e-7, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    np.testing.assert_allclose(found.numpy().astype(np.float64), wide * cdf, rtol=rounding, atol=1e-6)
    np.testing.assert_allclose(gradient.numpy().astype(np.float64), given * slope, rtol=2 * rounding, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_silu_and_its_gradient(dtype):
    x, upstream = tf.cast(tf.linspace(-120.0, 120.0, 4801), dtype), noise(4801, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = silu(x)
    gradient = tape.gradient(found, x, output_gradients=upstream)
    wide, given = x.numpy().astype(np.float64), upstream.numpy().astype(np.float64)
    share = 1.0 / (1.0 + np.exp(-wide))
    assert found.dtype == gradient.dtype == dtype
    rounding = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-10}[dtype]
    np.testing.assert_allclose(found.numpy().astype(np.float64), wide * share, rtol=rounding, atol=1e-6)
    slope = share * (1.0 + wide * (1.0 - share))
    np.testing.assert_allclose(gradient.numpy().astype(np.float64), given * slope, rtol=2 * rounding, atol=2e-6)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_activations_of_layers_of_their_own(activation):
    inputs = keras.Input((4, 5, 6))
    model = keras.Model(inputs, layers.Activation(activation)(inputs))
    before = results(model, noise(2, 4, 5, 6))
    with compiled_layers(model):
        assert_close(results(model, noise(2, 4, 5, 6)), before, TOLERANCE["float32"])
        operations = operations_of(model, noise(2, 4, 5, 6))
    assert not {"Sigmoid", "Erfc", "Mul"} & set(operations)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_layer_norm_and_its_gradients(mean):
    x, gamma, beta, upstream = noise(3, 4, 7) + mean, noise(7, seed=1), noise(7, seed=2), noise(3, 4, 7, seed=3)
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        found = layer_norm(x, gamma, beta, 1e-3)
    gradients = tape.gradient(found, [x, gamma, beta], output_gradients=upstream)
    wide = [tf.cast(value, tf.float64) for value in (x, gamma, beta, upstream)]
    with tf.GradientTape() as tape:
        tape.watch(wide)
        average = tf.reduce_mean(wide[0], axis=-1, keepdims=True)
        variance = tf.reduce_mean((wide[0] - average) ** 2, axis=-1, keepdims=True)
        expected = (wide[0] - average) / tf.sqrt(variance + 1e-3) * wide[1] + wide[2]
    wanted = tape.gradient(expected, wide[:3], output_gradients=wide[3])
    tolerance = 2e-6 if mean == 0.0 else 1e-4  # of the mean's own rounding in float32
    assert_close([found.numpy(), *(value.numpy() for value in gradients)], [expected, *wanted], tolerance)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LayerNormalization(center=False),
        lambda: layers.LayerNormalization(scale=False, epsilon=0.1),
        lambda: layers.Dense(5, use_bias=False, activation="relu"),
        lambda: layers.Dense(5, activation="gelu"),
        lambda: layers.Conv2D(5, 3, activation="gelu"),
        lambda: layers.Conv2D(6, 5, groups=6, padding="same"),
        lambda: layers.Conv2D(6, (6, 7), groups=6, padding="same", use_bias=False, activation="gelu"),
    ],
)
def test_layers_of_other_arguments(make):
    inputs = keras.Input((4, 5, 6))
    model = keras.Model(inputs, make()(inputs))
    before = results(model, noise(2, 4, 5, 6))
    with compiled_layers(model):
        assert_close(results(model, noise(2, 4, 5, 6)), before, TOLERANCE["float32"])


def test_what_it_does_not_know_stays():
    inputs = keras.Input((4, 5, 6))
    kept = [
        layers.LayerNormalization(axis=1), layers.LayerNormalization(axis=[1, 2]),
        layers.Conv2D(6, 3, groups=6, padding="same"), layers.Conv2D(6, 7, groups=3, padding="same"),
        layers.Conv2D(12, 7, groups=6, padding="same"), layers.DepthwiseConv2D(7, padding="same"),
        layers.EinsumDense("abcd,de->abce", (4, 5, 7)),
        layers.Activation(lambda x: keras.ops.gelu(x, approximate=True)),
    ]  # fmt: skip
    model = keras.Model(inputs, [layer(inputs) for layer in kept])
    before = operations_of(model, noise(2, 4, 5, 6))
    with compiled_layers(model):
        assert operations_of(model, noise(2, 4, 5, 6)) == before


def test_a_scale_goes_into_no_layer_whose_output_others_take_too():
    scale = type(keras.applications.ConvNeXtTiny(weights=None).get_layer("convnext_tiny_stage_0_block_0_layer_scale"))
    inputs = keras.Input((4, 5, 6))
    taken = layers.Dense(6)(inputs)
    model = keras.Model(inputs, taken + scale(0.5, 6)(taken))
    before = results(model, noise(2, 4, 5, 6))
    with compiled_layers(model):
        assert_close(results(model, noise(2, 4, 5, 6)), before, TOLERANCE["float32"])
