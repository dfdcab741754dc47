"""State that layers of one's own keep: as in Keras's `fit` where a step can keep it, and else refused in one line."""

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tl_distributed.errors import UserError
from tl_distributed.models import build as build_module
from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.training.layer_state import refuse_weights_of_other_types


class Counting(layers.Layer):
    """Counts its calls in training."""

    def __init__(self, kind: str):
        super().__init__(name="counting")
        self.kind = kind
        self.metric = keras.metrics.Mean(name="seen") if kind == "metric" else None

    def build(self, shape):
        if self.kind == "tf":
            self.count = tf.Variable(0.0, trainable=False, name="seen")
        elif self.kind != "metric":
            self.count = self.add_weight(dtype=self.kind, initializer="zeros", trainable=False, name="seen")

    def call(self, x, training=False):
        if self.metric is not None:
            self.metric.update_state(keras.ops.mean(x))
        elif training:
            self.count.assign_add(keras.ops.ones((), self.count.dtype))
        return x


@pytest.fixture
def made(monkeypatch):
    """Returns an engine of a network with a layer of a kind in its middle."""

    def make(layer: layers.Layer, replicas: int, buckets: int = 1) -> engine.Engine:
        def build(size: int) -> keras.Model:
            inputs = keras.Input((size, size, 3))
            x = layer(layers.Conv2D(8, 3, strides=2, name="conv1")(inputs))
            return keras.Model(inputs, layers.Conv2D(8, 3, strides=2, name="conv2")(x))

        monkeypatch.setitem(BACKBONES, "with_state", Backbone(name="with_state", normalization="tf"))
        monkeypatch.setitem(build_module._BUILD_FUNCTIONS, "with_state", build)
        settings = engine.settings(gradient_buckets=buckets)
        return engine.make_engine(engine.runtime(replicas), backbone="with_state", step_settings=settings)

    return make


@pytest.mark.parametrize(("kind", "replicas"), [("float32", 2), ("int32", 1)])
def test_state_moves_with_the_steps(made, kind, replicas):
    run = made(Counting(kind), replicas)
    run.train(3)
    (count,) = run.model.get_layer("counting").get_weights()
    assert count == 3


@pytest.mark.parametrize("buckets", [1, 2])
@pytest.mark.parametrize(("kind", "line"), [
    ("int32", r"variable .*seen: its layer changes it in training, it is int32, and replicas keep the mean"),
    ("tf", r"variable .*seen.*: a layer reads or changes it, and it is none of the layer's weights"),
    ("metric", r"variable .*: a layer reads or changes it, and it is none of the layer's weights"),
])  # fmt: skip
def test_state_that_replicas_cannot_keep_is_refused(made, kind, line, buckets):
    run = made(Counting(kind), 2, buckets)
    with pytest.raises(UserError, match=line) as error:
        run.train(1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("replicas", "buckets"), [(1, 1), (2, 2)])
def test_a_layer_that_sets_its_own_weights_is_refused(made, replicas, buckets):
    run = made(layers.SpectralNormalization(layers.Conv2D(8, 1, name="inner")), replicas, buckets)
    before = run.weights()
    with pytest.raises(UserError, match=r"weight .*inner/kernel: its layer sets it in its own call"):
        run.train(1)
    for new, old in zip(run.weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_weights_of_another_type_than_float32_are_refused(made):
    model = made(layers.Conv2D(8, 1, dtype="mixed_bfloat16", name="mixed"), 1).model
    refuse_weights_of_other_types(model)
    model = made(layers.Conv2D(8, 1, dtype="float64", name="exact"), 1).model
    with pytest.raises(UserError, match="layer exact: its kernel is float64; weights that train are float32 here"):
        refuse_weights_of_other_types(model)
