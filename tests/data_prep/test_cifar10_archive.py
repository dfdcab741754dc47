"""The official archives, in small: both formats give the same images; damage and malice are refused."""

import hashlib
import pickle

import numpy as np
import pytest
from image_files import write_folder, write_tar
from stored_pictures import pixel_rule, read_arrays

from data_prep.sources import cifar10_archive
from data_prep.sources.cifar10_archive import Cifar10ArchiveSource
from tl_distributed.errors import UserError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
IMAGES_PER_BATCH = 20


def make_batch(number):
    """Returns (`[n, 32, 32, 3] uint8`, `[n]` labels)."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (IMAGES_PER_BATCH, 32, 32, 3), dtype=np.uint8), np.arange(IMAGES_PER_BATCH) % 10


def planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def binary_files():
    files = {"cifar-10-batches-bin/batches.meta.txt": "\n".join([*NAMES, ""]).encode()}
    for number, name in enumerate(BATCHES):
        images, labels = make_batch(number)
        records = np.concatenate([labels[:, None].astype(np.uint8), planes(images)], axis=1)
        files[f"cifar-10-batches-bin/{name}.bin"] = records.tobytes()
    return files


def python_files(protocol=2):
    """As Python 2 wrote them: keys and names are bytes for who reads with encoding="bytes"."""
    files = {}
    for number, name in enumerate(BATCHES):
        images, labels = make_batch(number)
        batch = {b"data": planes(images), b"labels": labels.tolist(), b"filenames": [b"x.png"], b"batch_label": b"one"}
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps(batch, protocol)
    return files


@pytest.fixture(autouse=True)
def _official(monkeypatch):
    """The small python files are the official ones here; the real ones have 10,000 images each."""
    md5 = {name.rsplit("/", 1)[1]: hashlib.md5(data).hexdigest() for name, data in python_files().items()}
    monkeypatch.setattr(cifar10_archive, "_PYTHON_MD5", md5)


def read(source, split, size=32):
    return read_arrays(source, split, pixel_rule(size))


@pytest.mark.parametrize("form", ["archive", "unpacked", "unpacked inner"])
@pytest.mark.parametrize("files", [binary_files, python_files])
def test_both_formats_packed_or_not_give_the_images(tmp_path, form, files):
    if form == "archive":
        path = write_tar(tmp_path / "cifar.tar.gz", files())
    else:
        path = write_folder(tmp_path / "cifar", files())
        if form == "unpacked inner":
            (inner,) = (tmp_path / "cifar").iterdir()
            path = str(inner)
    source = Cifar10ArchiveSource(path=path)
    assert source.class_names == tuple(NAMES)
    for split, numbers in {"train": range(5), "test": [5]}.items():
        images, labels = read(source, split)
        np.testing.assert_array_equal(images, np.concatenate([make_batch(number)[0] for number in numbers]))
        np.testing.assert_array_equal(labels, np.concatenate([make_batch(number)[1] for number in numbers]))


def test_ids_are_places_in_the_split(tmp_path):
    source = Cifar10ArchiveSource(path=write_folder(tmp_path / "a", binary_files()))
    names = [name for chunk in source.chunks("train", pixel_rule()) for name in chunk.names]
    assert names == [f"train/{place:05d}" for place in range(len(names))]


def test_other_size_is_resized_like_any_image(tmp_path):
    import tensorflow as tf

    source = Cifar10ArchiveSource(path=write_folder(tmp_path / "a", binary_files()))
    images, _ = read(source, "test", size=20)
    expected = tf.image.resize(make_batch(5)[0], (20, 20), antialias=True).numpy()
    assert np.abs(images - expected).max() <= 1.5


def test_missing_file_is_named(tmp_path):
    files = binary_files()
    del files["cifar-10-batches-bin/data_batch_4.bin"]
    with pytest.raises(UserError, match=r"no data_batch_4\.bin there"):
        Cifar10ArchiveSource(path=write_tar(tmp_path / "a.tar.gz", files))


@pytest.mark.parametrize("files", [binary_files, python_files])
@pytest.mark.parametrize("damage", ["truncated", "labels", "empty"])
def test_damaged_batch_is_named(tmp_path, files, damage):
    files = files()
    name = next(name for name in files if "data_batch_2" in name)
    data = files[name]
    if damage == "labels":
        data = b"\x0a" + data[1:] if name.endswith(".bin") else data[:-1] + b"x"
    files[name] = {"truncated": data[:-100], "labels": data, "empty": b""}[damage]
    source = Cifar10ArchiveSource(path=write_folder(tmp_path / "a", files))
    with pytest.raises(UserError, match="data_batch_2"):
        read(source, "train")


class Attack:
    """What a pickle from a stranger may hold: a call that runs while it is read."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


def test_malicious_pickle_does_not_run(tmp_path):
    trace = tmp_path / "executed"
    attack = pickle.dumps(Attack(str(trace)), 2)
    pickle.loads(attack)
    assert trace.exists()  # the attack works on the standard reader
    trace.unlink()
    files = python_files()
    files["cifar-10-batches-py/data_batch_1"] = attack
    source = Cifar10ArchiveSource(path=write_tar(tmp_path / "a.tar", files))
    message = r"data_batch_1 is not the official file .* cifar-10-binary\.tar\.gz, or .* --source=image_folder"
    with pytest.raises(UserError, match=message):
        read(source, "train")
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e\x00\x00\x00\x20\x00\x00\x00\x00.",  # claims half a gigabyte
        b"(" * 100_000 + b"t" * 100_000 + b".",  # so deep that the interpreter dies of it
    ],
    ids=["huge", "deep"],
)
def test_a_small_pickle_takes_neither_memory_nor_the_interpreter(tmp_path, data):
    files = python_files()
    files["cifar-10-batches-py/test_batch"] = data
    source = Cifar10ArchiveSource(path=write_folder(tmp_path / "a", files))
    with pytest.raises(UserError, match="test_batch is not the official file"):
        read(source, "test")
