"""Any record by its number: mapped or in ranged reads, at any place of a set of any size, one copy for a machine."""

import functools
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from toy_dataset import write_toy_dataset

from tl_distributed.data import record_files
from tl_distributed.data.dataset import load_splits, open_split
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.record_index import index_name, map_index, write_index
from tl_distributed.data.record_reader import RecordFile, RecordReader
from tl_distributed.data.records import DatasetInfo, encode_example, read_manifest
from tl_distributed.data.shards import image_format
from tl_distributed.errors import UserError

BATCH = 32
TINY = DatasetInfo(("a", "b"), (2, 2, 3), 0, "toy", {}, {})


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts={"train": 37}, size=4, num_shards=3)


def batches(split, *, steps: int = 12, **order) -> list[list[np.ndarray]]:
    feed = split.train_feed(BatchOrder(global_batch_size=8, num_replicas=1, seed=0, **order), first_step=0)
    return [[part.numpy() for part in feed.host_inputs()] for _ in range(steps)]


def test_ranged_reads_give_what_mapped_files_give(data_dir):
    elsewhere = "ram://ranged/toy"
    tf.io.gfile.makedirs(elsewhere)
    for path in pathlib.Path(data_dir).iterdir():
        with tf.io.gfile.GFile(f"{elsewhere}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    here, there = (
        load_splits(folder, read_manifest(folder), ("train",), input_mode="disk")["train"]
        for folder in (data_dir, elsewhere)
    )
    for one, other in zip(batches(here), batches(there), strict=True):
        for part, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, wanted)
    assert isinstance(here._reader._bytes, record_files.MappedFiles)
    assert isinstance(there._reader._bytes, record_files.RangedReads)


def test_records_are_those_of_tensorflow(data_dir):
    shards = read_manifest(data_dir).splits["train"].shards
    files = [RecordFile(f"{data_dir}/{one.file}", one.num_records, one.num_bytes, is_indexed=True) for one in shards]
    reader = RecordReader(files, remedy="")
    expected = [record for file in files for record in tf.data.TFRecordDataset(file.path).as_numpy_iterator()]
    numbers = np.random.default_rng(0).permutation(37)
    assert [bytes(record) for record in reader.read(numbers)] == [expected[number] for number in numbers]
    assert reader.bytes_read == sum(len(record) + 16 for record in expected)


@pytest.mark.parametrize("place", ["first byte", "middle", "last byte", "checksum"])
def test_a_flipped_bit_is_found(data_dir, tmp_path, place):
    (shard, *_) = read_manifest(data_dir).splits["train"].shards
    content = bytearray((pathlib.Path(data_dir) / shard.file).read_bytes())
    start, end = map_index(f"{data_dir}/{shard.file}", num_records=shard.num_records)[3:5].tolist()
    at = {"first byte": start + 12, "middle": (start + end) // 2, "last byte": end - 5, "checksum": end - 2}[place]
    content[at] ^= 1
    (tmp_path / shard.file).write_bytes(content)
    index = pathlib.Path(index_name(f"{data_dir}/{shard.file}"))
    (tmp_path / index.name).write_bytes(index.read_bytes())
    reader = RecordReader(
        [RecordFile(f"{tmp_path}/{shard.file}", shard.num_records, shard.num_bytes, is_indexed=True)], remedy="mend it"
    )
    assert len(reader.read(np.array([0, 2, 4]))) == 3
    with pytest.raises(UserError, match=rf"{shard.file}: record 3 is a bad record \(.*checksum differs\); mend it"):
        reader.read(np.array([2, 3]))


def test_a_mapped_record_is_checked_once_and_one_of_a_bucket_each_time(data_dir):
    """Here the bytes change under a run: in the page cache, and in what travels."""
    on_disk = f"{data_dir}_again", False, functools.partial(open, mode="r+b")  # the same file, as it is mapped
    in_bucket = "ram://again/toy", True, functools.partial(tf.io.gfile.GFile, mode="wb")
    for folder, is_checked_again, open_for_writing in (on_disk, in_bucket):
        tf.io.gfile.makedirs(folder)
        for path in pathlib.Path(data_dir).iterdir():
            with tf.io.gfile.GFile(f"{folder}/{path.name}", "wb") as file:
                file.write(path.read_bytes())
        split = load_splits(folder, read_manifest(folder), ("train",), input_mode="disk")["train"]
        batches(split, steps=5)  # an epoch
        for shard in read_manifest(folder).splits["train"].shards:
            with tf.io.gfile.GFile(f"{folder}/{shard.file}", "rb") as file:
                content = bytearray(file.read())
            start = int(map_index(f"{data_dir}/{shard.file}", num_records=shard.num_records)[-1])
            content[start + 12 + 60] ^= 1
            if is_checked_again:  # this file system appends to what is there
                tf.io.gfile.remove(f"{folder}/{shard.file}")
            with open_for_writing(f"{folder}/{shard.file}") as file:
                file.write(bytes(content))
        if is_checked_again:
            with pytest.raises(tf.errors.OpError):
                batches(split, steps=5)
        else:
            assert len(batches(split, steps=5)) == 5
        other = load_splits(folder, read_manifest(folder), ("train",), input_mode="disk")["train"]
        with pytest.raises(tf.errors.OpError):
            batches(other, steps=5)


def test_a_record_of_a_bucket_that_was_replaced_is_read_as_it_is_now(data_dir):
    folder = "ram://replaced/toy"
    tf.io.gfile.makedirs(folder)
    for path in pathlib.Path(data_dir).iterdir():
        with tf.io.gfile.GFile(f"{folder}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    split = load_splits(folder, read_manifest(folder), ("train",), input_mode="disk")["train"]
    before = batches(split)
    for shard in read_manifest(folder).splits["train"].shards:
        records = [record.numpy() for record in tf.data.TFRecordDataset(f"{data_dir}/{shard.file}")]
        tf.io.gfile.remove(f"{folder}/{shard.file}")
        with tf.io.TFRecordWriter(f"{folder}/{shard.file}") as writer:
            for record in records:
                example = tf.train.Example.FromString(record)
                example.features.feature["label"].int64_list.value[0] += 1
                writer.write(example.SerializeToString(deterministic=True))
    for (images, labels, *_), (images_before, labels_before, *_) in zip(batches(split), before, strict=True):
        np.testing.assert_array_equal(images, images_before)
        np.testing.assert_array_equal(labels, labels_before + 1)


def test_near_ranges_are_read_in_one_go(monkeypatch):
    monkeypatch.setattr(record_files, "_REMOTE_READ_BYTES", 100)
    spans = [("b", 0, 50), ("a", 500, 600), ("a", 0, 50), ("a", 140, 190), ("a", 700, 800), ("a", 291, 300)]
    assert record_files._runs(spans) == [[2, 3], [5], [1], [4], [0]]


def write_tiny(folder: pathlib.Path, count: int) -> list[RecordFile]:
    """Writes so many records that are all alike, in one shard."""
    record = encode_example(bytes(range(12)), 1, id=b"tiny", height=2, width=2)
    path = folder / f"{count}.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record)
    frame = path.read_bytes()
    path.write_bytes(frame * count)
    write_index(str(path), np.full(count, len(record)))
    return [RecordFile(str(path), count, count * len(frame), is_indexed=True)]


def seconds_to_first_batch(files: list[RecordFile], first_step: int) -> float:
    start = time.perf_counter()
    split = open_split([files], image_format(TINY), mode="disk")
    feed = split.train_feed(BatchOrder(global_batch_size=BATCH, num_replicas=1, seed=0), first_step=first_step)
    feed.host_inputs()
    return time.perf_counter() - start


def test_any_step_of_any_set_is_as_near_as_the_first(tmp_path):
    """Within 1.2 times. On a busy machine medians take many turns; skipping what comes before would take 100 times."""
    small, large = (write_tiny(tmp_path, count) for count in (1000, 1_000_000))
    starts, turns = ((small, 0), (large, 0), (large, 100_000)), []
    for _ in range(60):
        turns.append([seconds_to_first_batch(files, step) for files, step in starts])
        fresh, of_large, resumed = map(statistics.median, zip(*turns, strict=True))
        if len(turns) >= 9 and max(of_large, resumed) < 1.2 * fresh:
            return
    pytest.fail(f"seconds to the first batch: {fresh}, of a large set {of_large}, resumed there {resumed}")


_READER = """
import json, sys, time
import numpy as np, psutil, tensorflow as tf
from tl_distributed.data.dataset import open_split
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.record_reader import RecordFile
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.shards import image_format
from tl_distributed.errors import UserError

def of_rollup(name):
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

path, count, size, steps, side = sys.argv[1], *map(int, sys.argv[2:])
info = DatasetInfo(("a", "b"), (side, side, 3), 0, "toy", {}, {})
def read(steps):
    files = [RecordFile(path, count, size, is_indexed=True)]
    split = open_split([files], image_format(info), mode="disk")
    feed = split.train_feed(BatchOrder(global_batch_size=16, num_replicas=1, seed=0), first_step=0)
    for _ in range(steps):
        feed.host_inputs()
    return split, feed
kept = read(1)
anonymous = of_rollup("Anonymous")
kept = read(steps)
print(json.dumps({"anonymous": of_rollup("Anonymous") - anonymous, "rss": of_rollup("Rss")}), flush=True)
sys.stdin.readline()
shared = {"pss_file": of_rollup("Pss_File"), "rss_file": of_rollup("Rss") - of_rollup("Anonymous")}
print(json.dumps(shared), flush=True)
sys.stdin.readline()
for _ in range(20):
    kept[1].host_inputs()
"""  # it ends while it reads ahead


def start_reader(file: RecordFile, *, steps: int, side: int) -> subprocess.Popen:
    arguments = map(str, (file.path, file.num_records, file.num_bytes, steps, side))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", _READER, *arguments], stdin=pipe, stdout=pipe, text=True)


def answer(process: subprocess.Popen) -> dict[str, int]:
    return json.loads(process.stdout.readline())


def go_on(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(tmp_path):
    grown = []
    for count in (1000, 1_000_000):
        with start_reader(*write_tiny(tmp_path, count), steps=300, side=2) as process:
            grown.append(answer(process)["anonymous"])
            go_on(process)
            answer(process)
            go_on(process)
            assert process.wait(timeout=60) == 0
    assert grown[1] < grown[0] + 4e6, grown  # the index alone would be 8 MB


@pytest.mark.slow
def test_processes_of_a_machine_share_one_copy(tmp_path):
    """Four processes read a shard of 100 MB: each is charged a quarter of it, and of the libraries."""
    record = encode_example(np.random.default_rng(0).bytes(64 * 64 * 3), 1, id=b"one", height=64, width=64)
    path, count = tmp_path / "shared.tfrecord", 8000
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record)
    frame = path.read_bytes()
    path.write_bytes(frame * count)
    write_index(str(path), np.full(count, len(record)))
    file = RecordFile(str(path), count, count * len(frame), is_indexed=True)
    processes = [start_reader(file, steps=count // 16, side=64) for _ in range(4)]
    for process in processes:
        answer(process)
    for process in processes:  # all have read, however long one took: a process is charged what it shares with none
        go_on(process)
    found = [answer(process) for process in processes]
    for process in processes:
        process.communicate("\n", timeout=60)
    shared = sum(one["pss_file"] for one in found)
    alone = sum(one["rss_file"] for one in found)
    print(f"resident {alone / 1e6:.0f} MB, proportional {shared / 1e6:.0f} MB, shard {file.num_bytes / 1e6:.0f} MB")
    assert file.num_bytes * 0.9 < shared < alone / 4 + file.num_bytes
