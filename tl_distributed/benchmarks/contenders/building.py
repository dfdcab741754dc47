"""Finished shards from images in memory: ours with one writer and with two, and TFDS's own writer."""

import shutil
import tempfile
import time
from typing import Any

from data_prep.build import build
from data_prep.source import Chunk
from tl_distributed.benchmarks.synthetic_shards import NoiseSource, build_config
from tl_distributed.data.storing import StorageRule


def start(settings: dict[str, Any]) -> Any:
    """Draws the images.

    Args:
      settings: `kind` (ours, tfds_png or tfds_raw), `writers`, `records`, `native_size`, `num_shards`, `folder`.
    """
    return _Builder(settings)


class _Builder:
    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        rule = StorageRule(storage="pixels", image_size=settings["native_size"], fit="crop", seed=0)
        self._chunks = list(NoiseSource(settings["records"], settings["native_size"]).chunks("train", rule))
        self.facts = {"device": "CPU", "bytes": sum(chunk.images.nbytes for chunk in self._chunks)}

    def warm_up(self) -> None:
        self._build(self._chunks[:2])

    def block(self, amount: float) -> dict[str, float]:
        """Builds the whole set, and takes it away again."""
        del amount
        return {"seconds": self._build(self._chunks), "done": self._settings["records"]}

    def _build(self, chunks: list[Chunk]) -> float:
        folder = tempfile.mkdtemp(dir=self._settings["folder"] or None)
        try:
            start = time.perf_counter()
            if self._settings["kind"] == "ours":
                self._ours(f"{folder}/set", chunks)
            else:
                self._tfds(folder, chunks)
            return time.perf_counter() - start
        finally:
            shutil.rmtree(folder)

    def _ours(self, folder: str, chunks: list[Chunk]) -> None:
        settings = self._settings
        config = build_config(
            folder, settings["native_size"], num_shards=settings["num_shards"], num_writers=settings["writers"]
        )
        count = sum(len(chunk.labels) for chunk in chunks)
        build(config, NoiseSource(count, settings["native_size"], chunks))

    def _tfds(self, folder: str, chunks: list[Chunk]) -> None:
        import numpy as np

        from tl_distributed.benchmarks.tfds_builder import write_images

        images = np.concatenate([chunk.images for chunk in chunks])
        labels = np.concatenate([chunk.labels for chunk in chunks])
        write_images(folder, images, labels, self._settings["kind"].removeprefix("tfds_"))
