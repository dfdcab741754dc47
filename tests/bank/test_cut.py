"""Where a classifier is cut, and that the two parts together are the classifier."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.freezing import freeze_for
from tl_distributed.models.heads import build_classifier

SIZE = 16


def classifier(backbone: keras.Model, pooling: str = "avg", dropout: float = 0.3) -> keras.Model:
    return build_classifier(backbone, num_classes=3, pooling=pooling, head_units=(5,), dropout=dropout)


@pytest.fixture(scope="module")
def resnet() -> keras.Model:
    model = classifier(build_backbone(get_backbone("resnet20"), image_size=SIZE, weights="none"))
    for variable in model.variables:  # so that BatchNorm's statistics are not those of the identity
        if "moving" in variable.path:
            variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    return model


def freeze(model: keras.Model, first_trained: str = "") -> None:
    freeze_for(model, "partial" if first_trained else "frozen", unfreeze_last_layers=0, unfreeze_from=first_trained)


@pytest.mark.parametrize(
    "first_trained",
    ["", "stem_bn", "stage1_block2_2_conv", "stage2_block1_shortcut_conv", "stage3_block1_2_bn", "stage3_block3_add"],
)
def test_two_parts_make_the_whole(resnet, first_trained):
    freeze(resnet, first_trained)
    cut = cut_at_frozen(resnet)
    images = np.random.default_rng(1).normal(size=(3, SIZE, SIZE, 3)).astype(np.float32)
    expected = resnet.predict(images, verbose=0)
    features = cut.prefix.predict(images, verbose=0)
    features = features if isinstance(features, list) else [features]
    assert tuple(part.shape[1:] for part in features) == cut.shapes
    np.testing.assert_allclose(cut.tail.predict(features, verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert [id(variable) for variable in cut.tail.trainable_variables] == list(map(id, resnet.trainable_variables))
    assert not cut.prefix.trainable_variables
    trained = {layer.name for layer in resnet.layers if layer.trainable and layer.variables}
    assert trained <= {layer.name for layer in cut.tail.layers}
    assert all(layer.output.shape[0] is None for layer in resnet.layers)  # layer.output raises for a layer with two


def test_a_layer_may_be_called_on_both_sides():
    relu, inputs = layers.ReLU(name="relu"), keras.Input((SIZE, SIZE, 3))
    x = relu(layers.Conv2D(4, 3, name="first")(inputs))
    model = classifier(keras.Model(inputs, relu(layers.Conv2D(4, 3, name="second")(x))))
    freeze(model, "second")
    cut = cut_at_frozen(model)
    images = np.random.default_rng(1).normal(size=(3, SIZE, SIZE, 3)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(cut.tail.predict(cut.prefix.predict(images, verbose=0), verbose=0), expected, rtol=1e-5)


def test_what_follows_augmentation_by_a_layer_is_not_banked():
    """A frozen network of one's own still augments in training; what dropout it has is off, and no reason."""
    inputs = keras.Input((SIZE, SIZE, 3))
    first = layers.Dropout(0.5)(layers.Conv2D(4, 3, name="first")(inputs))
    flipped = layers.Conv2D(4, 3, name="second")(layers.RandomFlip("horizontal", name="flip")(first))
    model = classifier(keras.Model(inputs, flipped, name="augmenting"))
    freeze(model)
    cut = cut_at_frozen(model)
    assert "first" in {layer.name for layer in cut.prefix.layers}
    assert {"flip", "second"} <= {layer.name for layer in cut.tail.layers}
    assert "second" in {layer.name for layer in cut_at_frozen(model, in_training=False).prefix.layers}
    at_once = layers.Conv2D(4, 3)(layers.RandomFlip("horizontal")(inputs))
    model = classifier(keras.Model(inputs, at_once, name="at_once"))
    freeze(model)
    assert cut_at_frozen(model) is None


class Own(layers.Layer):
    """A layer as users write them, which does something in training that `trainable=False` does not keep it from."""

    def __init__(self, kind: str):
        super().__init__(name=kind)
        self.kind, self.rate = kind, 0.5
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.seen = tf.Variable(0.0, trainable=False)

    def call(self, x, training=False):
        if self.kind == "counts" and training:
            self.count.assign_add(1.0)
        if self.kind == "counts_elsewhere":
            self.seen.assign_add(1.0)
        if self.kind == "draws" and training:
            x = x + tf.random.normal(tf.shape(x))
        if self.kind == "normalises" and training:
            x = x - keras.ops.mean(x, axis=0, keepdims=True)
        if self.kind == "fails_alone" and x.shape[0]:
            raise RuntimeError
        return x + self.count


class MyDropPath(Own):
    """Its rate is set to 0 where it is frozen."""

    def call(self, x, training=False):
        return tf.nn.dropout(x, self.rate) if training else x


@pytest.mark.parametrize("layer", [
    *(lambda kind=kind: Own(kind) for kind in ("counts", "counts_elsewhere", "draws", "normalises", "fails_alone")),
    lambda: layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)), name="lambda"),
    lambda: layers.SpectralNormalization(layers.Conv2D(4, 3), name="spectral"),
], ids=["counts", "counts_elsewhere", "draws", "normalises", "fails_alone", "lambda", "spectral"])  # fmt: skip
def test_what_follows_a_frozen_layer_that_changes_in_training_is_not_banked(layer):
    inputs, layer = keras.Input((SIZE, SIZE, 3)), layer()
    x = layers.Conv2D(4, 3, name="second")(layer(layers.Conv2D(4, 3, name="first")(inputs)))
    model = classifier(keras.Model(inputs, x, name="own"))
    freeze(model)
    cut = cut_at_frozen(model)
    assert "first" in {layer.name for layer in cut.prefix.layers}
    assert {layer.name, "second"} <= {layer.name for layer in cut.tail.layers}
    assert "second" in {layer.name for layer in cut_at_frozen(model, in_training=False).prefix.layers}
    if isinstance(layer, Own):
        assert layer.seen.numpy() == layer.count.numpy() == 0  # trying it out leaves it as it was


@pytest.mark.parametrize("layer", [lambda: Own("scales"), lambda: MyDropPath("drops")], ids=["scales", "drops"])
def test_a_frozen_layer_of_ones_own_that_stays_the_same_is_banked(layer):
    inputs = keras.Input((SIZE, SIZE, 3))
    model = classifier(keras.Model(inputs, layer()(layers.Conv2D(4, 3)(inputs)), name="own"))
    freeze(model)
    assert len(cut_at_frozen(model).shapes[0]) == 1  # behind the pooling


def test_all_that_is_frozen_is_cut_off(resnet):
    freeze(resnet, "stage3_block2_2_conv")
    cut = cut_at_frozen(resnet)
    assert set(cut.shapes) == {(4, 4, 64)}
    assert set(cut.prefix.output_names) == {"stage3_block2_1_relu", "stage3_block1_out"}  # the shortcut is crossed
    assert "stage3_block2_1_conv" not in {layer.name for layer in cut.tail.layers}


@pytest.mark.parametrize(("pooling", "shape"), [("avg", (64,)), ("max", (64,)), ("flatten", (4 * 4 * 64,))])
def test_frozen_backbone_is_cut_behind_the_pooling(pooling, shape):
    model = classifier(build_backbone(get_backbone("resnet20"), image_size=SIZE, weights="none"), pooling, 0.0)
    freeze(model)
    assert cut_at_frozen(model).shapes == (shape,)


@pytest.mark.parametrize("mode", ["full", "scratch"])
def test_nothing_frozen_nothing_to_cut(resnet, mode):
    freeze_for(resnet, mode, unfreeze_last_layers=0, unfreeze_from="")
    assert cut_at_frozen(resnet) is None


def test_layers_without_weights_before_the_first_trained_one_are_nothing_to_cut(resnet):
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(2.0)(inputs)
    model = classifier(keras.Model(inputs, layers.Conv2D(4, 3, name="conv")(x)))
    freeze_for(model, "full", unfreeze_last_layers=0, unfreeze_from="")
    assert cut_at_frozen(model) is None


@pytest.mark.parametrize(("tail_filters", "shapes"), [(256, ((8, 8, 4),)), (1, ((8, 8, 24),))])
def test_narrow_boundary_is_taken_where_computing_the_rest_again_costs_little(tail_filters, shapes):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="narrow")(inputs)
    x = layers.Conv2D(24, 1, name="expand")(x)
    x = layers.Conv2D(tail_filters, 3, padding="same", name="trained")(x)
    model = classifier(keras.Model(inputs, x))
    freeze(model, "trained")
    assert cut_at_frozen(model).shapes == shapes


def test_a_single_earlier_tensor_may_replace_two():
    """An inverted residual whose middle trains: both branches come from its narrow input."""
    inputs = keras.Input((8, 8, 3))
    narrow = layers.Conv2D(4, 3, padding="same", name="narrow")(inputs)
    x = layers.Conv2D(24, 1, name="expand")(narrow)
    x = layers.ReLU(name="expand_relu")(x)
    x = layers.Conv2D(64, 3, padding="same", name="trained")(x)
    x = layers.Add(name="add")([layers.Conv2D(4, 1, name="project")(x), narrow])
    model = classifier(keras.Model(inputs, layers.Conv2D(64, 3, name="last")(x)))
    freeze(model, "trained")
    cut = cut_at_frozen(model)
    assert (cut.prefix.output_names, cut.shapes) == (["narrow"], ((8, 8, 4),))


def test_dropout_is_cut_off_only_where_it_is_frozen():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Conv2D(4, 3, padding="same", name="conv2")(x)
    model = classifier(keras.Model(inputs, x))
    for first_trained, begins_at in (("conv2", "drop"), ("drop", "conv1")):
        freeze(model, first_trained)
        assert cut_at_frozen(model).prefix.output_names == [begins_at]


def test_boundary_has_the_type_that_it_is_computed_in():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = classifier(build_backbone(get_backbone("resnet20"), image_size=SIZE, weights="none"))
    freeze(model)
    assert cut_at_frozen(model).dtypes == ("bfloat16",)


class Angles(layers.Layer):
    """What DINOv3 turns its tokens by: of the image it takes the size alone, and its output has no batch."""

    def call(self, images):
        side = images.shape[1] // 4
        return keras.ops.cos(keras.ops.reshape(keras.ops.arange(side**2 * 6, dtype=images.dtype), (side**2, 6)))

    def compute_output_shape(self, shape):
        return ((shape[1] // 4) ** 2, 6)


class Positions(layers.Layer):
    """A table of positions, `[1, tokens, channels]`."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]), initializer="random_normal")

    def call(self, tokens):
        return keras.ops.convert_to_tensor(self.table)

    def compute_output_shape(self, shape):
        return (1, *shape[1:])


def of_tokens(kind: type) -> keras.Model:
    """Three blocks of tokens, that each take an output without a batch."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((4, 6))(layers.Conv2D(6, 4, strides=4, name="patches")(inputs))
    turned = kind(name="turned")(inputs if kind is Angles else x)
    for index in range(3):
        x = x + layers.Dense(6, activation="gelu", name=f"block{index}")(x * turned)
    return classifier(keras.Model(inputs, x), pooling="avg", dropout=0.0)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", [Angles, Positions])
def test_what_has_no_batch_is_no_part_of_a_row(kind, precision):
    keras.config.set_dtype_policy(precision)
    model = of_tokens(kind)
    freeze(model, "block1")
    cut = cut_at_frozen(model)
    assert cut.shapes == ((4, 6),) * len(cut.shapes) and len(cut.tail.inputs) == len(cut.shapes)
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)  # as many as tokens
    features = cut.prefix.predict(images, verbose=0)
    features = features if isinstance(features, list) else [features]
    shuffled = [2, 0, 3, 1]
    parts = [keras.ops.convert_to_tensor(part[shuffled]) for part in features]
    np.testing.assert_allclose(
        cut.tail(parts, training=False), model(images[shuffled], training=False), rtol=1e-5, atol=1e-6
    )
    assert set(map(id, cut.tail.trainable_variables)) == set(map(id, model.trainable_variables))
    if kind is Angles:  # a table may train, and what takes it with it
        assert "block0" not in {layer.name for layer in cut.tail.layers}
    assert all(len(layer._inbound_nodes) == 1 for layer in model.layers)
