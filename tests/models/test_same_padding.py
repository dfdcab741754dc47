"""Padding as a depthwise convolution's own, against layers of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tl_distributed.models.same_padding import same_padding


def network(size: tuple[int, int], zeros: tuple, **convolution) -> keras.Model:
    inputs = keras.Input((*size, 4), batch_size=3)
    padded = layers.ZeroPadding2D(zeros)(inputs)
    return keras.Model(inputs, layers.DepthwiseConv2D(**{"kernel_size": 3, "strides": 2, **convolution})(padded))


def results(model: keras.Model) -> list[np.ndarray]:
    """Returns outputs, and gradients of a function of them."""
    images = tf.constant(np.random.default_rng(0).normal(1.0, 2.0, model.input_shape), tf.float32)

    @tf.function(autograph=False)
    def run(images, trainable):
        with tf.GradientTape() as tape:
            tape.watch([images, trainable])
            outputs, _ = model.stateless_call(trainable, [], images, training=True)
            loss = tf.reduce_sum(outputs**3)
        return [outputs, *tape.gradient(loss, [images, *trainable])]

    return [value.numpy() for value in run(images, [tf.identity(v.value) for v in model.trainable_variables])]


def pads(model: keras.Model) -> bool:
    """Whether a model pads by an operation of its own."""
    program = tf.function(lambda inputs: model(inputs, training=True))
    graph = program.get_concrete_function(tf.TensorSpec(model.input_shape)).graph
    return any(operation.type.startswith(("Pad", "MirrorPad")) for operation in graph.get_operations())


@pytest.mark.parametrize(
    ("size", "zeros", "convolution"),
    [
        ((8, 6), ((0, 1), (0, 1)), {"use_bias": False}),
        ((8, 7), ((0, 1), (1, 1)), {"activation": "relu6"}),
        ((8, 8), ((1, 2), (1, 2)), {"kernel_size": 5, "depth_multiplier": 2}),
        ((5, 5), ((1, 1), (1, 1)), {"strides": 1}),
    ],
)
def test_where_it_is_the_same(size, zeros, convolution):
    model = network(size, zeros, **convolution)
    before = results(model)
    with same_padding(model):
        for one, other in zip(results(model), before, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())
        assert not pads(model)
    assert pads(model)  # all is put back


@pytest.mark.parametrize(
    ("size", "zeros", "convolution"),
    [
        ((8, 8), ((1, 0), (0, 1)), {}),
        ((8, 8), ((1, 1), (1, 1)), {}),
        ((7, 8), ((0, 1), (0, 1)), {}),
        ((8, 8), ((0, 1), (0, 1)), {"padding": "same"}),
        ((8, 8), ((0, 1), (0, 1)), {"trainable": False}),
        ((8, 8), ((1, 1), (1, 1)), {"strides": 1, "dilation_rate": 2}),
    ],
)
def test_where_it_is_not_it_stays(size, zeros, convolution):
    model = network(size, zeros, **convolution)
    with same_padding(model):
        assert pads(model)


def test_maps_of_unknown_size_stay():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(inputs)))
    with same_padding(model):
        assert pads(model)
