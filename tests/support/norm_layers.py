"""A convolution and BatchNorm of Keras, and what a training step takes from them."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SIZE = (4, 8, 8, 5)  # 256 rows of 5 channels


def images(seed: int = 1) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(2.0, 3.0, SIZE), tf.float32)


def network(*after: keras.layers.Layer, convolution: dict | None = None, norm: dict | None = None) -> keras.Model:
    """Returns a convolution to 20 channels, BatchNorm, further layers and one that makes gradients differ by place."""
    inputs = keras.Input(SIZE[1:], batch_size=SIZE[0])
    x = layers.Conv2D(**{"filters": 20, "kernel_size": 1, "use_bias": False, **(convolution or {})})(inputs)
    x = layers.BatchNormalization(**(norm or {}))(x)
    for layer in after:
        x = layer(x)
    model = keras.Model(inputs, layers.DepthwiseConv2D(3)(x))
    generator = np.random.default_rng(0)
    for variable in model.weights:  # what a layer begins with, 0 and 1, hides what it does with it
        variable.assign(variable.numpy() * generator.uniform(0.5, 1.5, variable.shape) + 0.1)
    return model


def results(
    model: keras.Model, inputs: np.ndarray | tf.Tensor, *, training: bool = True
) -> dict[str, list[np.ndarray]]:
    """Returns what steps take from a model: outputs, gradients of a function of them, new statistics."""

    @tf.function(autograph=False)
    def run(trainable, rest, inputs):
        with tf.GradientTape() as tape:
            tape.watch([inputs, trainable])
            outputs, statistics = model.stateless_call(trainable, rest, inputs, training=training)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
        gradients = tape.gradient(loss, [inputs, *trainable], unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return {"outputs": [outputs], "gradients": gradients, "statistics": statistics}

    groups = (model.trainable_variables, model.non_trainable_variables)
    values = [[tf.identity(variable.value) for variable in group] for group in groups]
    found = run(*values, tf.convert_to_tensor(inputs))
    return tf.nest.map_structure(lambda tensor: tensor.numpy().astype(np.float64), found)


def norms_left(model: keras.Model) -> int:
    """Returns how many BatchNorms are operations of their own in training."""
    spec = tf.TensorSpec(model.input_shape, model.input.dtype)
    program = tf.function(lambda inputs: model(inputs, training=True)).get_concrete_function(spec)
    return sum(operation.type.startswith("FusedBatchNorm") for operation in program.graph.get_operations())


def assert_equal(found: dict[str, list[np.ndarray]], expected: dict[str, list[np.ndarray]], tolerance: float) -> None:
    for kind, values in expected.items():
        for one, other in zip(found[kind], values, strict=True):
            scale = max(np.abs(other).max(), 1.0)
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tolerance, err_msg=kind)
