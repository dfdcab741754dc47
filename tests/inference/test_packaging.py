"""The packaged model: what stock Keras, SavedModel and TFLite make of it, against the pieces it is made of."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.inference.onnx_files import save_onnx
from tl_distributed.inference.packaging import package_model
from tl_distributed.inference.stock_layers import with_stock_layers
from tl_distributed.inference.tflite import Interpreter, Quantization, convert
from tl_distributed.models.backbones import BACKBONES, get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.heads import build_classifier

SIZE = 32
PREPROCESS_OF = {"tf": "mobilenet_v2", "torch": "densenet", "caffe": "resnet", "internal": "convnext"}

# Run in a process that has never heard of this project, from an empty folder.
STRANGER = """
import glob, sys, keras, numpy
for path in glob.glob("*.keras") + glob.glob("*.h5"):
    model = keras.models.load_model(path, safe_mode=True)
    pixels = numpy.load(path.rsplit(".", 1)[0] + ".pixels.npy")
    called = model(pixels)  # as in training, if a layer's own default for `training` got through
    numpy.testing.assert_allclose(called, model.predict(pixels, verbose=0), atol=1e-5)
    numpy.save(path + ".npy", called)
assert "tl_distributed" not in sys.modules and "data_prep" not in sys.modules
"""


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _classifier(name: str, normalization: str, image_size: int = SIZE) -> keras.Model:
    """A classifier of random weights whose logits are of the order of one for images so normalised."""
    backbone = build_backbone(get_backbone(name), image_size=image_size, weights="none")
    model = build_classifier(backbone, num_classes=3, pooling="avg", head_units=(), dropout=0.0)
    generator = np.random.default_rng(0)
    for weight in model.weights:  # ConvNeXt's layer scale starts so small that its blocks would do nothing
        values = weight.numpy() * generator.uniform(0.5, 1.5, weight.shape)
        weight.assign(np.maximum(values, 0.1) if "layer_scale" in weight.path else values)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    logits = model.get_layer("head_logits")
    images = _preprocessed(_pixels(2, image_size, image_size, 3), normalization, image_size)
    features = tf.cast(keras.Model(model.input, logits.input)(images), tf.float32).numpy()
    logits.kernel.assign(generator.normal(size=logits.kernel.shape) / np.linalg.norm(features, axis=-1).mean())
    return model


def _preprocessed(pixels: np.ndarray, normalization: str, size: int) -> np.ndarray:
    resized = tf.image.resize(pixels, (size, size), method="bilinear", antialias=True).numpy()
    return getattr(keras.applications, PREPROCESS_OF[normalization]).preprocess_input(resized)


def _identity(size: int) -> keras.Model:
    """A "classifier" whose logits are the pixels that it was given."""
    inputs = keras.Input((size, size, 3))
    return keras.Model(inputs, keras.layers.Flatten()(inputs), name="identity")


@pytest.mark.parametrize("normalization", PREPROCESS_OF)
@pytest.mark.parametrize("native", [(32, 32), (16, 24), (48, 64), (20, 60)])
def test_pixels_are_resized_and_normalised_as_in_training(normalization, native):
    packaged = package_model(_identity(SIZE), normalization=normalization, native_shape=(*native, 3), image_size=SIZE)
    assert packaged.input.dtype == "uint8" and packaged.input.shape == (None, *native, 3)
    pixels = _pixels(2, *native, 3)
    logits = keras.Model(packaged.input, packaged.layers[-1].input)(pixels).numpy()
    np.testing.assert_allclose(
        logits.reshape(2, SIZE, SIZE, 3), _preprocessed(pixels, normalization, SIZE), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_probabilities_are_those_of_the_classifier(policy):
    keras.config.set_dtype_policy(policy)
    classifier = _classifier("tiny_norm", "tf")
    classifier.layers[2].trainable = False
    before = classifier.get_config()
    packaged = package_model(classifier, normalization="tf", native_shape=(40, 20, 3), image_size=SIZE)
    pixels = _pixels(4, 40, 20, 3)
    probabilities = packaged(pixels)
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(np.sum(probabilities, axis=-1), 1.0, atol=1e-6)
    expected = tf.nn.softmax(classifier(_preprocessed(pixels, "tf", SIZE)))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6 if policy == "float32" else 2e-2)
    assert classifier.get_config() == before and not classifier.layers[2].trainable  # copied, not changed
    assert packaged.get_layer(classifier.name).trainable_weights and all(w.dtype == "float32" for w in packaged.weights)


def test_inner_normalisation_is_kept(tmp_path):
    """Keras's Normalization computes from a copy of its weights, which setting them or opening an .h5 leaves stale."""
    classifier = _classifier("efficientnet_b0", "internal")
    packaged = package_model(classifier, normalization="internal", native_shape=(SIZE, SIZE, 3), image_size=SIZE)
    pixels = _pixels(2, SIZE, SIZE, 3)
    expected = tf.nn.softmax(classifier(pixels.astype(np.float32)))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(packaged(pixels), expected, atol=1e-5)
    with_stock_layers(packaged).save(tmp_path / "m.h5")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "m.h5")(pixels), expected, atol=1e-5)


def _save_with_expectation(packaged: keras.Model, pixels: np.ndarray, folder, name: str) -> np.ndarray:
    packaged.save(folder / f"{name}.keras")
    stock = with_stock_layers(packaged)
    stock.save(folder / f"{name}.h5")
    np.save(folder / f"{name}.pixels.npy", pixels)
    np.save(folder / f"{name}.stock.npy", stock.predict(pixels, verbose=0))
    return packaged.predict(pixels, verbose=0)


def _assert_strangers_agree(folder, expected: dict[str, np.ndarray]) -> None:
    """Opens every saved model in a new process and compares its predictions."""
    stranger = subprocess.run([sys.executable, "-c", STRANGER], cwd=folder, capture_output=True, text=True)
    assert stranger.returncode == 0, stranger.stderr
    for name, probabilities in expected.items():
        stock = np.load(folder / f"{name}.stock.npy")
        for ending, written in (("keras", probabilities), ("h5", stock)):
            got = np.load(folder / f"{name}.{ending}.npy")
            np.testing.assert_allclose(got, written, atol=1e-5, err_msg=f"{name}.{ending}")
        # A ConvNeXt of random weights makes a thousandfold of what its other layers in an .h5 round otherwise.
        tolerance = 2e-3 if name.startswith("convnext") else 1e-5
        np.testing.assert_allclose(stock, probabilities, atol=tolerance, err_msg=name)


def _assert_exports_agree(packaged: keras.Model, pixels: np.ndarray, folder, expected: np.ndarray) -> None:
    packaged.export(folder / "saved_model", verbose=False)
    loaded = tf.saved_model.load(folder / "saved_model")
    np.testing.assert_allclose(loaded.serve(pixels), expected, atol=1e-5)
    np.testing.assert_allclose(_tflite(folder / "saved_model", pixels), expected, atol=1e-4)


def _tflite(saved_model, pixels: np.ndarray) -> np.ndarray:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))  # built-in operations only
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, pixels)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _packaged(name: str, normalization: str, native: tuple[int, int], image_size: int = SIZE) -> keras.Model:
    classifier = _classifier(name, normalization, image_size)
    return package_model(classifier, normalization=normalization, native_shape=(*native, 3), image_size=image_size)


# Between them: every normalisation, both ways of resizing, every precision, and what .h5 cannot hold by itself.
CASES = [
    ("tiny_norm", "caffe", (20, 24), "mixed_float16"),
    ("tiny", "torch", (48, 40), "float32"),
    ("resnet20", "tf", (32, 32), "mixed_bfloat16"),
    ("mobilenet_v3_small", "internal", (40, 24), "float32"),
    ("convnext_tiny", "internal", (16, 16), "mixed_bfloat16"),
]


@pytest.mark.slow
def test_opens_in_a_process_without_this_project(tmp_path):
    expected = {}
    for name, normalization, native, policy in CASES:
        keras.config.set_dtype_policy(policy)
        packaged = _packaged(name, normalization, native)
        expected[name] = _save_with_expectation(packaged, _pixels(2, *native, 3), tmp_path, name)
        assert np.ptp(expected[name]) > 0.01  # not the same answer whatever it sees
    _assert_strangers_agree(tmp_path, expected)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(("name", "normalization", "native", "policy"), CASES[:2])
def test_saved_model_and_tflite(tmp_path, name, normalization, native, policy):
    keras.config.set_dtype_policy(policy)
    packaged, pixels = _packaged(name, normalization, native), _pixels(2, *native, 3)
    _assert_exports_agree(packaged, pixels, tmp_path, packaged.predict(pixels, verbose=0))


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("family", sorted({row.family for row in BACKBONES.values() if row.family}))
def test_one_of_each_family_opens_everywhere(tmp_path, family):
    row = min((row for row in BACKBONES.values() if row.family == family), key=lambda row: row.gmacs)
    packaged = _packaged(row.name, row.normalization, (40, 40), max(SIZE, row.minimum_size))
    pixels = _pixels(2, 40, 40, 3)
    expected = _save_with_expectation(packaged, pixels, tmp_path, row.name)
    _assert_strangers_agree(tmp_path, {row.name: expected})
    _assert_exports_agree(packaged, pixels, tmp_path, expected)


# Depthwise convolutions, which one scale for all channels would ruin (Krishnamoorthi 2018); ConvNeXt's are grouped.
DEPTHWISE = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_families_in_integers(name):
    row = BACKBONES[name]
    packaged, pixels = _packaged(name, row.normalization, (40, 40)), _pixels(64, 40, 40, 3)
    content = convert(packaged, Quantization("int8", pixels))
    interpreter = Interpreter(content)
    assert interpreter.in_float == (name == "convnext_tiny")  # its normalisation has no operation in integers
    np.testing.assert_allclose(interpreter(pixels).sum(axis=-1), 1, atol=0.02)
    details = tf.lite.Interpreter(model_content=content).get_tensor_details()
    by_channel = [tensor for tensor in details if len(tensor["quantization_parameters"]["scales"]) > 1]
    layers = packaged.get_layer(index=-2).layers
    depthwise = [
        one for one in layers if isinstance(one, keras.layers.DepthwiseConv2D) or getattr(one, "groups", 1) > 1
    ]
    assert len(by_channel) >= len(depthwise) > 3


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_families_as_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: pip install -e .[onnx]")
    pytest.importorskip("tf2onnx", reason="an extra: pip install -e .[onnx]")
    packaged, pixels = _packaged(name, BACKBONES[name].normalization, (40, 24)), _pixels(3, 40, 24, 3)
    save_onnx(packaged, str(tmp_path / "model.onnx"))
    (got,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"pixels": pixels})
    np.testing.assert_allclose(got, packaged.predict(pixels, verbose=0), atol=1e-4)


def _convnext_like() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, strides=4)(inputs)
    x = keras.layers.Conv2D(8, 3, groups=8, padding="same")(x)
    x = keras.layers.Dense(16, activation="gelu")(keras.layers.LayerNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)), name="convnext_like")


@pytest.mark.parametrize("normalization", PREPROCESS_OF)
@pytest.mark.parametrize("native", [(20, 24), (48, 40)])
def test_every_normalisation_and_resizing_as_onnx(normalization, native, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: pip install -e .[onnx]")
    pytest.importorskip("tf2onnx", reason="an extra: pip install -e .[onnx]")
    packaged = package_model(_convnext_like(), normalization=normalization, native_shape=(*native, 3), image_size=SIZE)
    save_onnx(packaged, str(tmp_path / "model.onnx"))
    pixels = _pixels(3, *native, 3)
    (got,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"pixels": pixels})
    np.testing.assert_allclose(got, packaged.predict(pixels, verbose=0), atol=1e-4)


def test_a_depthwise_convolution_written_as_a_grouped_one_is_rewritten():
    inputs = keras.Input((6, 6, 4))
    grouped = keras.layers.Conv2D(4, 3, strides=2, padding="same", groups=4, activation="relu", name="grouped")
    half = keras.layers.Conv2D(4, 3, groups=2, padding="same", name="in_two_groups")  # stays
    model = keras.Model(inputs, half(grouped(inputs)))
    grouped.bias.assign([0.1, -0.2, 0.3, 0.4])
    rewritten = with_stock_layers(model)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(rewritten(images), model(images), atol=1e-6)
    kinds = [type(layer).__name__ for layer in rewritten.layers]
    assert kinds == ["InputLayer", "DepthwiseConv2D", "Conv2D"]


@keras.saving.register_keras_serializable("packaging")
class Doubling(keras.layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, 2.0 * kernel)


@keras.saving.register_keras_serializable("packaging")
class LayerScale(keras.layers.Layer):
    """Of tokens, and called as ConvNeXt's is."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, tokens):
        return tokens * self.gamma + 1.0


@keras.saving.register_keras_serializable("packaging")
class CustomScaleLayer(LayerScale):
    """Called as InceptionResNetV2's is."""


@pytest.mark.parametrize("kind", [lambda: Doubling(4, 3, groups=4), LayerScale, CustomScaleLayer])
def test_layers_of_ones_own_are_not_rewritten(kind):
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Reshape((36, 4))(inputs) if isinstance(kind, type) else inputs
    model = keras.Model(inputs, kind()(x))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(with_stock_layers(model)(images), model(images), atol=1e-6)


def test_rewriting_keeps_every_kind_of_operation():
    inputs = keras.Input((4, 4, 3))
    x = (inputs + 3.0) * 0.5
    x = 2.0 * x * inputs + x
    model = keras.Model(inputs, keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.ReLU()])(x))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    rewritten = with_stock_layers(model)
    np.testing.assert_allclose(rewritten(images), model(images), atol=1e-6)
    assert {type(operation).__module__.split(".")[2] for operation in rewritten.operations} <= {"layers", "models"}


def test_unknown_normalisation():
    with pytest.raises(ValueError, match="unknown normalization 'zscore'"):
        package_model(_identity(SIZE), normalization="zscore", native_shape=(8, 8, 3), image_size=SIZE)
