"""Networks of one's own: what they may be, what is derived of them, and what is said where they cannot be."""

import dataclasses

import keras
import numpy as np
import own_networks
import pytest
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.models import build as build_module
from tl_distributed.models.backbones import BACKBONES, Backbone, get_backbone
from tl_distributed.models.build import build_backbone, build_model
from tl_distributed.models.construction import feature_model
from tl_distributed.models.flops import count_macs
from tl_distributed.models.freezing import freeze_for
from tl_distributed.models.heads import backbone_layers, head_layers
from tl_distributed.models.own_networks import anew, as_functional
from tl_distributed.models.settings import ModelSettings

SIZE, CLASSES = 16, 3


def settings(function: str, **changes) -> ModelSettings:
    made = ModelSettings(**{"backbone": f"own_networks:{function}", "normalization": "tf", **changes})
    made.validate()
    transfer, weights = made.transfer_and_weights()
    return dataclasses.replace(made, transfer=transfer, weights=weights)


def build(function: str, **changes) -> keras.Model:
    made = settings(function, **changes)
    return build_model(
        made, made.backbone_row(), image_size=SIZE, num_classes=CLASSES, load_weights=True, why_new_head=lambda _: ""
    )


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, SIZE, SIZE, 3)).astype("float32")


@pytest.mark.parametrize(("function", "pooling"), [
    ("functional", "avg"), ("functional", "flatten"), ("vector", "avg"), ("subclassed", "avg"), ("subclassed", "max"),
    ("subclassed", "cls"), ("subclassed", "flatten"),
])  # fmt: skip
def test_features_of_every_rank_get_a_head(function, pooling):
    model = build(function, pooling=pooling)
    backbone = keras.Model(model.input, backbone_layers(model)[-1].output)
    features = np.asarray(backbone(images()))
    axes = tuple(range(1, features.ndim - 1))
    pooled = {
        "avg": lambda: features.mean(axes), "max": lambda: features.max(axes), "cls": lambda: features[:, 0],
        "flatten": lambda: features.reshape(4, -1),
    }[pooling if features.ndim > 2 else "flatten"]()  # fmt: skip
    kernel, bias = model.get_layer("head_logits").get_weights()
    np.testing.assert_allclose(model(images()), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_a_functional_network_keeps_its_layers():
    model = build("functional", transfer="partial", pretrained=True, unfreeze_from="second")
    assert [layer.name for layer in backbone_layers(model)][1:] == ["first", "norm", "second"]
    freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from="second")
    assert [layer.name for layer in model.layers if layer.trainable and layer.weights] == ["second", "head_logits"]


def test_stages_are_derived():
    row = get_backbone("own_networks:functional")
    backbone = build_backbone(row, image_size=SIZE, weights="none")
    assert [tuple(output.shape[1:]) for output in feature_model(backbone, row).outputs] == [(8, 8, 8), (4, 4, 16)]
    row = get_backbone("own_networks:subclassed")
    with pytest.raises(UserError, match="has no stages"):
        feature_model(build_backbone(row, image_size=SIZE, weights="none"), row)


def test_macs_are_derived_of_subclassed_networks():
    backbone = build_backbone(get_backbone("own_networks:subclassed"), image_size=SIZE, weights="none")
    tokens, width = 1 + (SIZE // 4) ** 2, 12
    patches = (SIZE // 4) ** 2 * 4 * 4 * 3 * width
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width
    assert count_macs(backbone) == patches + attention + tokens * width * width


def test_macs_of_a_nested_network_are_those_of_a_flat_one():
    flat = own_networks.functional(SIZE)
    inputs = keras.Input((SIZE, SIZE, 3))
    assert count_macs(keras.Model(inputs, flat(inputs))) == count_macs(flat) > 0


@pytest.mark.parametrize(
    ("equation", "output_shape"), [("abc,cd->abd", (5, 3)), ("...c,cd->...d", (3,)), ("ab...,bd->ad...", (3, 8))]
)
def test_a_product_with_dots_counts_at_every_place(equation, output_shape):
    inputs = keras.Input((5, 8))
    layer = keras.layers.EinsumDense(equation, output_shape)
    assert count_macs(keras.Model(inputs, layer(inputs))) == 5 * 8 * 3


class Attending(keras.layers.Layer):
    def __init__(self, named: bool):
        super().__init__()
        self.named, self.attention = named, keras.layers.MultiHeadAttention(2, 3)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(query=x, value=x) if self.named else self.attention(x, x)


def test_macs_of_attention_that_is_called_by_names():
    inputs = keras.Input((5, 6))
    by_place, by_name = (count_macs(keras.Model(inputs, Attending(named)(inputs))) for named in (False, True))
    assert by_place == by_name == 4 * 5 * 6 * 6 + 2 * 5 * 5 * 6


def test_a_function_normalises_inside_of_the_network():
    model = build("functional", normalization="own_networks:to_unit")
    assert settings("functional", normalization="own_networks:to_unit").backbone_row().normalization == "internal"
    plain = own_networks.functional(SIZE)
    own = [layer for layer in backbone_layers(model) if layer.weights]
    plain.set_weights([weight for layer in own for weight in layer.get_weights()])
    backbone = keras.Model(model.input, own[-1].output)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
    np.testing.assert_allclose(backbone(pixels), plain(pixels / 255), rtol=1e-4, atol=1e-5)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_the_normalisation_stays_in_float32_under_mixed_precision():
    """255 levels do not fit into the eight bits of bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build("functional", normalization="own_networks:to_unit")
    divided = next(operation for operation in model.operations if "divide" in operation.name)
    assert divided.output.dtype == "float32" and model.get_layer("first").compute_dtype == "bfloat16"


def test_a_whole_classifier_ends_in_logits():
    model = build("classifier", head="own")
    whole = own_networks.classifier(SIZE)
    whole.set_weights(model.get_weights())
    np.testing.assert_allclose(keras.ops.softmax(model(images())), whole(images()), rtol=1e-4, atol=1e-5)
    assert [layer.name for layer in head_layers(model) if layer.weights] == ["head_answer"]
    assert model.output.dtype == "float32"


def test_probabilities_are_refused_where_they_are_no_layers(monkeypatch):
    def probabilities(size):
        whole = own_networks.functional(size)
        features = keras.layers.Flatten()(whole.output)
        return keras.Model(whole.input, keras.ops.softmax(keras.layers.Dense(CLASSES)(features)) + 0.0)

    monkeypatch.setattr(own_networks, "vector", probabilities)
    with pytest.raises(UserError, match="returns probabilities"):
        build("vector", head="own")


def test_a_given_model_is_copied_and_stays():
    given = own_networks.functional(SIZE)
    before = [weight.copy() for weight in given.get_weights()]
    kept, drawn = anew(given, SIZE, keep_weights=True), anew(given, SIZE, keep_weights=False)
    np.testing.assert_array_equal(kept(images()), given(images()))
    assert np.abs(np.asarray(drawn(images())) - np.asarray(given(images()))).max() > 1e-3
    kept.set_weights([weight + 1 for weight in kept.get_weights()])
    for first, second in zip(before, given.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_given_models_of_any_size_and_subclassed_ones():
    inputs = keras.Input((None, None, 3))
    anysize = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    assert as_functional(anysize, SIZE, flag="").output.shape == (None, SIZE - 2, SIZE - 2, 4)
    tokens = own_networks.Tokens(8)
    expected = tokens(images())
    np.testing.assert_allclose(anew(tokens, SIZE, keep_weights=True)(images()), expected, atol=1e-6)
    with pytest.raises(UserError, match="has no weights yet"):
        anew(own_networks.Tokens(8), SIZE, keep_weights=True)


class Unregistered(keras.layers.Layer):
    def call(self, inputs):
        return inputs + 1


@pytest.mark.parametrize(("make", "line"), [
    (lambda size: "text", "returned str, not a keras.Model"),
    (lambda size: own_networks.functional(2 * size), "give --image_size=32"),
    (lambda size: keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)]), "not images"),
    (lambda size: keras.Sequential([keras.Input((size, size, 3)), keras.layers.Reshape((1, size, size, 3))]),
     "all of them fixed"),
    (lambda size: keras.Sequential([keras.Input((size, size, 3)), Unregistered()]), "register_keras_serializable"),
])  # fmt: skip
def test_what_is_no_backbone_is_said(monkeypatch, make, line):
    monkeypatch.setattr(own_networks, "vector", make)
    with pytest.raises(UserError, match=line) as error:
        build("vector")
    assert "\n" not in str(error.value)


def test_a_registered_backbone_that_cannot_be_saved_is_refused_before_it_trains(monkeypatch):
    monkeypatch.setitem(BACKBONES, "unsaved", Backbone(name="unsaved", normalization="tf"))
    network = lambda size: keras.Sequential([keras.Input((size, size, 3)), Unregistered()])  # noqa: E731
    monkeypatch.setitem(build_module._BUILD_FUNCTIONS, "unsaved", network)
    with pytest.raises(UserError, match="--backbone=unsaved: could not be saved"):
        build("", backbone="unsaved", normalization="", transfer="scratch")


@keras.saving.register_keras_serializable("own")
class WithAStep(keras.Model):
    def train_step(self, data):
        return {}


@keras.saving.register_keras_serializable("own")
class OfItsOwn(keras.Model):
    """Says its graph itself, and a step."""

    def __init__(self, **settings):
        inputs = keras.Input((SIZE, SIZE, 3))
        super().__init__(inputs, keras.layers.Conv2D(4, 3)(inputs), **settings)

    def train_step(self, data):
        return {}


class Halved(OfItsOwn):
    """Its graph is not what it computes."""

    def call(self, images, training=None, mask=None):
        return super().call(images, training=training, mask=mask) / 2


class HalvedSequence(keras.Sequential):
    """Likewise."""

    def call(self, images, training=None, mask=None):
        return super().call(images, training=training, mask=mask) / 2


def within(network: keras.Model) -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, network(inputs))


@pytest.mark.parametrize("make", [
    lambda: Halved(name="halved"), lambda: within(Halved(name="halved")),
    lambda: within(HalvedSequence([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(4, 3)])),
], ids=["itself", "inside", "sequence"])  # fmt: skip
def test_a_call_of_its_own_beside_a_graph_is_refused(monkeypatch, make):
    monkeypatch.setattr(own_networks, "vector", lambda size: make())
    with pytest.raises(UserError, match=r"--backbone=.*: Halved.* is a graph of layers and has a call of its own"):
        build("vector")
    network = make()
    with pytest.raises(UserError, match=f"model {network.name}: Halved.* has a call of its own"):
        anew(network, SIZE, keep_weights=True)


def test_a_step_is_said_also_where_the_copy_is_of_another_class(caplog):
    anew(OfItsOwn(name="mine"), SIZE, keep_weights=True)
    assert "model mine: has train_step of OfItsOwn, which training here does not call" in caplog.text


def test_a_step_of_its_own_is_said_not_to_be_called(monkeypatch, caplog):
    build("vector")
    assert not caplog.records
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Conv2D(4, 3, kernel_regularizer="l2")(inputs)
    monkeypatch.setattr(own_networks, "vector", lambda size: WithAStep(inputs, outputs))
    build("vector")
    assert "has train_step of WithAStep, which training here does not call" in caplog.text


def test_layers_that_come_frozen_are_said_to_train_where_the_transfer_says_so(monkeypatch, caplog):
    fixed = keras.layers.Conv2D(4, 3, trainable=False, name="fixed")
    monkeypatch.setattr(own_networks, "vector", lambda size: keras.Sequential([keras.Input((size, size, 3)), fixed]))
    build("vector", transfer="frozen", pretrained=True)
    assert not caplog.records
    build("vector", transfer="full", pretrained=True)
    assert "1 of its layers, fixed first, have trainable=False, but --transfer=full alone says" in caplog.text


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
@pytest.mark.parametrize("function", ["functional", "vector", "nested", "subclassed"])
def test_a_given_model_computes_in_the_precision_of_the_run(function, policy):
    """Also one that was made under another one."""
    keras.config.set_dtype_policy("float32" if policy == "mixed_bfloat16" else "mixed_bfloat16")
    if function == "nested":
        inputs = keras.Input((SIZE, SIZE, 3))
        given = keras.Model(inputs, keras.Sequential([own_networks.functional(SIZE), keras.layers.ReLU()])(inputs))
    else:
        given = getattr(own_networks, function)(SIZE)
    given(images())
    keras.config.set_dtype_policy(policy)
    made = anew(given, SIZE, keep_weights=True)
    assert {part.dtype_policy.name for part in made._flatten_layers() if part.variables} == {policy}
    np.testing.assert_allclose(made(images()).numpy().astype("float32"), given(images()), rtol=0.1, atol=0.1)


def test_layers_of_a_precision_of_their_own_keep_it_and_are_said(monkeypatch, caplog):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Conv2D(4, 3)(inputs))
    given = keras.Model(inputs, keras.layers.Conv2D(4, 3, dtype="mixed_float16", name="half")(x))
    keras.config.set_dtype_policy("mixed_bfloat16")
    monkeypatch.setattr(own_networks, "vector", lambda size: anew(given, size, keep_weights=True))
    build("vector")
    assert "1 of its 3 layers with weights, half first, compute in float16 as they were made" in caplog.text


def test_heads_and_poolings_that_do_not_fit():
    with pytest.raises(UserError, match="--pooling=cls takes the first of several tokens"):
        build("functional", pooling="cls")
    with pytest.raises(UserError, match=r"returns \(6,\) an image, and the data set has 3 classes"):
        build("vector", head="own")
    with pytest.raises(UserError, match="is a single layer, of which the head cannot train alone"):
        build("subclassed_whole", head="own", transfer="two_phase", pretrained=True)


@pytest.mark.parametrize(("changes", "line"), [
    ({"normalization": ""}, "say by --normalization what it expects"),
    ({"normalization": "zscore"}, "--normalization=zscore: takes tf, torch, caffe, internal, or MODULE:FUNCTION"),
    ({"backbone": "mobilenet_v2"}, "--normalization is of a --backbone=MODULE:FUNCTION of your own"),
    ({"backbone": "own_networks:nothing"}, "own_networks has no function 'nothing'"),
    ({"backbone": "no_such_module:build"}, "no module no_such_module"),
    ({"backbone": "os;x:build"}, "takes MODULE:FUNCTION"),
    ({"backbone": "python=given"}, "give it again"),
    ({"plugin": ("no_such_module",)}, "--plugin=no_such_module: no module"),
    ({"transfer": "frozen"}, "use --transfer=scratch, --pretrained or"),
    ({"weights": "own"}, "--pretrained says so"),
    ({"head": "own", "head_units": (4,)}, "--head_units has no effect with --head=own"),
    ({"head": "own", "pooling": "max"}, "--pooling has no effect with --head=own"),
    ({"head": "own", "dropout": 0.1}, "--dropout has no effect with --head=own"),
    ({"head": "own", "weights": "runs/other", "reset_head": True}, "--reset_head has no effect with --head=own"),
])  # fmt: skip
def test_settings_that_cannot_be_meant(changes, line):
    with pytest.raises(UserError, match=line):
        settings("functional", **changes)


def test_weights_worth_keeping_are_the_default():
    assert settings("functional", pretrained=True).transfer_and_weights() == ("two_phase", "own")
    assert settings("functional").transfer_and_weights() == ("scratch", "none")
    registered = ModelSettings(backbone="own_registered", plugin=("own_networks",))
    registered.validate()
    assert registered.transfer_and_weights() == ("two_phase", "own")
    assert isinstance(registered.backbone_row(), Backbone)


def test_named_normalisations_are_the_engines():
    assert settings("functional", normalization="torch").backbone_row().normalization == "torch"
