"""The table of backbones against `keras.applications`, and what it builds."""

import dataclasses
import inspect
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES, Backbone, get_backbone
from tl_distributed.models.build import build_backbone, register_backbone
from tl_distributed.models.construction import feature_model
from tl_distributed.models.flops import count_macs
from tl_distributed.pixels.normalize import normalize

STOCK = {name: row for name, row in BACKBONES.items() if row.constructor}
SAMPLE = ("mobilenet_v2", "inception_v3", "convnext_tiny", "resnet50_v2")


def _stock_constructors() -> set[str]:
    """Every function of `keras.applications` that builds an image model."""
    return {name for name, value in inspect.getmembers(keras.applications, inspect.isfunction) if name[0].isupper()}


def test_every_stock_backbone_is_in_the_table():
    assert {row.constructor for row in STOCK.values()} == _stock_constructors()
    assert len(STOCK) == len(_stock_constructors())
    assert {"baseline_cnn", "resnet20"} <= BACKBONES.keys()


@pytest.mark.parametrize("name", STOCK)
def test_normalisation_equals_preprocess_input(name):
    module = getattr(keras.applications, BACKBONES[name].family)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
    expected = module.preprocess_input(pixels.copy())
    np.testing.assert_allclose(normalize(tf.constant(pixels), BACKBONES[name].normalization), expected, atol=1e-4)
    assert (BACKBONES[name].normalization == "internal") == np.array_equal(expected, pixels)


@pytest.mark.parametrize("name", STOCK)
def test_row_is_consistent(name):
    row = BACKBONES[name]
    assert row.name == name and row.has_imagenet_weights and row.minimum_size <= row.default_size
    assert len(row.feature_layers) == 4 and row.gmacs > 0
    source = inspect.getsource(sys.modules[getattr(keras.applications, row.constructor).__module__])
    # MobileNetV3 alone states its minimum, 32, in another way.
    assert row.minimum_size == int((re.findall(r"min_size=(\d+)", source) or ["32"])[0])


def _assert_row_describes_its_model(row: Backbone) -> None:
    model = build_backbone(row, image_size=row.default_size, weights="none")
    assert count_macs(model) / 1e9 == pytest.approx(row.gmacs, rel=0.01)
    assert model.input.shape == (None, row.default_size, row.default_size, 3) and model.input.dtype == "float32"
    assert model.name == row.name
    sizes = [feature.shape[1] for feature in feature_model(model, row).outputs]
    # Without padding (Inception) a stage is up to 5 pixels smaller than the image's side over its stride.
    for size, stride in zip(reversed(sizes), (32, 16, 8, 4), strict=False):
        expected = row.default_size / stride if row.constructor else size
        assert -5 <= size - expected <= 1, (row.name, sizes)


@pytest.mark.parametrize("name", SAMPLE)
def test_macs_and_features_of_a_sample(name):
    _assert_row_describes_its_model(BACKBONES[name])


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", sorted(set(STOCK) - set(SAMPLE)))
def test_macs_and_features_of_the_others(name):
    _assert_row_describes_its_model(BACKBONES[name])


def test_own_nets_at_any_size():
    for name in ("baseline_cnn", "resnet20"):
        row = BACKBONES[name]
        for size in (8, 9, 33):
            model = build_backbone(row, image_size=size, weights="none")
            assert np.isfinite(model(np.zeros((1, size, size, 3), np.float32))).all()
        model = build_backbone(row, image_size=32, weights="none")
        assert count_macs(model) / 1e9 == pytest.approx(row.gmacs, rel=0.01)
    # He et al. 2015, table 6: 0.27 million parameters.
    assert model.count_params() / 1e6 == pytest.approx(0.27, abs=0.005)
    shapes = [feature.shape[1:] for feature in feature_model(model, row).outputs]
    assert shapes == [
        (32, 32, 16),
        (16, 16, 32),
        (8, 8, 64),
    ]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions) == 19


def test_baseline_is_the_published_net():
    model = build_backbone(BACKBONES["baseline_cnn"], image_size=32, weights="none")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", "Conv2D", "MaxPooling2D", "Conv2D", "MaxPooling2D", "Flatten", "Dense"]
    assert model.output.shape == (None, 128)
    assert model.count_params() == 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 8 * 8 * 64 * 128 + 128


def test_macs_against_tensorflow_profiler():
    """TensorFlow counts two operations a multiply-accumulate."""
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    x = keras.layers.SeparableConv2D(6, 3, use_bias=False)(x)
    x = keras.layers.Dense(5, use_bias=False)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, x)
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, 12, 12, 3))).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options = tf.compat.v1.profiler.ProfileOptionBuilder(options).with_empty_output().build()
    profile = tf.compat.v1.profiler.profile(graph, options=options)
    assert 2 * count_macs(model) == profile.total_float_ops
    grouped = keras.Sequential([keras.Input((4, 4, 8)), keras.layers.Conv2D(8, 1, groups=4)])
    assert count_macs(grouped) == 4 * 4 * 8 * 2
    with pytest.raises(ValueError, match="static"):
        count_macs(keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(8, 1)]))


def test_layer_names_do_not_depend_on_what_was_built_before():
    row = get_backbone("mobilenet_v3_small")
    keras.backend.clear_session()
    fresh = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3))
    for _ in range(2):
        model = build_backbone(row, image_size=32, weights="none")
        assert [layer.name for layer in model.layers] == [layer.name for layer in fresh.layers]


def test_efficientnet_of_none_is_the_network_of_its_imagenet_weights(tmp_path, monkeypatch):
    """Keras builds another network with weights="imagenet"; weights from a file must meet the same one."""
    random = build_backbone(get_backbone("efficientnet_b0"), image_size=32, weights="none")
    random.save_weights(tmp_path / "m.weights.h5")
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(tmp_path / "m.weights.h5"))
    imagenet = build_backbone(get_backbone("efficientnet_b0"), image_size=32, weights="imagenet")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(random(pixels), imagenet(pixels))
    assert [layer.name for layer in random.layers] == [layer.name for layer in imagenet.layers]
    normalised = keras.Model(random.input, random.get_layer("rescaling_1").output)(pixels)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalised, (pixels / 255 - mean) / deviation, atol=1e-4)


@pytest.mark.parametrize("name", ["convnext_tiny", "mobilenet_v3_small"])
def test_inner_normalisation_stays_float32_under_mixed_precision(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_backbone(get_backbone(name), image_size=32, weights="none")
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    first = next(layer for layer in model.layers if isinstance(layer, kinds))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    mean, deviation = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255
    expected = (pixels - mean) / deviation if name == "convnext_tiny" else pixels / 127.5 - 1
    got = keras.Model(model.input, first.output)(pixels)
    assert got.dtype == tf.float32 and model(pixels).dtype == tf.bfloat16
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("convnet_tiny", "convnext_tiny"),
        ("ResNet-50", "resnet50"),
        ("vgg_16", "vgg16"),
        ("mobilenetv2", "mobilenet_v2"),
    ],
)
def test_wrong_name_suggests_the_nearest_and_lists_all(wrong, nearest):
    with pytest.raises(UserError, match=f"--backbone={wrong}: no such backbone; did you mean {nearest}") as caught:
        get_backbone(wrong)
    assert all(name in str(caught.value) for name in STOCK)


def test_impossible_requests_are_refused():
    with pytest.raises(UserError, match="--image_size=74: inception_v3 takes at least 75"):
        build_backbone(get_backbone("inception_v3"), image_size=74, weights="none")
    with pytest.raises(UserError, match="there are none for baseline_cnn"):
        build_backbone(get_backbone("baseline_cnn"), image_size=32, weights="imagenet")
    with pytest.raises(ValueError, match="none, imagenet or own"):
        build_backbone(get_backbone("baseline_cnn"), image_size=32, weights="some.h5")


@pytest.mark.parametrize("name", ["mobilenet_v2", "inception_v3", "xception", "resnet20", "baseline_cnn"])
def test_smallest_size_builds_and_runs(name):
    row = get_backbone(name)
    model = build_backbone(row, image_size=row.minimum_size, weights="none")
    assert np.isfinite(model(np.zeros((1, row.minimum_size, row.minimum_size, 3), np.float32))).all()


def test_registering(monkeypatch):
    tiny = BACKBONES["tiny"]
    with pytest.raises(ValueError, match="exists already"):
        register_backbone(tiny, lambda size: None)
    with pytest.raises(ValueError, match="not one of tf, torch"):
        register_backbone(dataclasses.replace(tiny, name="other", normalization="zscore"), lambda size: None)
    assert "other" not in BACKBONES


def test_the_table_needs_no_tensorflow():
    program = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
    program += "from tl_distributed.models.backbones import get_backbone; print(get_backbone('vgg16').default_size)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "224\n"
