"""1x1 convolutions with BatchNorm and ReLU as one product, against layers of Keras and against formulas in float64."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from norm_layers import SIZE, assert_equal, images, network, norms_left, results
from replicas import replica_names, replica_strategy

from tl_distributed.models.fused_kernels import pointwise_products, use_fused_kernels
from tl_distributed.models.normalized_products import normalized_product, normalized_products


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(layers.ReLU(6.0)),
        lambda: network(layers.ReLU(), norm={"scale": False}),
        lambda: network(layers.Activation("relu6"), norm={"center": False, "momentum": 0.7, "epsilon": 0.1}),
        lambda: network(layers.Activation("relu"), convolution={"kernel_initializer": "ones"}),
        lambda: network(layers.Activation("silu")),
        lambda: network(lambda x: x * 2.0),
        lambda: network(),
    ],
    ids=["relu6", "relu", "relu6 as activation", "equal channels", "another activation", "an operation", "none"],
)
def test_is_what_keras_computes(make):
    model = make()
    stock = results(model, images())
    use_fused_kernels(model)
    assert norms_left(model) == 1
    with normalized_products(model):
        assert_equal(results(model, images()), stock, 3e-5)
        assert norms_left(model) == 0
    assert norms_left(model) == 1  # all is put back


def test_a_bias_moves_the_mean_alone():
    model = network(layers.ReLU(), convolution={"use_bias": True})
    stock = results(model, images())
    use_fused_kernels(model)
    with normalized_products(model):
        found = results(model, images())
        assert norms_left(model) == 0
    place = 1 + [variable.path for variable in model.trainable_variables].index(model.layers[1].bias.path)
    of_bias, of_stock = found["gradients"].pop(place), stock["gradients"].pop(place)
    assert not of_bias.any() and np.abs(of_stock).max() < 1e-6 * np.abs(stock["gradients"][1]).max()  # by rounding
    assert_equal(found, stock, 3e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(convolution={"filters": 14}),
        lambda: network(convolution={"kernel_size": 3}),
        lambda: network(convolution={"strides": 2}),
        lambda: network(convolution={"activation": "relu"}),
        lambda: network(convolution={"trainable": False}),
        lambda: network(convolution={"dtype": "mixed_bfloat16"}),
        lambda: network(norm={"trainable": False}),
        lambda: network(norm={"dtype": "mixed_bfloat16"}),
    ],
    ids=["narrow", "3x3", "strides", "activation", "frozen", "half precision", "frozen norm", "half norm"],
)
def test_others_stay(make):
    model = make()
    use_fused_kernels(model)
    before = results(model, images())
    with normalized_products(model):
        assert_equal(results(model, images()), before, 0.0)
        assert norms_left(model) == 1


def test_few_rows_stay():
    model = network(layers.ReLU(6.0))
    use_fused_kernels(model)
    few = images()[:1, :3, :3]
    before = results(model, few)
    with normalized_products(model):
        assert_equal(results(model, few), before, 0.0)


def test_a_rectifier_that_is_not_the_only_taker_stays():
    inputs = keras.Input(SIZE[1:], batch_size=SIZE[0])
    normal = layers.BatchNormalization()(layers.Conv2D(20, 1, use_bias=False)(inputs))
    model = keras.Model(inputs, layers.ReLU(6.0)(normal) + normal)
    use_fused_kernels(model)
    before = results(model, images())
    with normalized_products(model):
        assert_equal(results(model, images()), before, 3e-5)
        assert norms_left(model) == 0


def test_with_convolutions_as_products():
    model = network(layers.ReLU(6.0))
    stock = results(model, images())
    use_fused_kernels(model)
    with pointwise_products(model), normalized_products(model):
        assert_equal(results(model, images()), stock, 3e-5)


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("rectifier", [None, tf.nn.relu, tf.nn.relu6])
def test_against_float64(rectifier, mean):
    """No further from the exact result than the layers of Keras are, also where the mean is far off."""
    generator = np.random.default_rng(0)
    x = generator.normal(mean, 1.0, (20_000, 8)) @ generator.normal(0.0, 1.0, (8, 8))  # of channels that hang together
    kernel = generator.normal(0.0, 0.3, (8, 24))
    gamma, beta, upstream = (generator.normal(0.5, 1.0, shape) for shape in (24, 24, (20_000, 24)))

    def by_layers(x, kernel, gamma, beta):
        product = tf.linalg.matmul(x, kernel)
        average, variance = tf.nn.moments(product, axes=[0])
        return tf.nn.batch_normalization(product, average, variance, beta, gamma, 1e-3), average, variance

    def own(x, kernel, gamma, beta):
        return normalized_product(x, kernel, gamma, beta, epsilon=1e-3, rectifier=rectifier)

    def run(function, dtype):
        values = [tf.constant(value, dtype) for value in (x, kernel, gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs, *statistics = function(*values)
            if function is by_layers and rectifier is not None:
                outputs = rectifier(outputs)
        gradients = tape.gradient(outputs, values, output_gradients=tf.constant(upstream, dtype))
        return [value.numpy().astype(np.float64) for value in (outputs, *statistics, *gradients)]

    exact, found, stock = run(by_layers, tf.float64), run(own, tf.float32), run(by_layers, tf.float32)
    for value, one, other in zip(exact, found, stock, strict=True):
        scale = np.sqrt(np.mean(value**2))
        error, of_layers = (np.sqrt(np.mean((given - value) ** 2)) / scale for given in (one, other))
        assert error <= max(2.0 * of_layers, 1e-5)


def test_on_replicas():
    """Each with the statistics of its own images."""
    model = network(layers.ReLU(6.0))
    use_fused_kernels(model)
    weights = [
        [tf.identity(variable.value) for variable in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    strategy = replica_strategy(replica_names(2))

    def call(seed):
        return tf.nest.flatten(model.stateless_call(*weights, images(seed), training=True))

    expected = [call(0), call(1)]
    given = strategy.experimental_distribute_values_from_function(lambda context: context.replica_id_in_sync_group)
    both = [images(0), images(1)]

    def of_replica(number):
        x = tf.where(number == 0, both[0], both[1])
        return tf.nest.flatten(model.stateless_call(*weights, tf.ensure_shape(x, SIZE), training=True))

    with normalized_products(model):
        found = tf.function(lambda number: strategy.run(of_replica, args=(number,)))(given)
    for index, values in enumerate(expected):
        for one, other in zip(found, values, strict=True):
            one = strategy.experimental_local_results(one)[index]
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_an_error_puts_all_back():
    model = network()
    use_fused_kernels(model)
    with contextlib.suppress(ZeroDivisionError), normalized_products(model):
        raise ZeroDivisionError
    assert norms_left(model) == 1
