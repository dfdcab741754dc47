"""The inner loop: how it ends when a record, the memory or the step itself fails."""

import dataclasses
import pathlib

import engine
import pytest
import tensorflow as tf
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import read_manifest
from tl_distributed.data.shards import image_format
from tl_distributed.errors import UserError
from tl_distributed.training.loop import TrainLoop


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("fault", ["bit flipped", "length damaged", "image too small"])
def test_a_bad_record_ends_training_with_the_data_set_named(tmp_path, replicas, fault):
    data_dir = write_toy_dataset(tmp_path / "toy", counts={"train": 40}, size=engine.IMAGE_SIZE)
    info = read_manifest(data_dir)
    shard = pathlib.Path(data_dir) / info.splits["train"].shards[1].file
    content = bytearray(shard.read_bytes())
    if fault != "image too small":
        content[0 if fault == "length damaged" else -100] ^= 1
        shard.write_bytes(content)
    split = load_splits(data_dir, info, ("train",), input_mode="disk")["train"]
    if fault == "image too small":
        shape = (engine.IMAGE_SIZE + 1, engine.IMAGE_SIZE, 3)
        split._format = image_format(dataclasses.replace(info, image_shape=shape))
    where = engine.runtime(replicas)
    made = engine.make_engine(where, backbone="tiny")
    feed = split.train_feed(BatchOrder(global_batch_size=engine.BATCH, num_replicas=replicas, seed=0), first_step=0)
    loop = TrainLoop(made.step, feed, where, steps_per_loop=1)
    with pytest.raises(UserError, match=r"is a bad record \(.+\); python -m data_prep\.verify_tfrecords") as raised:
        for step in range(6):
            loop.run(step, step + 1)
    assert f"{data_dir}/train-" in str(raised.value) and "\n" not in str(raised.value)
    assert "Graph execution" not in str(raised.value)


def test_out_of_memory_names_the_flags():
    made = engine.make_engine(engine.runtime(), backbone="tiny")

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "Graph execution error:\n\nOOM when allocating a tensor\n")

    made.loop._run_steps = exhausted
    with pytest.raises(
        UserError, match=r"out of memory in steps 0 to 1 \(OOM when allocating a tensor\); --global_batch_size=8 over 1"
    ):
        made.train(1)


def test_other_failures_keep_their_traceback():
    made = engine.make_engine(engine.runtime(), backbone="tiny")

    def broken(*_):
        raise tf.errors.InvalidArgumentError(None, None, "Received a label value of 7")

    made.loop._run_steps = broken
    with pytest.raises(tf.errors.InvalidArgumentError, match="label value of 7"):
        made.train(1)
