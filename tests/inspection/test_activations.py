"""Activations of layers against Keras's own, which layers are chosen, and their comparison in bounded memory."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.inspection import activations
from tl_distributed.inspection.layers import Layers
from tl_distributed.inspection.networks import Network
from tl_distributed.inspection.similarity import linear_cka
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.heads import build_classifier
from tl_distributed.progress import Progress

SIZE = 32


def _classifier(name: str, *, seed: int = 0, image_size: int = SIZE, head_units: tuple[int, ...] = (4,)):
    keras.utils.set_random_seed(seed)
    backbone = build_backbone(get_backbone(name), image_size=image_size, weights="none")
    return build_classifier(backbone, num_classes=3, pooling="avg", head_units=head_units, dropout=0.5)


def _network(name: str, *, seed: int = 0) -> Network:
    classifier = _classifier(name, seed=seed)
    return Network(name, lambda images: tf.cast(images, tf.float32) / 127.5 - 1, classifier, (SIZE, SIZE, 3))


IMAGES = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3)).astype(np.uint8)


def _compute(network: Network, cells: dict[str, int], batch_size: int) -> dict[str, np.ndarray]:
    with Progress(total=None, unit="images", label="") as progress:
        return activations.compute_activations(network, IMAGES, cells, batch_size=batch_size, progress=progress)


@pytest.mark.parametrize("batch_size", [4, 11, 64])
def test_activations_are_those_of_evaluation(batch_size):
    network = _network("tiny_norm")
    found = _compute(network, {"bn2": 1, "head_pooling": 1, "head_logits": 1}, batch_size)
    for name, values in found.items():
        part = keras.Model(network.classifier.input, network.classifier.get_layer(name).output)
        np.testing.assert_allclose(values, part.predict(IMAGES / 127.5 - 1, verbose=0), atol=1e-5)


def test_maps_are_averaged_over_cells_and_what_is_left_of_them_at_the_border():
    network = _network("tiny")
    whole = _compute(network, {"relu2": 1}, 4)["relu2"]
    assert whole.shape == (11, 8, 8, 16)
    expected = np.stack(
        [
            np.stack([whole[:, row : row + 3, column : column + 3].mean((1, 2)) for column in (0, 3, 6)], 1)
            for row in (0, 3, 6)
        ],
        1,
    )
    # TensorFlow pads 8 to 9 at the end, and divides by the number of places that there are.
    np.testing.assert_allclose(_compute(network, {"relu2": 3}, 4)["relu2"], expected, atol=1e-6)


@pytest.mark.parametrize("limits", [{}, {"_GROUP_BYTES": 20_000}, {"MOST_FEATURES": 300}])
def test_layers_are_compared_whatever_fits_into_memory(limits, monkeypatch, capfd):
    for name, value in limits.items():
        monkeypatch.setattr(activations, name, value)
    before, after = _network("tiny_norm"), _network("tiny_norm", seed=1)
    shapes = Layers(before.classifier, after.classifier).shapes
    rows = activations.compare_layers(before, after, IMAGES, shapes, batch_size=4)
    assert [row.name for row in rows] == list(shapes)
    most = limits.get("MOST_FEATURES", activations.MOST_FEATURES)
    for row in rows:
        assert (row.cell_side == 1) == (np.prod(row.shape) <= most), row
        pair = [_compute(network, {row.name: row.cell_side}, 11)[row.name] for network in (before, after)]
        assert pair[0][0].size <= most
        expected = linear_cka(*(values.reshape(11, -1) for values in pair))
        assert row.similarity.cka == pytest.approx(expected.cka, abs=1e-4)
    passes = 22 * (1 if "_GROUP_BYTES" not in limits else len(shapes) - 3)  # the head's layers fit together
    assert f"{passes}/{passes} images" in capfd.readouterr().err


def test_the_same_network_is_the_same_in_every_layer():
    network = _network("tiny_norm")
    shapes = Layers(network.classifier, network.classifier).shapes
    for row in activations.compare_layers(network, network, IMAGES, shapes, batch_size=8):
        assert row.similarity.cka == pytest.approx(1, abs=1e-5), row.name


BLOCK_ENDS = {  # (number of layers compared, some of them, default map at 96 pixels, Grad-CAM's)
    "mobilenet_v2": (22, ("block_2_add", "block_15_add", "out_relu"), "block_13_expand_relu", "out_relu"),
    "convnext_tiny": (25, ("add", "add_16", "layer_normalization"), "add_14", "layer_normalization"),
    "baseline_cnn": (5, ("pool1", "flatten", "dense1"), "pool2", "pool2"),
    "inception_v3": (19, ("mixed0", "mixed10"), "mixed2", "mixed7"),  # its last maps are of one place
    "densenet121": (65, ("conv2_block1_concat", "pool3_pool", "relu"), "pool4_conv", "relu"),
}


@pytest.mark.parametrize("name", BLOCK_ENDS)
def test_ends_of_blocks(name):
    classifier = _classifier(name, image_size=96)
    layers = Layers(classifier, classifier)
    count, some, shown, explained = BLOCK_ENDS[name]
    found = layers.compared(("blocks",))
    assert set(some) <= set(found), found
    assert len(found) == count, found
    assert found[-2:] == ["head_dense_1", "head_logits"]
    order = [operation.name for operation in classifier.operations]
    assert [order.index(name) for name in found] == sorted(order.index(name) for name in found)
    assert layers.maps(()) == [shown]
    assert layers.grad_cam("") == explained
    assert layers.features() == ("dense1" if name == "baseline_cnn" else "head_pooling")


def test_layers_with_weights_and_layers_by_name():
    classifier = _classifier("tiny_norm")
    layers = Layers(classifier, classifier)
    assert layers.compared(("all",)) == ["conv1", "bn1", "conv2", "bn2", "head_dense_1", "head_logits"]
    assert layers.compared(("head_logits", "relu1")) == ["relu1", "head_logits"]


def test_layers_that_differ_in_size_are_not_compared():
    before = _classifier("tiny", head_units=(9,))
    layers = Layers(before, _classifier("tiny", head_units=(4,)))
    assert list(layers.shapes) == ["conv1", "relu1", "conv2", "relu2", "head_pooling", "head_logits"]
    with pytest.raises(UserError, match="tiny and baseline_cnn have no layer of the same name and size below the head"):
        Layers(_classifier("tiny", head_units=()), keras.Model(*_unlike(), name="baseline_cnn"))


def _unlike():
    inputs = keras.Input((SIZE, SIZE, 3))
    return inputs, keras.layers.Flatten(name="unlike")(inputs)


MISTAKES = {
    "block_13_expnd_relu": "--layer=block_13_expnd_relu: mobilenet_v2 has no such layer; near it: block_13_expand_",
    "BLOCK_13_EXPAND_RELU": "no such layer; near it: block_13_expand_relu",
    "conv_1": "no such layer; near it: Conv_1",
    "out": "no such layer; near it: .*out_relu",
    "qqqq": "no such layer; near it: .*head_logits",
    "input_layer": "no such layer",
    "head_pooling": "puts out 1280 numbers, not maps; layers with maps near it: .*out_relu",
}


def test_mistyped_layers():
    classifier = _classifier("mobilenet_v2")
    layers = Layers(classifier, classifier)
    for name, message in MISTAKES.items():
        with pytest.raises(UserError) as raised:
            layers.maps((name,))
        assert re.search(message, str(raised.value)), raised.value
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 250
    with pytest.raises(UserError, match="--grad_cam_layer=x: "):
        layers.grad_cam("x")
    with pytest.raises(UserError, match="--cka_layers=Conv2: "):
        layers.compared(("Conv2",))
