"""Regularizers, `add_loss` and constraints of layers in the training step, against Keras's own `fit`."""

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf
from stock_keras import assert_same_weights, keras_fit, stock_model

from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.models import build as build_module
from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.step import TrainStep

STEPS = 6


@keras.saving.register_keras_serializable("own")
class Costly(keras.layers.Layer):
    """Has a cost of its own, each time that it is called."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


@keras.saving.register_keras_serializable("own")
class Within(keras.constraints.Constraint):
    """A bound that weights are at from the start."""

    def __call__(self, w):
        return keras.ops.clip(w, -0.05, 0.05)


def _build(image_size: int) -> keras.Model:
    layers, costly = keras.layers, Costly(name="costly")
    conv = {"strides": 2, "padding": "same"}
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(8, 3, **conv, kernel_regularizer="l2", kernel_constraint=Within(), name="conv1")(inputs)
    x = costly(layers.ReLU(name="relu1")(costly(x)))
    squares = keras.regularizers.L2(0.003)
    x = layers.Conv2D(16, 3, **conv, activity_regularizer=squares, bias_constraint="non_neg", name="conv2")(x)
    x = layers.LayerNormalization(gamma_regularizer="l1", name="norm")(x)
    x = layers.Conv2D(16, 1, kernel_regularizer="l2", name="conv3")(x)
    return keras.Model(inputs, costly(layers.ReLU(name="relu2")(x)), name="penalised")


@pytest.fixture(autouse=True)
def _penalised(monkeypatch):
    """A backbone with penalties and constraints, in the table."""
    monkeypatch.setitem(BACKBONES, "penalised", Backbone(name="penalised", normalization="tf"))
    monkeypatch.setitem(build_module._BUILD_FUNCTIONS, "penalised", _build)


def made(replicas: int = 1, *, xla: bool = False, freezing: str = "full", **settings) -> engine.Engine:
    return engine.make_engine(
        engine.runtime(replicas, xla=xla), backbone="penalised", freezing=freezing, learning_rate=0.05,
        step_settings=engine.settings(**settings),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("replicas", "xla", "buckets", "freezing", "class_weights"),
    [
        (1, False, 1, "partial", None),
        (2, False, 3, "full", None),
        pytest.param(  # by the weights' mean only the losses are divided
            2, True, 1, "full", (4.0,) * engine.NUM_CLASSES, marks=pytest.mark.slow
        ),
    ],
)
def test_penalties_and_constraints_are_those_of_keras_fit(replicas, xla, buckets, freezing, class_weights):
    ours = made(replicas, xla=xla, freezing=freezing, gradient_buckets=buckets, weight_of_class=class_weights)
    theirs = stock_model(ours.model)
    keras_fit(theirs, keras.optimizers.SGD(0.05), STEPS)
    rows = ours.train(STEPS)
    assert len(ours.step.forward_backward.buckets) == (buckets if replicas > 1 else 0)
    np.testing.assert_allclose(rows[:, 0].mean(), theirs.history.history["loss"][0], rtol=1e-4)
    assert_same_weights(ours.weights(), theirs.get_weights())


def test_penalties_of_the_part_behind_a_bank_are_those_of_the_whole():
    whole = made(freezing="partial")
    cut = cut_at_frozen(whole.model)
    images, labels = engine.toy_images()
    (features,) = tf.nest.flatten(cut.prefix(images.astype(np.float32) / 127.5 - 1.0, training=False))
    shape = tuple(features.shape[1:])
    settings = engine.settings(
        features=FeatureLayout((shape,), ("float32",), "float32"),
        rate_multipliers={id(variable): 1.0 for variable in cut.tail.trainable_variables},
    )  # fmt: skip
    tail = cut.tail
    start = [variable.numpy() for variable in tail.trainable_variables]
    whole.train(STEPS)
    expected = [variable.numpy() for variable in tail.trainable_variables]  # of both: they share them
    for variable, value in zip(tail.trainable_variables, start, strict=True):
        variable.assign(value)
    where = engine.runtime()
    step = TrainStep(tail, lambda: keras.optimizers.SGD(0.0), lambda _: tf.constant(0.05), settings, where)
    split = MemorySplit(features.numpy().reshape(len(labels), -1), labels)
    feed = split.train_feed(BatchOrder(global_batch_size=engine.BATCH, num_replicas=1, seed=0), first_step=0)
    engine.Engine(tail, step, TrainLoop(step, feed, where, steps_per_loop=1), split).train(STEPS)
    assert_same_weights([variable.numpy() for variable in tail.trainable_variables], expected)
