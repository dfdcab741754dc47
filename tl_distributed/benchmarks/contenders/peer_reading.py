"""Training batches as PyTorch's `DataLoader` and Grain give them, shuffled anew each epoch. No TensorFlow here.

Each reads what its users would have. PyTorch: of pixels an array that is mapped from a file, of pictures JPEG files.
Grain: ArrayRecord, one record a group, as its documentation advises for random access.
"""

import io
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tl_distributed.benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from tl_distributed.benchmarks.random_images import as_jpeg, random_images, random_pictures

_CHUNK_IMAGES, _SEED, _LABEL_BYTES = 500, 0, 4


def start(settings: dict[str, Any]) -> Any:
    """Writes the images in the peer's form, if they are not there yet, and opens them.

    Args:
      settings: `kind` (torch or grain), `storage`, `records`, `native_size`, `global_batch_size`, `workers`, `folder`.
    """
    open_peer = {"torch": _torch, "grain": _grain}[settings["kind"]]
    importing = __import__(settings["kind"])  # the library belongs to the base
    base = resident_bytes()
    reset_peak()
    contender = _Reader(open_peer(settings), settings)
    contender.facts = {
        "device": "CPU", "base_bytes": base, "split_bytes": settings["records"] * settings["native_size"] ** 2 * 3,
        "examples": settings["records"], "versions": {settings["kind"]: importing.__version__},
    }  # fmt: skip
    return contender


class _Reader:
    """Reads on from where the last block ended, so that a peer's processes start once."""

    facts: dict[str, Any]

    def __init__(self, batches: Iterator[Any], settings: dict[str, Any]):
        self._batches, self._batch_size = batches, settings["global_batch_size"]
        self._batches_per_epoch = max(1, settings["records"] // self._batch_size)

    def warm_up(self) -> None:
        next(self._batches)

    def block(self, amount: float) -> dict[str, float]:
        """Reads whole epochs until this has taken so many seconds."""
        start, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - start < amount:
            for _ in range(self._batches_per_epoch):
                images, labels = next(self._batches)
                int(images[0, 0, 0, 0]) + int(labels.sum())
                done += len(labels)
        return {
            "seconds": time.perf_counter() - start, "done": done,
            "resident_bytes": resident_bytes(), "peak_bytes": peak_bytes(),
        }  # fmt: skip


def _torch(settings: dict[str, Any]) -> Iterator[Any]:
    import torch.utils.data

    class Pixels(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self._images, self._labels = _mapped_array(settings)

        def __len__(self) -> int:
            return len(self._labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.from_numpy(self._images[index].copy()), int(self._labels[index])

    class Pictures(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self._paths, self._labels = _jpeg_files(settings)

        def __len__(self) -> int:
            return len(self._labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            content = pathlib.Path(self._paths[index]).read_bytes()
            return torch.from_numpy(_decode_square(content, settings["native_size"])), int(self._labels[index])

    loader = torch.utils.data.DataLoader(
        Pixels() if settings["storage"] == "pixels" else Pictures(), settings["global_batch_size"], shuffle=True,
        num_workers=settings["workers"], drop_last=True, persistent_workers=settings["workers"] > 0,
        generator=torch.Generator().manual_seed(_SEED),
    )  # fmt: skip

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    return endless()


def _grain(settings: dict[str, Any]) -> Iterator[Any]:
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # which its worker processes insist on

    size = settings["native_size"]

    def parse(record: bytes) -> tuple[np.ndarray, np.int32]:
        label = np.frombuffer(record, "<i4", 1)[0]
        if settings["storage"] == "pixels":
            return np.frombuffer(record, np.uint8, offset=_LABEL_BYTES).reshape(size, size, 3), label
        return _decode_square(record[_LABEL_BYTES:], size), label

    source = grain.MapDataset.source(grain.sources.ArrayRecordDataSource([_array_record(settings)]))
    examples = source.shuffle(_SEED).repeat().map(parse)  # each epoch in an order of its own
    batches = examples.batch(settings["global_batch_size"], drop_remainder=True).to_iter_dataset()
    if settings["workers"]:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=settings["workers"]))
    return iter(batches)


def _decode_square(content: bytes, size: int) -> np.ndarray:
    """Returns a picture as the tutorials have it: decoded, and squashed to a square."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def _drawn(settings: dict[str, Any]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    draw = random_images if settings["storage"] == "pixels" else random_pictures
    for start in range(0, settings["records"], _CHUNK_IMAGES):
        count = min(_CHUNK_IMAGES, settings["records"] - start)
        yield start, *draw(count, settings["native_size"], seed=start)


def _mapped_array(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    path, size = f"{settings['folder']}/images.npy", settings["native_size"]
    labels = np.zeros(settings["records"], np.int32)
    if not os.path.exists(path):
        images = np.lib.format.open_memmap(f"{path}.tmp", "w+", np.uint8, (settings["records"], size, size, 3))
        for start, some, _ in _drawn(settings):
            images[start : start + len(some)] = some
        images.flush()
        os.replace(f"{path}.tmp", path)
    return np.load(path, mmap_mode="r"), labels


def _jpeg_files(settings: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    folder = f"{settings['folder']}/jpeg"
    paths = [f"{folder}/{number // 1000:04d}/{number:07d}.jpg" for number in range(settings["records"])]
    for start, images, _ in _drawn(settings):
        for path, image in zip(paths[start : start + len(images)], images, strict=True):
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                pathlib.Path(path).write_bytes(as_jpeg(image))
    return paths, np.zeros(settings["records"], np.int32)


def _array_record(settings: dict[str, Any]) -> str:
    from array_record.python.array_record_module import ArrayRecordWriter

    path = f"{settings['folder']}/{settings['storage']}.array_record"
    if not os.path.exists(path):
        writer = ArrayRecordWriter(f"{path}.tmp", "group_size:1")
        for _, images, labels in _drawn(settings):
            for image, label in zip(images, labels.astype("<i4"), strict=True):
                content = image.tobytes() if settings["storage"] == "pixels" else as_jpeg(image)
                writer.write(label.tobytes() + content)
        writer.close()
        os.replace(f"{path}.tmp", path)
    return path
