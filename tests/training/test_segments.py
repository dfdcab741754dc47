"""Where a model is cut so that its gradients can travel in parts."""

import itertools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.calls import run_in_training
from tl_distributed.models.heads import build_classifier
from tl_distributed.training.segments import _soonest_sent, split_for_buckets


def classifier(backbone: keras.Model, **changes) -> keras.Model:
    options = {"num_classes": 3, "pooling": "avg", "head_units": (), "dropout": 0.0, **changes}
    return build_classifier(backbone, **options)


def chain(*stretches, size: int = 8) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    x = inputs
    for layer in stretches:
        x = layer(x)
    return classifier(keras.Model(inputs, x))


def ids(variables) -> list[int]:
    return [id(variable) for variable in variables]


def assert_whole(model: keras.Model, segments: list) -> None:
    """Every variable is in one segment, in the model's order, and one after the other the segments are the model."""
    for name in ("trainable", "non_trainable"):
        own = [variable for segment in segments for variable in getattr(segment, name)]
        assert len(own) == len(set(ids(own)))
        assert sorted(ids(own)) == sorted(ids(getattr(model, f"{name}_variables")))
    assert all(segment.trainable for segment in segments)
    generator = np.random.default_rng(0)
    inputs = [generator.normal(size=(4, *one.shape[1:])).astype(np.float32) for one in model.inputs]
    given = list(map(tf.constant, inputs))
    for segment in segments:
        values = dict(zip(map(id, segment.inputs), given, strict=True))
        with keras.StatelessScope():
            run_in_training(segment.nodes, values)
        given = [values[id(segment.output)]]
    with keras.StatelessScope():
        expected = model(inputs if len(inputs) > 1 else inputs[0], training=True)
    np.testing.assert_allclose(given[0], expected, rtol=1e-5, atol=1e-6)


def test_a_residual_net_is_cut_between_blocks():
    model = classifier(build_backbone(get_backbone("resnet20"), image_size=16, weights="none"))
    segments = split_for_buckets(model, 3)
    assert len(segments) == 3
    assert_whole(model, segments)
    sizes = [sum(int(np.prod(one.shape)) for one in segment.trainable) for segment in segments]
    assert sizes[0] < sum(sizes) / 3  # what is sent last hides behind nothing


def test_several_inputs_of_a_tail_go_into_its_first_segment():
    inputs = keras.Input((8, 8, 3))
    left = layers.Conv2D(4, 3, padding="same", name="left")(inputs)
    right = layers.Conv2D(4, 3, padding="same", name="right")(inputs)
    x = layers.ReLU()(layers.Conv2D(4, 1, name="first")(left))
    x = layers.ReLU()(layers.Conv2D(4, 1, name="second")(layers.Concatenate()([x, right])))
    model = classifier(keras.Model(inputs, x))
    for layer in model.layers:
        layer.trainable = layer.name not in ("left", "right")
    tail = cut_at_frozen(model).tail
    assert len(tail.inputs) == 2
    segments = split_for_buckets(tail, 2)
    assert len(segments) == 2 and len(segments[0].inputs) == 2
    assert_whole(tail, segments)


def test_no_cut_goes_through_a_layer_that_is_called_twice():
    shared = layers.Dense(3, name="shared")
    model = chain(shared, layers.ReLU(), layers.Conv2D(3, 3, name="between"), layers.ReLU(), shared, layers.ReLU())
    segments = split_for_buckets(model, 8)
    assert len(segments) == 2  # all of them, and the head
    assert_whole(model, segments)


def test_a_frozen_beginning_is_no_segment_of_its_own():
    model = chain(
        layers.Conv2D(8, 3, name="frozen"), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(8, 3, name="own"),
        layers.ReLU(),
    )  # fmt: skip
    for layer in model.layers[:4]:
        layer.trainable = False
    segments = split_for_buckets(model, 8)
    assert [[variable.path for variable in segment.trainable] for segment in segments] == [
        ["own/kernel", "own/bias"], ["head_logits/kernel", "head_logits/bias"],
    ]  # fmt: skip
    assert_whole(model, segments)


@pytest.mark.parametrize("wanted", [1, 8])
def test_one_segment_where_nothing_can_be_cut_or_is_asked_for(wanted):
    model = chain(layers.Conv2D(8, 3), layers.ReLU())
    if wanted == 8:
        for layer in model.layers[:-1]:
            layer.trainable = False
    (segment,) = split_for_buckets(model, wanted)
    assert_whole(model, [segment])


def last_sent(cuts, work, size) -> float:
    """Plays through when the last bucket has been sent, node by node from the output."""
    done = sent = 0.0
    for start, end in reversed(list(itertools.pairwise((0, *cuts, len(work))))):
        done += sum(work[start:end]) / sum(work)
        sent = max(sent, done) + sum(size[start:end]) / sum(size)
    return sent


def test_cuts_are_the_best_of_all():
    generator = random.Random(0)
    for _ in range(30):
        work, size = ([generator.randint(0, 9) for _ in range(9)] for _ in range(2))
        work[-1], size[0], size[-1] = 1, 1, 1
        places = sorted(generator.sample(range(1, 9), 5))
        found = _soonest_sent(places, work, size, 3)
        assert set(found) <= set(places) and len(found) <= 2
        every = [cuts for count in range(3) for cuts in itertools.combinations(places, count)]
        assert last_sent(found, work, size) == pytest.approx(min(last_sent(cuts, work, size) for cuts in every))
