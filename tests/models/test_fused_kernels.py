"""Fused kernels against the layers of Keras whose place they take."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from norm_layers import results

from tl_distributed.models.fused_kernels import pointwise_products, use_fused_kernels


def assert_unchanged(model: keras.Model, images: np.ndarray, *, training: bool, tolerance: float) -> None:
    """Compares a model of stock layers with itself after the change, and checks that there was one."""
    for variable in model.weights:  # what a layer begins with, 0 and 1, hides what it does with it
        noise = np.random.default_rng(len(variable.path)).uniform(0.5, 1.5, variable.shape)
        variable.assign(noise if len(variable.shape) < 2 else variable.numpy() * noise)
    stock = results(model, images, training=training)
    use_fused_kernels(model)
    fused = results(model, images, training=training)
    for kind, expected in stock.items():
        for one, other in zip(fused[kind], expected, strict=True):
            scale = max(np.abs(other).max(), 1e-3)
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tolerance, err_msg=kind)
    pairs = zip(tf.nest.flatten(stock), tf.nest.flatten(fused), strict=True)
    assert any((one != other).any() for one, other in pairs)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(2.0, 3.0, shape).astype(np.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "arguments", [{}, {"scale": False}, {"center": False, "momentum": 0.7, "epsilon": 0.01}, {"trainable": False}]
)
def test_batch_norm(arguments, training):
    inputs = keras.Input((5, 4, 6), batch_size=3)
    model = keras.Model(inputs, layers.BatchNormalization(**arguments)(inputs))
    assert_unchanged(model, images(3, 5, 4, 6), training=training, tolerance=1e-5)


def strided(channels: int, dtype: str, **arguments: object) -> keras.Model:
    inputs = keras.Input((8, 10, channels), batch_size=8, dtype=dtype)
    model = keras.Model(inputs, layers.Conv2D(20, 1, use_bias=False, dtype=dtype, **arguments)(inputs))
    for variable in model.weights:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    return model


@pytest.mark.parametrize("channels", [1, 2, 6, 12])
@pytest.mark.parametrize("arguments", [{"strides": 2}, {"strides": (1, 3), "padding": "same"}, {"strides": (2, 1)}])
def test_strided_pointwise_convolutions_have_the_gradient_of_float64(channels, arguments):
    """oneDNN's is wrong, on some CPUs and in some calls."""
    given = images(8, 8, 10, channels)
    exact = results(strided(channels, "float64", **arguments), given.astype(np.float64))
    model = strided(channels, "float32", **arguments)
    use_fused_kernels(model)
    for _ in range(10):
        found = results(model, given)
        for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(exact), strict=True):
            scale = np.abs(other).max()
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=3e-5)


def test_batch_norm_under_mixed_precision_computes_in_float32():
    inputs = keras.Input((5, 4, 6), batch_size=3)
    model = keras.Model(inputs, layers.BatchNormalization(dtype="mixed_bfloat16")(inputs))
    assert_unchanged(model, images(3, 5, 4, 6), training=True, tolerance=2e-2)
    assert model.output.dtype == "bfloat16"


def test_batch_norm_of_one_value_a_channel_keeps_its_variance_of_nothing():
    inputs = keras.Input((1, 1, 6), batch_size=1)
    model = keras.Model(inputs, layers.BatchNormalization(momentum=0.5)(inputs))
    use_fused_kernels(model)
    mean, variance = results(model, images(1, 1, 1, 6), training=True)["statistics"]
    np.testing.assert_allclose(mean, images(1, 1, 1, 6).ravel() / 2, rtol=1e-6)
    np.testing.assert_allclose(variance, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 7, "padding": "same"},
        {"kernel_size": 3, "strides": 2, "padding": "same", "use_bias": False},
        {"kernel_size": (2, 3), "dilation_rate": 2, "activation": "relu"},
        {"filters": 12, "kernel_size": 3},
    ],
)
def test_convolution_of_as_many_groups_as_channels(arguments):
    inputs = keras.Input((9, 8, 6), batch_size=2)
    model = keras.Model(inputs, layers.Conv2D(**{"filters": 6, "groups": 6, **arguments})(inputs))
    assert_unchanged(model, images(2, 9, 8, 6), training=True, tolerance=1e-5)


def test_other_layers_keep_what_they_call():
    inputs = keras.Input((8, 8, 6))
    kept = [
        layers.Conv2D(6, 3), layers.Conv2D(6, 3, groups=3), layers.DepthwiseConv2D(3), layers.LayerNormalization(),
        layers.BatchNormalization(axis=1), layers.BatchNormalization(synchronized=True),
        layers.Conv2D(8, 3, groups=8, data_format="channels_first"),
    ]  # fmt: skip
    before = [(layer.call, getattr(layer, "convolution_op", None)) for layer in kept]
    use_fused_kernels(keras.Model(inputs, [layer(inputs) for layer in kept]))
    assert [(layer.call, getattr(layer, "convolution_op", None)) for layer in kept] == before


def test_a_whole_network_and_its_file(tmp_path):
    """Nested, with both kinds of layers; saved as if nothing had been changed."""
    inputs = keras.Input((8, 8, 4), batch_size=2)
    x = layers.Conv2D(8, 3, groups=4, use_bias=False)(inputs)
    block = keras.Sequential([keras.Input((6, 6, 8)), layers.BatchNormalization(), layers.ReLU()])
    model = keras.Model(inputs, layers.Conv2D(8, 3, groups=8)(block(x)))
    assert_unchanged(model, images(2, 8, 8, 4), training=True, tolerance=1e-4)
    model.save(tmp_path / "model.keras")
    opened = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(opened(images(2, 8, 8, 4)), model(images(2, 8, 8, 4)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"use_bias": False, "padding": "same"}, {"dtype": "mixed_bfloat16"}])
def test_pointwise_convolution_is_a_matrix_product(arguments):
    inputs = keras.Input((5, 4, 6), batch_size=3)
    model = keras.Model(inputs, layers.Conv2D(7, 1, **arguments)(inputs))
    stock = results(model, images(3, 5, 4, 6), training=True)
    with pointwise_products(model):
        found = results(model, images(3, 5, 4, 6), training=True)
    tolerance = 5e-2 if "dtype" in arguments else 1e-5
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(stock), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tolerance)


class StillNorm(layers.BatchNormalization):
    """Normalises by its moving statistics, in training too."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


class StandardConv2D(layers.Conv2D):
    """Standardises its kernel."""

    def convolution_op(self, inputs, kernel):
        mean, variance = keras.ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) / keras.ops.sqrt(variance + 1e-5))


@pytest.mark.parametrize(
    "layer", [lambda: StillNorm(), lambda: StandardConv2D(4, 1), lambda: StandardConv2D(6, 3, groups=6)]
)
def test_what_a_subclass_computes_stays(layer):
    inputs = keras.Input((5, 4, 6), batch_size=3)
    model = keras.Model(inputs, layer()(inputs))
    stock = results(model, images(3, 5, 4, 6))
    use_fused_kernels(model)
    with pointwise_products(model):
        found = results(model, images(3, 5, 4, 6))
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(stock), strict=True):
        np.testing.assert_array_equal(one, other)


def operations_of(model: keras.Model) -> list[str]:
    function, spec = tf.function(lambda x: model(x, training=True)), tf.TensorSpec(model.input_shape)
    return [operation.type for operation in function.get_concrete_function(spec).graph.get_operations()]


def test_other_convolutions_and_frozen_ones_stay_and_all_are_put_back():
    inputs = keras.Input((8, 8, 6), batch_size=3)
    model = keras.Sequential([
        inputs, layers.Conv2D(4, 1), layers.Conv2D(4, 1, trainable=False), layers.Conv2D(4, 1, strides=2),
        layers.Conv2D(4, 3), layers.Conv2D(4, 1, groups=2),
    ])  # fmt: skip
    before = operations_of(model)
    with pointwise_products(model):
        assert operations_of(model).count("MatMul") == 1
    assert operations_of(model) == before and "MatMul" not in before
