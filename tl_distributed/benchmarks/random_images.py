"""Random images: the same in every process of one seed, with numpy alone."""

import numpy as np

NUM_CLASSES = 10


def random_images(count: int, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[count, size, size, 3] uint8` noise and `[count] int32` labels below `NUM_CLASSES`."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    return images, generator.integers(0, NUM_CLASSES, count, np.int32)
