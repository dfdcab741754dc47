"""Device mode against memory mode, whose batches it has to give."""

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.errors import UserError
from tl_distributed.runtime.strategies import mirrored_strategy

BATCH, STEPS = 8, 7


def split_of(count: int, *shape: int, versions: int = 1) -> MemorySplit:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (versions * count, *shape), dtype=np.uint8)
    return MemorySplit(images, generator.integers(0, 1000, count).astype(np.int32))


def strategy_of(replicas: int) -> tf.distribute.Strategy:
    devices = [f"CPU:{1 + index}" for index in range(replicas)]
    return mirrored_strategy(devices) if replicas > 1 else tf.distribute.OneDeviceStrategy(devices[0])


def batches(split: MemorySplit, strategy: tf.distribute.Strategy) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns global batches, read as the engine does: in the replicas of a strategy, many in one graph."""
    replicas = strategy.num_replicas_in_sync
    feed = split.train_feed(BatchOrder(global_batch_size=BATCH, num_replicas=replicas, seed=3), first_step=0)

    @tf.function
    def read(step):
        def in_replica(*host_inputs):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return feed.replica_batch(step, replica, *host_inputs)[:2]

        return strategy.run(in_replica, args=feed.host_inputs())

    found = []
    for step in range(STEPS):
        images, labels = map(strategy.experimental_local_results, read(tf.constant(step, tf.int64)))
        assert all(part.dtype == tf.uint8 and part.shape[0] == BATCH // replicas for part in images)
        assert all(part.dtype == tf.int32 for part in labels)
        found.append((np.concatenate(images), np.concatenate(labels)))
    return found


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize(("shape", "versions"), [((4, 4, 3), 1), ((5, 3, 3), 1), ((4, 4, 3), 3)])
def test_batches_are_those_of_memory_mode(shape, versions, replicas):
    split, strategy = split_of(21, *shape, versions=versions), strategy_of(replicas)
    pairs = zip(batches(DeviceSplit(split, strategy), strategy), batches(split, strategy_of(1)), strict=True)
    for found, expected in pairs:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_each_replica_reads_from_its_own_device():
    strategy = strategy_of(4)
    feed = DeviceSplit(split_of(21, 4, 4, 3), strategy).train_feed(
        BatchOrder(global_batch_size=BATCH, num_replicas=4, seed=0), first_step=0
    )
    (copies,) = feed.host_inputs()
    places = [copy.device[-5:] for copy in strategy.experimental_local_results(copies)]
    assert places == ["CPU:1", "CPU:2", "CPU:3", "CPU:4"]


def test_evaluation_reads_the_host(tmp_path):
    split = split_of(11, 4, 4, 3)
    pairs = zip(DeviceSplit(split, strategy_of(1)).eval_batches(4), split.eval_batches(4), strict=True)
    for found, expected in pairs:
        np.testing.assert_array_equal(found.images, expected.images)


def test_a_split_that_does_not_fit_on_a_device(monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    split = DeviceSplit(split_of(10, 100, 100, 3), strategy_of(1))
    monkeypatch.setattr(tf, "identity", full)
    with pytest.raises(UserError, match=r"--input_mode=device: the 0 MB of the training split do not fit"):
        split.train_feed(BatchOrder(global_batch_size=2, num_replicas=1, seed=0), first_step=0)
