"""Pictures of any shape on a canvas, against the same pictures alone: by Pillow, by `tf.image` and by this program."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from augmented import NONE, augment, settings_with
from gpu_kernels import GPU, lower, without_kernel
from PIL import Image

from tl_distributed.data.fit_rules import FITS
from tl_distributed.data.fitting import resize_image
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch
from tl_distributed.pixels.fit import evaluation_view, fitted_view, picture_area
from tl_distributed.pixels.resample import resample

CANVAS = 48
SHAPES = [(48, 48), (48, 24), (23, 47), (48, 1), (1, 1), (1, 30), (2, 3), (31, 24), (17, 48), (20, 20)]
SIZES = np.array(SHAPES, np.int32)
ALL = dataclasses.replace(
    NAMED_AUGMENTATIONS["strong"], crop_padding_pixels=3, width_shift_fraction=0.3, height_shift_fraction=0.2,
    zoom_fraction=0.5, rotation_degrees=40.0, mixup=0.0, cutmix=0.0,
)  # fmt: skip
SETTINGS = {
    "all": ALL, "uncropped": dataclasses.replace(ALL, resized_crop_min_area=1.0), "basic": NAMED_AUGMENTATIONS["basic"],
    "none": NONE, "contrast": settings_with(contrast_fraction=0.9), "turned": settings_with(rotation_degrees=90.0),
}  # fmt: skip


def pictures():
    generator = np.random.default_rng(5)
    return [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


def canvases(poison):
    """Returns the pictures at the top left of canvases that are otherwise full of `poison`, or of noise."""
    noise = np.random.default_rng(6).integers(0, 256, (len(SHAPES), CANVAS, CANVAS, 3), dtype=np.uint8)
    canvas = noise if poison is None else np.full_like(noise, poison)
    for row, picture in zip(canvas, pictures(), strict=True):
        row[: picture.shape[0], : picture.shape[1]] = picture
    return canvas


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("image_size", [24, 33, 64])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_evaluation_view_is_what_the_host_makes_of_the_picture(fit, image_size, jit_compile):
    run = tf.function(
        lambda images, sizes: evaluation_view(images, sizes, image_size=image_size, fit=fit), jit_compile=jit_compile
    )
    found = run(canvases(255), SIZES).numpy()
    assert found.dtype == np.float32 and np.array_equal(found, np.round(found))
    expected = np.stack([resize_image(Image.fromarray(picture), size=image_size, fit=fit) for picture in pictures()])
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - expected).mean() < 0.2  # Pillow rounds twice


@pytest.mark.parametrize("image_size", [20, 57])
def test_whole_pictures_are_those_of_tensorflow(image_size):
    area = picture_area(tf.constant(SIZES), fit="squash")
    view = fitted_view(tf.constant(SIZES), fit="squash", image_size=image_size)
    found = resample(canvases(255), view, image_size=image_size, area=area)
    expected = [tf.image.resize(picture, (image_size, image_size), antialias=True) for picture in pictures()]
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=5e-3)


def test_padding_is_black_and_the_picture_in_its_middle():
    white = np.full((2, 12, 12, 3), 255, np.uint8)
    found = evaluation_view(white, np.array([[12, 4], [3, 12]], np.int32), image_size=9, fit="pad")
    lit = np.all(found.numpy() == 255, axis=-1)
    assert [np.flatnonzero(lit[0].any(axis=0)).tolist(), np.flatnonzero(lit[1].any(axis=1)).tolist()] == [
        [3, 4, 5], [3, 4],
    ]  # fmt: skip
    assert lit[0].any(axis=1).all() and lit[1].any(axis=0).all() and np.all(found.numpy()[~lit] == 0)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("name", SETTINGS)
def test_what_lies_outside_of_the_picture_shows_nowhere(name, fit):
    images = np.concatenate([canvases(poison) for poison in (0, 255, None)])
    sizes, positions = np.tile(SIZES, (3, 1)), np.tile(np.arange(len(SHAPES)), 3)
    found, _ = augment(images, SETTINGS[name], image_size=26, positions=positions, sizes=sizes, fit=fit)
    black, white, noise = np.split(found, 3)
    np.testing.assert_allclose(white, black, rtol=0, atol=0.01)  # of another place in the batch, another rounding
    np.testing.assert_allclose(noise, black, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_augmented_picture_is_that_of_the_picture_alone(name, jit_compile):
    """Random crops, borders, rotation, contrast: all are of the picture; a squashed one is as alone."""
    options = {"image_size": 26, "jit_compile": jit_compile, "sizes": SIZES, "fit": "squash"}
    found, _ = augment(canvases(255), SETTINGS[name], **options)
    for place, picture in enumerate(pictures()):
        if min(picture.shape[:2]) == 1:  # an image of its own has at least 2 pixels where it turns
            continue
        alone, _ = augment(picture[np.newaxis], SETTINGS[name], image_size=26, positions=[place])
        tolerance = 0.51 if name in ("none", "contrast") else 0.05  # the evaluation view is of whole numbers
        np.testing.assert_allclose(found[place], alone[0], rtol=0, atol=tolerance, err_msg=str(picture.shape))


@pytest.mark.parametrize("fit", FITS)
def test_a_canvas_that_is_the_picture_changes_nothing(fit):
    images = np.random.default_rng(1).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    sizes = np.full((4, 2), 20, np.int32)
    if fit == "pad":  # black in place of a reflection beyond the edge: what stays inside is the same
        settings = settings_with(horizontal_flip=True, resized_crop_min_area=0.3)
    else:
        settings = ALL
    expected, _ = augment(images, settings, image_size=28)
    found, _ = augment(images, settings, image_size=28, sizes=sizes, fit=fit)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


def test_a_random_resized_crop_is_one_of_the_picture_itself():
    """Its share and its shape are relative to the picture: a ramp along each axis tells where the box lies."""
    height, width, count = 20, 40, 400
    canvas = np.full((count, CANVAS, CANVAS, 3), 255, np.uint8)
    canvas[:, :height, :width, 0] = np.arange(width) * 4
    canvas[:, :height, :width, 1] = np.arange(height)[:, None] * 4
    sizes = np.tile(np.array([[height, width]], np.int32), (count, 1))
    found, _ = augment(canvas, settings_with(resized_crop_min_area=0.25), image_size=8, sizes=sizes, fit="crop")
    span_x, span_y = ((found[:, 4, 6, 0] - found[:, 4, 2, 0]) / 2, (found[:, 6, 4, 1] - found[:, 2, 4, 1]) / 2)
    share, aspect = span_x * span_y / (height * width), span_x / span_y
    assert 0.23 < share.min() < 0.28 and 0.62 < share.max() < 0.69  # 2/3: 4:3 at the full height
    assert 0.72 < aspect.min() < 0.82 and 1.25 < aspect.max() < 1.4
    assert found[..., 0].min() < 8 and found[..., 0].max() > 140 and found[..., :2].max() <= 4 * (width - 1) + 0.01


def test_a_shift_beyond_a_padded_picture_is_black_and_of_a_cropped_one_is_the_picture():
    canvas = np.zeros((64, 24, 24, 3), np.uint8)
    canvas[:, :8, :24] = 200
    sizes = np.tile(np.array([[8, 24]], np.int32), (64, 1))
    settings = settings_with(width_shift_fraction=0.5)
    padded, _ = augment(canvas, settings, image_size=24, sizes=sizes, fit="pad")
    cropped, _ = augment(canvas, settings, image_size=8, sizes=sizes, fit="crop")
    assert np.all(padded[:, :8] == 0) and np.all(padded[:, 16:] == 0)
    assert set(np.unique(np.round(padded[:, 8:16]))) == {0.0, 200.0}
    np.testing.assert_allclose(cropped, 200, atol=1e-3)


def test_an_unknown_rule_is_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="fit None: takes squash, crop or pad"):
        evaluation_view(canvases(0), tf.constant(SIZES), image_size=8)


def test_batch_of_a_canvas_may_be_unknown():
    specs = [tf.TensorSpec([None, CANVAS, CANVAS, 3], tf.uint8), tf.TensorSpec([None, 2], tf.int32)]

    @tf.function(input_signature=[*specs, tf.TensorSpec([None, 2], tf.uint32)])
    def run(images, sizes, seeds):
        labels = tf.zeros([tf.shape(images)[0]], tf.int32)
        return augment_batch(
            images, labels, seeds, settings=ALL, image_size=8, num_classes=2, sizes=sizes, fit="crop"
        )  # fmt: skip

    assert run(canvases(0), SIZES, tf.zeros([len(SHAPES), 2], tf.uint32))[0].shape == (len(SHAPES), 8, 8, 3)


def made_of_canvases(fit):
    """Returns the functions of training and of evaluation, and what they are given."""

    def trained(images, sizes, seeds):
        labels = tf.zeros([len(SHAPES)], tf.int32)
        return augment_batch(images, labels, seeds, settings=ALL, image_size=8, num_classes=2, sizes=sizes, fit=fit)

    def evaluated(images, sizes, seeds):
        del seeds
        return evaluation_view(images, sizes, image_size=8, fit=fit)

    return (trained, evaluated), (tf.constant(canvases(0)), tf.constant(SIZES), tf.zeros([len(SHAPES), 2], tf.uint32))


@pytest.mark.parametrize("fit", FITS)
def test_canvases_compile_for_gpus_and_have_kernels_there(fit):
    functions, given = made_of_canvases(fit)
    for function in functions:
        assert "HloModule" in lower(function, *given)
        graph = tf.function(function, autograph=False).get_concrete_function(*given).graph.as_graph_def()
        assert without_kernel(graph.node, GPU) == []
