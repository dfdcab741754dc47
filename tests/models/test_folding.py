"""Folded BatchNorm against the layers of Keras whose place it takes."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from short_networks import FAMILIES, shortest, whole_network

from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels

WITHOUT_NORM = ("vgg16", "vgg19", "convnext")
SLOW = ("nasnet", "inception_resnet_v2", "efficientnet_v2", "densenet", "xception")  # to build


def randomised(model: keras.Model) -> keras.Model:
    """What a layer begins with, 0 and 1, hides what it does with it."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0.0, 1.0, shape).astype(np.float32)


def compute(model: keras.Model, inputs: np.ndarray, *, folded: bool) -> tuple[list[np.ndarray], int]:
    """Returns the outputs in inference, and how many BatchNorms are still operations of their own."""
    use_fused_kernels(model)  # so that such a one is one operation

    @tf.function(autograph=False)
    def run(trainable, rest, inputs):
        if folded:
            with folded_batch_norm(model):
                return model.stateless_call(trainable, rest, inputs, training=False)[0]
        return model.stateless_call(trainable, rest, inputs, training=False)[0]

    values = [[tf.identity(variable.value) for variable in group] for group in
              (model.trainable_variables, model.non_trainable_variables)]  # fmt: skip
    program = run.get_concrete_function(*values, tf.constant(inputs))
    left = sum(node.type.startswith("FusedBatchNorm") for node in program.graph.get_operations())
    return [output.numpy() for output in tf.nest.flatten(program(*tf.nest.flatten(values), tf.constant(inputs)))], left


def assert_equal(model: keras.Model, inputs: np.ndarray, *, left: int | None, tolerance: float = 1e-5) -> None:
    """Compares a model with itself folded, of which `left` BatchNorms stay as they are, or at least not all."""
    stock, all_norms = compute(model, inputs, folded=False)
    folded, remaining = compute(model, inputs, folded=True)
    assert remaining < all_norms if left is None else remaining == left
    for one, other in zip(folded, stock, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


NORMS = [{}, {"scale": False}, {"center": False, "epsilon": 0.1}, {"axis": 3}, {"trainable": False}]
BEFORE = [
    layers.Conv2D(5, 3),
    layers.Conv2D(6, (2, 3), strides=2, padding="same", use_bias=False),
    layers.Conv2D(4, 3, groups=2, dilation_rate=2),
    layers.Conv2D(8, 3, groups=4),
    layers.DepthwiseConv2D(3, padding="same"),
    layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, use_bias=False),
    layers.SeparableConv2D(7, 3, depth_multiplier=2),
]


@pytest.mark.parametrize(("layer", "norm"), [
    *((layer, {}) for layer in BEFORE), *((BEFORE[0], norm) for norm in NORMS), *((BEFORE[5], norm) for norm in NORMS),
])  # fmt: skip
def test_a_layer_and_its_norm(layer, norm):
    inputs = keras.Input((9, 8, 4), batch_size=2)
    layer = type(layer).from_config(layer.get_config())
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization(**norm)(layer(inputs))))
    assert_equal(randomised(model), images(2, 9, 8, 4), left=0)


def not_foldable(name: str) -> tuple[list, int]:
    """Returns the outputs of a graph in which BatchNorm has to stay, and how many do."""
    x = keras.Input((8, 8, 4), batch_size=2)
    conv, norm = layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()
    y = conv(x)
    graphs = {
        "before the convolution": lambda: ([x], [conv(norm(x))], 1),
        "behind an activation": lambda: ([x], [norm(layers.Conv2D(4, 3, activation="relu")(x))], 1),
        "behind another layer": lambda: ([x], [norm(layers.MaxPooling2D()(y))], 1),
        "of an output that two take": lambda: ([x], [layers.Add()([norm(y), y])], 1),
        "of an output of the model": lambda: ([x], [norm(y), y], 1),
        "of a convolution called twice": lambda: ([x], [norm(y), conv(y)], 1),
        "called twice": lambda: ([x], [layers.Add()([norm(y), norm(layers.Conv2D(4, 1)(y))])], 2),
        "in half precision": lambda: ([x], [layers.BatchNormalization(dtype="mixed_bfloat16")(
            layers.Conv2D(4, 3, dtype="mixed_bfloat16")(x))], 1),
        "of a convolution of another kind": lambda: ([x], [norm(layers.Conv2DTranspose(4, 3)(x))], 1),
    }  # fmt: skip
    inputs, outputs, left = graphs[name]()
    return keras.Model(inputs, outputs), left


@pytest.mark.parametrize("name", [
    "before the convolution", "behind an activation", "behind another layer", "of an output that two take",
    "of an output of the model", "of a convolution called twice", "called twice", "in half precision",
    "of a convolution of another kind",
])  # fmt: skip
def test_stays_as_it_is(name):
    model, left = not_foldable(name)
    assert_equal(randomised(model), images(2, 8, 8, 4), left=left, tolerance=0)


def nested() -> keras.Model:
    inputs = keras.Input((8, 8, 4), batch_size=2)
    block = keras.Sequential([layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()])
    inner = keras.Input((8, 8, 4))
    deep = keras.Model(inner, layers.BatchNormalization()(layers.Conv2D(4, 1)(inner)))
    return randomised(keras.Model(inputs, deep(block(block(inputs)))))


def test_nested_models_fold_too_also_where_one_is_called_twice():
    assert_equal(nested(), images(2, 8, 8, 4), left=0)


def test_a_part_of_a_model_folds_what_is_in_it():
    """As a bank cuts it: between a convolution and its norm, that convolution's output is the part's."""
    inputs = keras.Input((8, 8, 4), batch_size=2)
    first = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
    second = layers.Conv2D(4, 3)(first)
    randomised(keras.Model(inputs, layers.BatchNormalization()(second)))
    assert_equal(keras.Model(inputs, second), images(2, 8, 8, 4), left=0)


@pytest.mark.parametrize("fused", [False, True], ids=["stock", "fused"])
def test_afterwards_the_layers_are_as_before(fused):
    """In training above all, in which BatchNorm takes the batch's own statistics."""
    model, inputs = nested(), tf.constant(images(2, 8, 8, 4))
    if fused:
        use_fused_kernels(model)
    names = [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    before = model(inputs, training=True).numpy()
    with pytest.raises(ZeroDivisionError), folded_batch_norm(model):
        raise ZeroDivisionError
    assert [layer for layer in model._flatten_layers() if "call" in vars(layer)] == names
    np.testing.assert_array_equal(model(inputs, training=True).numpy(), before)


def test_folds_the_values_of_the_call_not_those_of_the_variables():
    """What an evaluation of averaged weights hands over."""
    inputs = keras.Input((8, 8, 4), batch_size=2)
    model = randomised(keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))))
    use_fused_kernels(model)
    values = [[tf.sqrt(tf.abs(variable.value)) for variable in group] for group in
              (model.trainable_variables, model.non_trainable_variables)]  # fmt: skip
    with folded_batch_norm(model):
        folded, _ = model.stateless_call(*values, images(2, 8, 8, 4), training=False)
    stock, _ = model.stateless_call(*values, images(2, 8, 8, 4), training=False)
    np.testing.assert_allclose(folded, stock, rtol=0, atol=1e-5 * np.abs(stock).max())
    assert np.abs(stock - model(images(2, 8, 8, 4))).max() > 0.1


def test_frozen_layers_fold_in_training_and_no_others():
    """The frozen pair infers, the other takes the batch's statistics and moves its own: outputs, gradients and all."""
    inputs = keras.Input((8, 8, 4), batch_size=2)
    x = layers.ReLU()(layers.BatchNormalization(trainable=False)(layers.Conv2D(6, 3, trainable=False)(inputs)))
    x = layers.BatchNormalization(trainable=False)(layers.Conv2D(6, 1, use_bias=False)(x))  # of one that trains: stays
    x = layers.Conv2D(5, 3, use_bias=False)(layers.ReLU()(x))
    model = randomised(keras.Model(inputs, layers.BatchNormalization()(x)))
    use_fused_kernels(model)

    def step(trainable, rest, inputs, *, folded):
        with contextlib.ExitStack() as stack:
            tape = stack.enter_context(tf.GradientTape())
            if folded:
                stack.enter_context(folded_batch_norm(model, frozen_only=True))
            tape.watch(trainable)
            outputs, new = model.stateless_call(trainable, rest, inputs, training=True)
            loss = tf.reduce_sum(outputs**3)
        return outputs, new, tape.gradient(loss, trainable)

    values = [[tf.identity(variable.value) for variable in group] for group in
              (model.trainable_variables, model.non_trainable_variables)]  # fmt: skip
    stock, folded = (
        tf.function(functools.partial(step, folded=folded), autograph=False).get_concrete_function(
            *values, tf.constant(images(2, 8, 8, 4))
        )
        for folded in (False, True)
    )
    norms = [sum(node.type == "FusedBatchNormV3" for node in one.graph.get_operations()) for one in (stock, folded)]
    assert norms == [3, 2]
    arguments = (*tf.nest.flatten(values), tf.constant(images(2, 8, 8, 4)))
    for one, other in zip(tf.nest.flatten(folded(*arguments)), tf.nest.flatten(stock(*arguments)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize(
    ("family", "part"),
    [
        *(pytest.param(name, shortest, marks=[pytest.mark.slow] if name in SLOW else []) for name in FAMILIES),
        *(pytest.param(name, whole_network, marks=[pytest.mark.slow, *([pytest.mark.release] if name in SLOW else [])])
          for name in FAMILIES),
    ],
)  # fmt: skip
def test_every_family(family, part):
    model = part(FAMILIES[family])
    size = model.input.shape[1]
    if family not in WITHOUT_NORM:
        assert_equal(randomised(model), images(2, size, size, 3), left=None, tolerance=1e-4)
    else:
        stock, folded = (compute(model, images(2, size, size, 3), folded=folded) for folded in (False, True))
        assert stock[1] == folded[1] == 0
        np.testing.assert_array_equal(stock[0], folded[0])
