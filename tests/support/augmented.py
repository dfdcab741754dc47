"""Augmented batches and drawn views, of settings in which everything but what a test names is off."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch, change_view, stages_of, whole_view
from tl_distributed.pixels.seeds import per_image_seeds, uniforms

tf.config.experimental.enable_tensor_float_32_execution(False)  # so that GPUs answer to the same tolerance
NONE = NAMED_AUGMENTATIONS["none"]


def settings_with(**changes):
    return dataclasses.replace(NONE, **changes)


def random_images(batch, height=16, width=16):
    return np.random.default_rng(3).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def augment(images, settings, *, image_size=16, positions=None, jit_compile=False, labels=None, sizes=None, fit=None):
    positions = np.arange(len(images), dtype=np.int32) if positions is None else np.asarray(positions, np.int32)
    labels = np.arange(len(images), dtype=np.int32) % 10 if labels is None else labels

    def run(images, labels, positions):
        seeds = per_image_seeds(11, 5, positions)
        return augment_batch(
            images, labels, seeds, settings=settings, image_size=image_size, num_classes=10, sizes=sizes, fit=fit
        )

    if jit_compile:
        run = tf.function(run, jit_compile=True)
    return tuple(result.numpy() for result in run(tf.constant(images), tf.constant(labels), tf.constant(positions)))


def drawn(module, count):
    """Returns what an augmentation draws for `count` images."""
    columns = uniforms(per_image_seeds(3, 4, tf.range(count)), max(module.DRAWS) + 1)
    return [columns[:, draw] for draw in module.DRAWS]


def views(settings, count=4000, height=20, width=20):
    """Returns the views of `count` images and the seeds that they were drawn from."""
    seeds = per_image_seeds(1, 2, tf.range(count))
    return change_view(
        stages_of(settings, seeds)["change_view"], whole_view((height, width), [count]), (height, width)
    ), seeds


def assert_uniform(found, limit):
    """Checks that numbers fill [-limit, limit] evenly."""
    found = np.asarray(found) / limit
    assert -1.0001 <= found.min() < -0.99 and 0.99 < found.max() <= 1.0001
    assert abs(found.mean()) < 0.05 and found.std() == pytest.approx(1 / np.sqrt(3), abs=0.03)
