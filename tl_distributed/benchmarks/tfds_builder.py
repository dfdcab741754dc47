"""Random images written by TFDS's own writer: the peer of `data_prep`.

`python -m tl_distributed.benchmarks.tfds_builder FOLDER RECORDS SIZE ENCODING` writes them in a process of its own.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tl_distributed.benchmarks.random_images import NUM_CLASSES, random_images


class Noise(tfds.core.GeneratorBasedBuilder):
    """Images as TFDS keeps those of CIFAR-10, as PNG, or raw, which costs it the least."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, images: np.ndarray, labels: np.ndarray, encoding: str, **arguments: Any):
        self._images, self._labels, self._encoding = images, labels, encoding
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = self._images.shape[1:]
        is_png = self._encoding == "png"
        pixels = tfds.features.Image(shape=shape) if is_png else tfds.features.Tensor(shape=shape, dtype=np.uint8)
        label = tfds.features.ClassLabel(num_classes=NUM_CLASSES)
        features = tfds.features.FeaturesDict({"image": pixels, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(self._images, self._labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}


def write_images(folder: str, images: np.ndarray, labels: np.ndarray, encoding: str) -> str:
    """Writes images by `download_and_prepare`, if they are not there yet; returns the folder of the set.

    Args:
      folder: TFDS's data folder.
      images: `[n, size, size, 3] uint8`.
      labels: `[n]` integers.
      encoding: png or raw.
    """
    tfds.disable_progress_bar()
    builder = Noise(images, labels, encoding, data_dir=folder)
    builder.download_and_prepare()
    return str(builder.data_path)


if __name__ == "__main__":
    write_images(sys.argv[1], *random_images(int(sys.argv[2]), int(sys.argv[3])), sys.argv[4])
