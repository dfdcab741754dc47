"""The padded crop against windows of padded images."""

import numpy as np
from augmented import augment, random_images, settings_with


def test_padded_crop_is_a_window_of_the_reflected_image():
    images, padding = random_images(200, 6, 6), 2
    found, _ = augment(images, settings_with(crop_padding_pixels=padding), image_size=6)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="symmetric")
    seen = set()
    for image, source in zip(found, padded, strict=True):
        matches = [
            (row, column)
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
            if np.abs(image - source[row : row + 6, column : column + 6]).max() < 1e-2
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == (2 * padding + 1) ** 2
