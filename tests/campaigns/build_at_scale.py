"""Builds and reads a large data set of synthetic JPEGs on one machine, and says what that took.

  python tests/campaigns/build_at_scale.py --folder=/scratch/scale --pictures=1000000

Prints a line of JSON for each of three phases, each in a process of its own: the pictures are drawn (not counted as
building), built by `data_prep` with --storage=jpeg, and read at random by --input_mode=disk. Of each: pictures a
second, megabytes on the disk, the most that the disk held and the most memory above that of an empty process, and
memory at a quarter, a half, three quarters and the end, which shows growth. What is mapped from files is told apart: it
is the page cache's, which all processes of a node share and the kernel takes back. The pictures are smooth colours, and
compress better than photographs: take the records a second, not the bytes, for what photographs would give.
"""

import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support")]

from tl_distributed.settings.command import refuse_positional, run_command  # noqa: E402
from tl_distributed.settings.flags import setting  # noqa: E402

_CLASSES, _BATCH = 100, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    folder: str = setting("", "Folder for pictures and data set; made, and emptied at the end.", topic="Flags")
    pictures: int = setting(20_000, "Pictures in all.", topic="Flags", minimum=1000)
    size: int = setting(224, "Shorter side in pixels; the longer is a third more.", topic="Flags", minimum=8)
    most_gigabytes: float = setting(
        20.0,
        "Pictures and data set together; fewer pictures are drawn where it would be more.",
        topic="Flags",
        minimum=0.01,
    )
    batches: int = setting(400, f"Batches of {_BATCH} that are read.", topic="Flags", minimum=1)
    keep: bool = setting(False, "Leave pictures and data set in the folder.", topic="Flags")


def draw_pictures(config: ScaleConfig, processes: int) -> int:
    """Draws the pictures into class folders; returns how many the gigabytes allow."""
    sample = [_bytes_of(number, config.size) for number in range(64)]
    count = min(config.pictures, int(config.most_gigabytes * 1e9 / (sum(sample) / len(sample))))
    for label in range(_CLASSES):
        os.makedirs(f"{config.folder}/pictures/train/class_{label:03d}", exist_ok=True)
    starts = range(0, count, 1000)
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_draw, starts, [min(start + 1000, count) for start in starts], [config] * len(starts)):
            pass
    return count


def build_set(config: ScaleConfig) -> int:
    """Builds the data set; returns its records."""
    from data_prep import build
    from data_prep.config import BuildConfig

    info = build.build(
        BuildConfig(
            source="image_folder", input=f"{config.folder}/pictures", output_dir=f"{config.folder}/set",
            image_size=config.size, storage="jpeg", val_fraction=0.02,
        )
    )  # fmt: skip
    return sum(split.num_examples for split in info.splits.values())


def read_set(config: ScaleConfig, note: Callable[[float], None]) -> int:
    """Reads batches in the order of training, each record found by its index; returns the records read."""
    import tensorflow as tf

    from tl_distributed.data.dataset import load_splits
    from tl_distributed.data.order import BatchOrder
    from tl_distributed.data.records import read_manifest

    folder = f"{config.folder}/set"
    split = load_splits(folder, read_manifest(folder), ("train",), input_mode="disk")["train"]
    order = BatchOrder(global_batch_size=_BATCH, num_replicas=1, seed=0)
    feed = split.train_feed(order, first_step=0)
    for step in range(config.batches):
        feed.replica_batch(tf.constant(step, tf.int64), 0, *feed.host_inputs())
        note((step + 1) / config.batches)
    return config.batches * _BATCH


class Meter:
    """Looks at this process's memory and the folder's bytes, twice a second, while something runs."""

    def __init__(self, folder: str):
        import psutil

        self._process, self._folder = psutil.Process(), folder
        self.own: list[int] = []  # bytes
        self.mapped: list[int] = []
        self.on_disk: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Meter":
        self._base = self._process.memory_info()
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._thread.join()
        self.note()

    def note(self, *_: object) -> None:
        """Looks once."""
        memory = self._process.memory_info()
        self.own.append(memory.rss - memory.shared)
        self.mapped.append(memory.shared)
        self.on_disk.append(bytes_in(self._folder))

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.note()

    def described(self, phase: str, count: int) -> dict[str, Any]:
        """Returns the line of the phase."""
        above = [(value - self._base.rss + self._base.shared) / 1e6 for value in self.own]
        quarters = [above[max(0, len(above) * part // 4 - 1)] for part in (1, 2, 3, 4)]
        return {
            "phase": phase,
            "pictures": count,
            "seconds": round(self.seconds, 1),
            "pictures_per_second": round(count / self.seconds, 1),
            "disk_megabytes": round(self.on_disk[-1] / 1e6, 1),
            "most_disk_megabytes": round(max(self.on_disk) / 1e6, 1),
            "most_memory_megabytes": round(max(above), 1),
            "memory_megabytes_at_quarters": [round(value, 1) for value in quarters],
            "most_mapped_megabytes": round((max(self.mapped) - self._base.shared) / 1e6, 1),
        }


def bytes_in(folder: str) -> int:
    """Returns the bytes of all files in the data set's folder and beside it in the build's."""
    found = 0
    for root in (folder, f"{folder}.partial"):
        for parent, _, names in os.walk(root):
            for name in names:
                try:
                    found += os.stat(f"{parent}/{name}").st_size
                except FileNotFoundError:  # renamed or deleted meanwhile
                    continue
    return found


def measured(phase: str, config: ScaleConfig) -> dict[str, Any]:
    """Runs a phase in this process and describes it; TensorFlow and what the phase imports are not counted."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow as tf

    import data_prep.build
    import data_prep.sources.image_folder  # noqa: F401
    import tl_distributed.data.dataset  # noqa: F401

    tf.constant(1) + 1
    with Meter(f"{config.folder}/set") as meter:
        count = build_set(config) if phase == "build" else read_set(config, meter.note)
    return meter.described(phase, count)


def main(config: ScaleConfig, positional: list[str]) -> int:
    refuse_positional(positional)
    if not config.folder:
        raise SystemExit("--folder must name a folder on the disk that is to be tried")
    os.makedirs(config.folder, exist_ok=True)
    start = time.perf_counter()
    count = draw_pictures(config, os.cpu_count() or 1)
    drawn = {"phase": "draw", "pictures": count, "seconds": round(time.perf_counter() - start, 1)}
    drawn["disk_megabytes"] = round(bytes_in(f"{config.folder}/pictures") / 1e6, 1)
    print(json.dumps(drawn), flush=True)
    for phase in ("build", "read"):
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            print(json.dumps(pool.submit(measured, phase, config).result()), flush=True)
    if not config.keep:
        for name in ("pictures", "set"):
            shutil.rmtree(f"{config.folder}/{name}")
    return 0


def _draw(start: int, stop: int, config: ScaleConfig) -> None:
    for number in range(start, stop):
        path = f"{config.folder}/pictures/train/class_{number % _CLASSES:03d}/{number:08d}.jpg"
        with open(path, "wb") as file:
            file.write(_jpeg(_image(number, config.size), quality=85))


def _bytes_of(number: int, size: int) -> float:
    """Returns what a picture takes, and takes in the data set, encoded anew, with a tenth more while it is built."""
    image = _image(number, size)
    return len(_jpeg(image, quality=85)) + 1.1 * len(_jpeg(image, quality=95, subsampling=0))


def _jpeg(image: Any, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _image(number: int, size: int) -> Any:
    """Returns a picture that no other number has: coarse colours, enlarged."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(number)
    height, width = (size, size * 4 // 3) if number % 2 else (size * 4 // 3, size)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    run_command(main, ScaleConfig, __doc__)
