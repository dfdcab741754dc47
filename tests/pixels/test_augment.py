"""What holds for every augmentation, also one that is new: identity, determinism, compilers and layouts, settings."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from augmented import NONE, augment, random_images, settings_with, views

from tl_distributed.errors import UserError
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch
from tl_distributed.pixels.augment_settings import AUGMENTATIONS
from tl_distributed.pixels.augmentations import MODULES
from tl_distributed.pixels.resample import resize_batch
from tl_distributed.pixels.seeds import uniforms


def halfway(field):
    """Returns a strength in the middle between none and as much as the flag takes, 8 at most."""
    off, low, high = field.metadata["strengths"]["none"], field.metadata["minimum"], field.metadata["maximum"]
    if off is False:
        return True
    return type(off)((off + (min(high, 8) if off == low else low)) / 2)


EACH_ALONE = {name: halfway(field) for name, field in AUGMENTATIONS.items()}


@pytest.mark.parametrize("image_size", [16, 9, 40])
def test_none_equals_resize(image_size):
    images = random_images(4)
    found, labels = augment(images, NONE, image_size=image_size)
    np.testing.assert_array_equal(found, resize_batch(images, image_size=image_size))
    np.testing.assert_array_equal(labels, np.eye(10, dtype=np.float32)[:4])


@pytest.mark.parametrize("name", EACH_ALONE)
def test_each_changes_images_within_range(name):
    images = random_images(16)
    found, labels = augment(images, settings_with(**{name: EACH_ALONE[name]}), image_size=24)
    plain, _ = augment(images, NONE, image_size=24)
    assert found.dtype == np.float32 and found.shape == plain.shape
    assert found.min() >= -1e-3 and found.max() <= 255 + 1e-3
    assert np.any(np.abs(found - plain).max(axis=(1, 2, 3)) > 5)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


COMPILED = {
    **NAMED_AUGMENTATIONS,
    "rest": settings_with(
        **{
            name: value
            for name, value in EACH_ALONE.items()
            if getattr(NAMED_AUGMENTATIONS["strong"], name) == getattr(NONE, name)
        }
    ),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(("height", "width", "image_size"), [(16, 16, 24), (21, 18, 12)])
def test_compiled_equals_plain(name, height, width, image_size):
    images = random_images(6, height, width)
    plain = augment(images, COMPILED[name], image_size=image_size)
    compiled = augment(images, COMPILED[name], image_size=image_size, jit_compile=True)
    np.testing.assert_allclose(compiled[0], plain[0], atol=5e-3)
    np.testing.assert_allclose(compiled[1], plain[1], atol=1e-6)


UNMIXED = dataclasses.replace(NAMED_AUGMENTATIONS["strong"], mixup=0.0, cutmix=0.0)


def test_result_depends_on_image_and_seed_alone():
    images = random_images(8)
    whole, _ = augment(images, UNMIXED, image_size=20)
    halves = [augment(images[start : start + 4], UNMIXED, image_size=20, positions=range(start, start + 4))[0]
              for start in (0, 4)]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-3)
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    shuffled, _ = augment(images[order], UNMIXED, image_size=20, positions=order)
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-3)
    other_seeds, _ = augment(images, UNMIXED, image_size=20, positions=range(8, 16))
    assert np.all(np.abs(other_seeds - whole).max(axis=(1, 2, 3)) > 1)


def test_switching_one_on_leaves_the_draws_of_others():
    images = random_images(8)
    flipped, _ = augment(images, settings_with(horizontal_flip=True))
    both, _ = augment(images, settings_with(horizontal_flip=True, random_erasing_probability=1.0))
    erased, _ = augment(images, settings_with(random_erasing_probability=1.0))
    plain, _ = augment(images, NONE)
    kept = np.abs(erased - plain).max(axis=-1, keepdims=True) == 0
    assert 0.3 < kept.mean() < 1
    np.testing.assert_allclose(np.where(kept, both - flipped, 0), 0, atol=1e-3)


def test_geometry_composes_into_one_view_in_order():
    """Crop, whole pixels, shares of the crop, zoom about the middle; the flip mirrors what is then seen."""
    crop, seeds = views(settings_with(resized_crop_min_area=0.5), count=50, height=20, width=30)
    settings = settings_with(
        resized_crop_min_area=0.5, crop_padding_pixels=3, width_shift_fraction=0.2, height_shift_fraction=0.1,
        zoom_fraction=0.3, horizontal_flip=True, rotation_degrees=30.0,
    )  # fmt: skip
    view, _ = views(settings, count=50, height=20, width=30)
    drawn = uniforms(seeds, 11).numpy().T
    around_zero = 2 * drawn - 1
    pixels = np.floor(drawn[1:3] * 7) - 3
    zoom, side = 1 + 0.3 * around_zero[9], np.where(drawn[0] < 0.5, -1, 1)
    np.testing.assert_allclose(view.center_x, crop.center_x + pixels[0] + 0.2 * around_zero[7] * crop.span_x, rtol=1e-5)
    np.testing.assert_allclose(view.center_y, crop.center_y + pixels[1] + 0.1 * around_zero[8] * crop.span_y, rtol=1e-5)
    np.testing.assert_allclose(view.span_x, crop.span_x * zoom * side, rtol=1e-5)
    np.testing.assert_allclose(view.span_y, crop.span_y * zoom, rtol=1e-5)
    np.testing.assert_allclose(view.angle, np.radians(30) * around_zero[10], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("zoom_fraction", 1.0), ("rotation_degrees", -1.0), ("mixup", float("nan")), ("resized_crop_min_area", 0.0)],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match="--" + name.removesuffix("_alpha")):
        settings_with(**{name: value})


def operations_of(function):
    graph = tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec([4, 16, 16, 3], tf.uint8), tf.TensorSpec([4], tf.int32), tf.TensorSpec([4, 2], tf.uint32)
    ).graph  # fmt: skip
    return sorted(node.op for node in graph.as_graph_def().node)


def test_what_is_off_leaves_no_operation_behind():
    def augmented(images, labels, seeds):
        return augment_batch(images, labels, seeds, settings=NONE, image_size=24, num_classes=10)

    def resized(images, labels, seeds):
        return resize_batch(images, image_size=24), tf.one_hot(labels, 10)

    assert operations_of(augmented) == operations_of(resized)


DRAWS = {
    "flip": (0,), "padded_crop": (1, 2), "resized_crop": (3, 4, 5, 6), "shift": (7, 8), "zoom": (9,), "rotation": (10,),
    "colour": (11, 12, 13), "random_erasing": (14, 15, 16, 17, 18, 19, 20, 21), "mixing": (22, 23, 24, 25, 26),
}  # fmt: skip


def test_draws_are_never_renumbered():
    """Else runs of before could not be repeated, nor go on."""
    now = {module.__name__.rpartition(".")[2]: module.DRAWS for module in MODULES}
    assert {name: now[name][: len(draws)] for name, draws in DRAWS.items()} == DRAWS
    assert max(draw for draws in now.values() for draw in draws) < 1 << 20  # the step's own begin there


def test_settings_import_no_tensorflow():
    code = "import sys, tl_distributed.pixels.augment_settings; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
