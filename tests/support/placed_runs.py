"""A few steps of the engine, and where each operation of them ran."""

import engine
import keras
from executed_graphs import Executed, executed_graphs
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import read_manifest
from tl_distributed.training.loop import TrainLoop


def split_of(mode: str, where, tmp_path) -> MemorySplit:
    images, labels = engine.toy_images()
    if mode == "disk":
        folder = write_toy_dataset(tmp_path / "data", counts={"train": 40}, size=engine.IMAGE_SIZE)
        return load_splits(folder, read_manifest(folder), ("train",), input_mode="disk")["train"]
    split = MemorySplit(images, labels)
    return DeviceSplit(split, where.strategy) if mode == "device" else split


def trained(replicas: int, mode: str, tmp_path, *, xla: bool = False, **options) -> Executed:
    where = engine.runtime(replicas, xla=xla, precision=options.pop("precision", "float32"))
    made = engine.make_engine(where, optimizer=lambda: keras.optimizers.Adam(), **options)
    feed = split_of(mode, where, tmp_path).train_feed(
        BatchOrder(global_batch_size=engine.BATCH, num_replicas=replicas, seed=0), first_step=0
    )
    with executed_graphs() as executed:
        TrainLoop(made.step, feed, where, steps_per_loop=3).run(0, 3)
    return executed
