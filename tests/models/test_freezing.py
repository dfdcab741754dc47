"""Freezing: which layers train, and that a frozen one stays as it is, also when called with training=True."""

import keras
import numpy as np
import pytest

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.freezing import freeze_for, parameter_counts
from tl_distributed.models.heads import backbone_layers, build_classifier, head_layers

SIZE = 32
NOT_PARTIAL = {"unfreeze_last_layers": 0, "unfreeze_from": ""}


def _classifier(backbone: keras.Model) -> keras.Model:
    return build_classifier(backbone, num_classes=3, pooling="avg", head_units=(), dropout=0.0)


def _tiny() -> keras.Model:
    return _classifier(build_backbone(get_backbone("tiny_norm"), image_size=SIZE, weights="none"))


def _images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (8, SIZE, SIZE, 3)).astype(np.float32)


def _call(model: keras.Model, training: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Calls as the engine does; returns the outputs and the non-trainable state by path."""
    trainable = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]
    outputs, state = model.stateless_call(trainable, state, _images(), training=training)
    names = [variable.path for variable in model.non_trainable_variables]
    return outputs.numpy(), {name: value.numpy() for name, value in zip(names, state, strict=True)}


def _moved(model: keras.Model, layer: str) -> bool:
    _, state = _call(model, training=True)
    before = {weight.path: weight.numpy() for weight in model.get_layer(layer).weights if "moving" in weight.path}
    assert len(before) == 2
    return any(not np.array_equal(state[path], value) for path, value in before.items())


def test_modes_say_which_layers_train():
    model = _tiny()
    for mode in ("scratch", "full"):
        freeze_for(model, mode, **NOT_PARTIAL)
        assert all(layer.trainable for layer in model.layers)
    freeze_for(model, "frozen", **NOT_PARTIAL)
    assert not any(layer.trainable for layer in backbone_layers(model))
    assert all(layer.trainable for layer in head_layers(model))
    freeze_for(model, "partial", unfreeze_last_layers=2, unfreeze_from="")
    assert [layer.name for layer in backbone_layers(model) if layer.trainable] == ["bn2", "relu2"]
    freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from="conv2")
    assert [layer.name for layer in backbone_layers(model) if layer.trainable] == ["conv2", "bn2", "relu2"]


def test_partial_is_the_slice_of_published_walk_throughs():
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    for layer in base.layers[:-30]:
        layer.trainable = False
    model = _classifier(build_backbone(get_backbone("mobilenet_v2"), image_size=SIZE, weights="none"))
    freeze_for(model, "partial", unfreeze_last_layers=30, unfreeze_from="")
    assert {layer.name: layer.trainable for layer in backbone_layers(model) if layer.weights} == {
        layer.name: layer.trainable for layer in base.layers if layer.weights
    }


def test_frozen_batch_norm_is_inference_and_stays_put():
    model = _tiny()
    freeze_for(model, "full", **NOT_PARTIAL)
    assert _moved(model, "bn1") and _moved(model, "bn2")
    assert not np.allclose(_call(model, training=True)[0], _call(model, training=False)[0], atol=1e-3)
    freeze_for(model, "frozen", **NOT_PARTIAL)
    assert not _moved(model, "bn1") and not _moved(model, "bn2")
    np.testing.assert_array_equal(_call(model, training=True)[0], _call(model, training=False)[0])
    freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from="conv2")
    assert not _moved(model, "bn1") and _moved(model, "bn2")


@pytest.mark.parametrize("mode", ["full", "partial"])
def test_batch_norm_may_stay_while_the_rest_trains(mode):
    model = _tiny()
    place = {"unfreeze_last_layers": 0, "unfreeze_from": "conv2" if mode == "partial" else ""}
    freeze_for(model, mode, **place, batch_norm_trains=False)
    np.testing.assert_array_equal(_call(model, training=True)[0], _call(model, training=False)[0])
    assert not _moved(model, "bn1") and not _moved(model, "bn2")
    trained = {layer.name for layer in backbone_layers(model) if layer.weights and layer.trainable}
    assert trained == {"conv2", *(["conv1"] if mode == "full" else [])}
    freeze_for(model, mode, **place)  # and not for ever
    assert _moved(model, "bn2")


def test_batch_norm_stays_also_inside_nested_models():
    inner = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(name="bn")], name="inner")
    inputs = keras.Input((SIZE, SIZE, 3))
    model = _classifier(keras.Model(inputs, inner(inputs), name="nested"))
    freeze_for(model, "full", **NOT_PARTIAL, batch_norm_trains=False)
    assert parameter_counts(model)[0] == 3 * 3 * 3 * 4 + 4 + 4 * 3 + 3
    np.testing.assert_array_equal(_call(model, training=True)[0], _call(model, training=False)[0])


def test_frozen_batch_norm_inside_nested_models():
    inner = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(name="bn")], name="inner")
    inputs = keras.Input((SIZE, SIZE, 3))
    wrapped = keras.layers.TimeDistributed(keras.layers.BatchNormalization(name="row_bn"), name="wrapped")
    model = _classifier(keras.Model(inputs, wrapped(inner(inputs)), name="nested"))
    freeze_for(model, "full", **NOT_PARTIAL)
    before = {weight.path: weight.numpy() for weight in model.non_trainable_weights}
    moving = [path for path in before if "moving" in path]
    assert len(moving) == 4
    _, after = _call(model, training=True)
    assert all(not np.array_equal(before[path], after[path]) for path in moving)
    freeze_for(model, "frozen", **NOT_PARTIAL)
    _, after = _call(model, training=True)
    assert all(np.array_equal(before[path], after[path]) for path in moving)
    assert parameter_counts(model)[0] == 4 * 3 + 3


def _with_dropout() -> keras.Model:
    """A backbone that drops units and paths, as EfficientNet and ConvNeXt do."""
    from keras.src.applications.convnext import StochasticDepth

    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Dropout(0.5, name="drop1")(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = StochasticDepth(0.5, name="path")(x)
    x = keras.layers.SpatialDropout2D(0.5, name="drop2")(keras.layers.Conv2D(4, 3, name="top")(x))
    return _classifier(keras.Model(inputs, x, name="dropping"))


def test_frozen_dropout_passes_through_and_comes_back():
    model = _with_dropout()
    rates = [
        (name, attribute) for name, attribute in (("drop1", "rate"), ("path", "drop_path_rate"), ("drop2", "rate"))
    ]
    exact = _call(model, training=False)[0]
    freeze_for(model, "frozen", **NOT_PARTIAL)
    freeze_for(model, "frozen", **NOT_PARTIAL)  # a second time must not forget the rates
    np.testing.assert_allclose(_call(model, training=True)[0], exact, atol=1e-6)
    freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from="top")
    assert [getattr(model.get_layer(name), attribute) for name, attribute in rates] == [0.0, 0.0, 0.5]
    assert not np.allclose(_call(model, training=True)[0], exact, atol=1e-3)
    freeze_for(model, "full", **NOT_PARTIAL)
    assert [getattr(model.get_layer(name), attribute) for name, attribute in rates] == [0.5, 0.5, 0.5]


def test_frozen_noise_passes_through():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.GaussianNoise(1.0, name="noise")(inputs))
    model = _classifier(keras.Model(inputs, x, name="noisy"))
    exact = _call(model, training=False)[0]
    freeze_for(model, "frozen", **NOT_PARTIAL)
    np.testing.assert_array_equal(_call(model, training=True)[0], exact)
    freeze_for(model, "full", **NOT_PARTIAL)
    assert model.get_layer("noise").stddev == 1.0
    assert not np.allclose(_call(model, training=True)[0], exact, atol=1e-3)


def test_parameter_counts():
    model = _tiny()
    head, convolutions, norms, moving = 16 * 3 + 3, 27 * 8 + 72 * 16, 2 * (8 + 16), 2 * (8 + 16)
    freeze_for(model, "full", **NOT_PARTIAL)
    assert parameter_counts(model) == (head + convolutions + norms, moving)
    freeze_for(model, "frozen", **NOT_PARTIAL)
    assert parameter_counts(model) == (head, convolutions + norms + moving)
    freeze_for(model, "partial", unfreeze_last_layers=2, unfreeze_from="")
    assert parameter_counts(model) == (head + 2 * 16, convolutions + 2 * 8 + moving)


@pytest.mark.parametrize(
    ("count", "layer", "message"),
    [
        (0, "", r"--transfer=partial: needs one of .* got neither"),
        (2, "conv1", r"--transfer=partial: needs one of .* got both"),
        (8, "", r"--unfreeze_last_layers=8: the backbone has 7 layers; use --transfer=full"),
        (0, "conf2", r"--unfreeze_from=conf2: the backbone has no such layer; did you mean conv2"),
        (0, "xyz", r"its last ones are bn1, relu1, conv2, bn2, relu2"),
        (0, "head_logits", r"no such layer"),
    ],
)
def test_mistakes_are_named(count, layer, message):
    with pytest.raises(UserError, match=message):
        freeze_for(_tiny(), "partial", unfreeze_last_layers=count, unfreeze_from=layer)


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode must be one of"):
        freeze_for(_tiny(), "two_phase", **NOT_PARTIAL)


def test_norms_trains_norms_and_biases_alone():
    model = _classifier(build_backbone(get_backbone("mobilenet_v2"), image_size=32, weights="none"))
    freeze_for(model, "norms", **NOT_PARTIAL)
    trained = {variable.path for variable in model.trainable_variables}
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    expected = {variable.path for layer in norms for variable in (layer.gamma, layer.beta)}
    head = {variable.path for variable in model.get_layer("head_logits").variables}
    assert trained == expected | head and len(expected) == 2 * 52
    freeze_for(model, "full", **NOT_PARTIAL)
    assert len(model.trainable_variables) > len(trained)
    freeze_for(model, "frozen", **NOT_PARTIAL)
    assert {variable.path for variable in model.trainable_variables} == head


def test_norms_reaches_layers_inside_of_layers():
    inputs = keras.Input((5, 8))
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    backbone = keras.Model(inputs, keras.layers.LayerNormalization(name="norm")(attended), name="net")
    model = _classifier(backbone)
    freeze_for(model, "norms", **NOT_PARTIAL)
    names = sorted(variable.path for variable in model.trainable_variables if "head_" not in variable.path)
    assert [name.rsplit("/", 1)[1] for name in names] == ["bias"] * 4 + ["beta", "gamma"]


def test_norms_needs_some():
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 3, use_bias=False)(inputs), name="net")
    with pytest.raises(UserError, match="no normalisation layers and no biases"):
        freeze_for(_classifier(backbone), "norms", **NOT_PARTIAL)
