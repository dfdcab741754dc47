"""The flip against mirrored images."""

import numpy as np
from augmented import augment, random_images, settings_with


def test_flip_mirrors_half_of_the_images():
    images = random_images(400, 8, 8)
    found, _ = augment(images, settings_with(horizontal_flip=True), image_size=8)
    kept, mirrored = (
        np.abs(found - candidate).max(axis=(1, 2, 3)) < 1e-2 for candidate in (images, images[:, :, ::-1])
    )
    assert np.all(kept ^ mirrored)
    assert 150 < mirrored.sum() < 250
