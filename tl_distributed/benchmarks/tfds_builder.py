"""Random images written by TFDS's own writer: the peer of `data_prep`.

`python -m tl_distributed.benchmarks.tfds_builder FOLDER RECORDS SIZE ENCODING` writes them in a process of its own.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tl_distributed.benchmarks.random_images import NUM_CLASSES, as_jpeg, random_images, random_pictures

_CHUNK_IMAGES = 500


class Noise(tfds.core.GeneratorBasedBuilder):
    """Images as TFDS keeps those of CIFAR-10, as PNG; raw, which costs it the least; or JPEG files as they are."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, images: np.ndarray | Sequence[bytes], labels: np.ndarray, encoding: str, **arguments: Any):
        self._images, self._labels, self._encoding = images, labels, encoding
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        if self._encoding == "jpeg":
            pixels = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        elif self._encoding == "png":
            pixels = tfds.features.Image(shape=self._images.shape[1:])
        else:
            pixels = tfds.features.Tensor(shape=self._images.shape[1:], dtype=np.uint8)
        label = tfds.features.ClassLabel(num_classes=NUM_CLASSES)
        features = tfds.features.FeaturesDict({"image": pixels, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(self._images, self._labels.tolist(), strict=True)):
            yield index, {"image": io.BytesIO(image) if self._encoding == "jpeg" else image, "label": label}


def write_images(folder: str, images: np.ndarray | Sequence[bytes], labels: np.ndarray, encoding: str) -> str:
    """Writes images by `download_and_prepare`, if they are not there yet; returns the folder of the set.

    Args:
      folder: TFDS's data folder.
      images: `[n, size, size, 3] uint8`; n files for jpeg.
      labels: `[n]` integers.
      encoding: png, raw or jpeg.
    """
    tfds.disable_progress_bar()
    builder = Noise(images, labels, encoding, data_dir=folder)
    builder.download_and_prepare()
    return str(builder.data_path)


def main(folder: str, records: str, size: str, encoding: str) -> None:
    if encoding != "jpeg":
        write_images(folder, *random_images(int(records), int(size)), encoding)
        return
    files, labels = [], []
    for start in range(0, int(records), _CHUNK_IMAGES):
        images, some = random_pictures(min(_CHUNK_IMAGES, int(records) - start), int(size), seed=start)
        files += [as_jpeg(image) for image in images]
        labels.append(some)
    write_images(folder, files, np.concatenate(labels), encoding)


if __name__ == "__main__":
    main(*sys.argv[1:])
