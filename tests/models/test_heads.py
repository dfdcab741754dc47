"""Heads: shapes, names, precision, and the arithmetic against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.heads import backbone_layers, build_classifier, head_layers

SIZE = 16


def _backbone(name: str = "tiny_norm") -> keras.Model:
    return build_backbone(get_backbone(name), image_size=SIZE, weights="none")


def _images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (4, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_logits_equal_numpy(pooling):
    backbone = _backbone()
    model = build_classifier(backbone, num_classes=5, pooling=pooling, head_units=(7, 6), dropout=0.5)
    features = backbone(_images()).numpy()
    pooled = {
        "avg": features.mean((1, 2)),
        "max": features.max((1, 2)),
        "flatten": features.reshape(4, -1),
    }[pooling]
    for index in (1, 2):
        kernel, bias = model.get_layer(f"head_dense_{index}").get_weights()
        pooled = np.maximum(pooled @ kernel + bias, 0)
    kernel, bias = model.get_layer("head_logits").get_weights()
    np.testing.assert_allclose(model(_images()), pooled @ kernel + bias, atol=1e-5)


def test_layers_are_flat_shared_and_told_apart():
    backbone = _backbone()
    model = build_classifier(backbone, num_classes=5, pooling="avg", head_units=(7,), dropout=0.5)
    assert backbone_layers(model) == backbone.layers  # the very same objects
    names = ["head_pooling", "head_dense_1", "head_dropout_1", "head_logits"]
    assert [layer.name for layer in head_layers(model)] == names
    assert backbone_layers(backbone) == backbone.layers and head_layers(backbone) == []


def test_a_backbone_has_no_layer_of_the_heads_name():
    """It would train where the backbone is frozen."""
    inputs = keras.Input((SIZE, SIZE, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="head_conv")(inputs))
    with pytest.raises(UserError, match="layer head_conv would be taken for one of the head"):
        build_classifier(backbone, num_classes=5, pooling="avg", head_units=(), dropout=0.0)


def test_flat_features_are_not_pooled():
    model = build_classifier(_backbone("baseline_cnn"), num_classes=10, pooling="avg", head_units=(), dropout=0.0)
    assert [layer.name for layer in head_layers(model)] == ["head_logits"]
    assert model.output.shape == (None, 10)


def test_dropout_acts_in_training_only():
    model = build_classifier(_backbone("tiny"), num_classes=5, pooling="flatten", head_units=(), dropout=0.9)
    assert [layer.name for layer in head_layers(model)] == ["head_pooling", "head_dropout", "head_logits"]
    assert not np.allclose(model(_images(), training=True), model(_images(), training=False))
    np.testing.assert_array_equal(model(_images(), training=False), model(_images(), training=False))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = build_classifier(_backbone(), num_classes=5, pooling="avg", head_units=(7,), dropout=0.0)
    assert model(_images()).dtype == tf.float32
    assert model.get_layer("head_dense_1").compute_dtype == policy.removeprefix("mixed_")
    # Logits that passed through 16 bits have zeros at the end of their float32 mantissa.
    kept_bits = 8 if policy == "mixed_bfloat16" else 11
    bits = model(_images()).numpy().view(np.uint32) & ((1 << (24 - kept_bits)) - 1)
    assert bits.any()


def test_unknown_pooling():
    with pytest.raises(ValueError, match="pooling must be one of avg, max, flatten"):
        build_classifier(_backbone(), num_classes=5, pooling="mean", head_units=(), dropout=0.0)
