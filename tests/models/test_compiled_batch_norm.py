"""BatchNorm by XLA within a step, against layers of Keras and against formulas in float64."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from norm_layers import assert_equal, images, network, norms_left, results

from tl_distributed.models import compiled_batch_norm as compiled
from tl_distributed.models.compiled_batch_norm import batch_norm, compiled_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels


@pytest.fixture
def small_maps(monkeypatch):
    """Has the tests' maps count as large ones."""
    monkeypatch.setattr(compiled, "_LEAST_VALUES", 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(layers.ReLU(6.0)),
        lambda: network(norm={"scale": False}),
        lambda: network(norm={"center": False, "momentum": 0.7, "epsilon": 0.1}),
    ],
    ids=["plain", "no factor", "no offset"],
)
@pytest.mark.usefixtures("small_maps")
def test_is_what_keras_computes(make):
    model = make()
    stock = results(model, images())
    use_fused_kernels(model)
    assert norms_left(model) == 1
    with compiled_batch_norm(model):
        assert_equal(results(model, images()), stock, 3e-5)
        assert norms_left(model) == 0
    assert norms_left(model) == 1  # all is put back


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(norm={"trainable": False}),
        lambda: network(norm={"dtype": "mixed_bfloat16"}),
        lambda: network(convolution={"strides": 3}),
        lambda: network(convolution={"filters": 32}),
    ],
    ids=["frozen", "half precision", "rows that are no multiple of sixteen", "what oneDNN does well"],
)
@pytest.mark.usefixtures("small_maps")
def test_others_stay(make):
    model = make()
    use_fused_kernels(model)
    before = results(model, images())
    with compiled_batch_norm(model):
        assert_equal(results(model, images()), before, 0.0)
        assert norms_left(model) == 1


def test_small_maps_stay():
    model = network(layers.ReLU(6.0))
    use_fused_kernels(model)
    with compiled_batch_norm(model):
        assert norms_left(model) == 1


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_against_float64(mean):
    """No further from the exact result than TensorFlow's formula is, also where the mean is far off."""
    generator = np.random.default_rng(0)
    x, upstream = generator.normal(mean, 2.0, (16_000, 6)), generator.normal(0.5, 1.0, (16_000, 6))
    gamma, beta = generator.normal(0.5, 1.0, 6), generator.normal(0.5, 1.0, 6)

    def by_formula(x, gamma, beta):
        average, variance = tf.nn.moments(x, axes=[0])
        outputs = tf.nn.batch_normalization(x, average, variance, beta, gamma, 1e-3)
        return outputs, average, variance

    def own(x, gamma, beta):
        return batch_norm(x, gamma, beta, epsilon=1e-3)

    def run(function, dtype):
        values = [tf.constant(value, dtype) for value in (x, gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs, *statistics = function(*values)
        gradients = tape.gradient(outputs, values, output_gradients=tf.constant(upstream, dtype))
        return [value.numpy().astype(np.float64) for value in (outputs, *statistics, *gradients)]

    exact, found, stock = run(by_formula, tf.float64), run(own, tf.float32), run(by_formula, tf.float32)
    for value, one, other in zip(exact, found, stock, strict=True):
        scale = np.sqrt(np.mean(value**2))
        error, of_formula = (np.sqrt(np.mean((given - value) ** 2)) / scale for given in (one, other))
        assert error <= max(2.0 * of_formula, 1e-5)
