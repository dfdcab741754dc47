"""Random images: the same in every process of one seed, without TensorFlow."""

import io

import numpy as np
from PIL import Image

NUM_CLASSES = 10
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # as `data_prep` stores pictures


def random_images(count: int, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[count, size, size, 3] uint8` noise and `[count] int32` labels below `NUM_CLASSES`."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    return images, generator.integers(0, NUM_CLASSES, count, np.int32)


def random_pictures(count: int, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[count, size, size * 4 // 3, 3] uint8` of soft shapes with a little noise, as photographs compress."""
    generator = np.random.default_rng(seed)
    width = size * 4 // 3
    coarse = generator.integers(0, 256, (count, max(2, size // 16), max(2, width // 16), 3), np.uint8)
    soft = [Image.fromarray(one).resize((width, size), Image.Resampling.BICUBIC) for one in coarse]
    noise = generator.integers(-6, 7, (count, size, width, 3), np.int8)
    images = np.clip(np.stack([np.asarray(one) for one in soft]).astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return images, generator.integers(0, NUM_CLASSES, count, np.int32)


def as_jpeg(image: np.ndarray) -> bytes:
    """Returns the file of `image [height, width, 3] uint8`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **_JPEG)
    return buffer.getvalue()
