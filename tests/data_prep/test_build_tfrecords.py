"""Whole builds: what is written, that it is always the same, and what is refused."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from folder_builds import COUNTS, make_config, read_raw, run
from image_files import class_files, png, write_folder, write_tar, write_zip
from paths import REPO

from data_prep import build
from data_prep.config import BuildConfig
from data_prep.source import Chunk, Source
from tl_distributed.data import records
from tl_distributed.errors import UserError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), class_files(COUNTS))


def read_split(folder, split):
    """Returns (`[n, h, w, 3]`, class names [n]) by the library's own reader."""
    import tensorflow as tf

    info = records.read_manifest(str(folder))
    paths = [os.path.join(folder, shard.file) for shard in info.splits[split].shards]
    read_images, labels = records.parse_pixels(
        list(tf.data.TFRecordDataset(paths).as_numpy_iterator()), info.image_shape
    )
    return read_images.numpy(), [info.class_names[label] for label in labels.numpy()]


def test_every_image_arrives_once_in_its_split_with_its_class(images, tmp_path):
    from PIL import Image

    info = build.build(make_config(images, tmp_path / "out"))
    assert info == records.read_manifest(str(tmp_path / "out"))
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 24, "val": 6, "test": 8}
    assert info.splits["val"].counts_per_class == {"cat": 4, "dog": 2}
    written = {split: read_split(tmp_path / "out", split) for split in info.splits}
    written["train"] = [list(a) + list(b) for a, b in zip(written["train"], written.pop("val"), strict=True)]
    for split, (pixels, names) in written.items():
        found = sorted((image.tobytes(), name) for image, name in zip(pixels, names, strict=True))
        paths = pathlib.Path(images, split).glob("*/*.png")
        assert found == sorted((np.asarray(Image.open(path)).tobytes(), path.parent.name) for path in paths)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, "crop"), ({"fit": "squash"}, "squash"), ({"crop_to_aspect_ratio": True}, "crop"), ({"fit": "pad"}, "pad")],
)
def test_the_rule_that_fits_pictures_is_followed_and_stored(tmp_path, flags, expected):
    from PIL import Image

    from tl_distributed.data.fitting import resize_image

    wide = {}
    for kind in ("cat", "dog"):
        image = Image.fromarray(np.random.default_rng(len(wide)).integers(0, 256, (9, 31, 3), np.uint8))
        (tmp_path / "in" / "train" / kind).mkdir(parents=True)
        image.save(tmp_path / "in" / "train" / kind / "0.png")
        wide[kind] = image
    build.build(make_config(tmp_path / "in", tmp_path / "out", val_fraction=0.0, **flags))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["fit"] == expected
    for pixels, name in zip(*read_split(tmp_path / "out", "train"), strict=True):
        np.testing.assert_array_equal(pixels, resize_image(wide[name], size=8, fit=expected))


def test_command_prints_the_counts_and_says_where(images, tmp_path, capsys):
    arguments = ["--source=image_folder", f"--input={images}", "--image_size=8", f"--output_dir={tmp_path}/out"]
    code, out, err = run(arguments, capsys)
    assert code == 0
    assert ["cat", "16", "4", "4"] in [line.split() for line in out.splitlines()]
    assert f"{tmp_path}/out: finished" in out
    assert "Read train" in err and "Write shards" in err
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_same_input_and_seed_give_the_same_bytes_however_it_is_read(images, tmp_path):
    files = class_files(COUNTS)
    backwards = dict(reversed(files.items()))
    inputs = {
        "folder": images,
        "zip": write_zip(tmp_path / "a.zip", files),
        "tar": write_tar(tmp_path / "a.tar.gz", backwards),
    }
    built = {}
    for number_of_writers, (kind, path) in enumerate(inputs.items(), start=1):
        build.build(make_config(path, tmp_path / kind, num_writers=number_of_writers))
        built[kind] = read_raw(tmp_path / kind)
        manifest = json.loads(built[kind].pop("dataset.json"))
        manifest["details"].pop("input")
        built[kind]["manifest"] = manifest
    assert built["folder"] == built["zip"] == built["tar"]
    build.build(make_config(images, tmp_path / "again"))
    assert read_raw(tmp_path / "again") == read_raw(tmp_path / "folder")
    build.build(make_config(images, tmp_path / "other", seed=1))
    assert read_raw(tmp_path / "other") != read_raw(tmp_path / "folder")


def test_image_of_two_splits_is_kept_in_test_and_reported(tmp_path, capsys):
    files = class_files(COUNTS)
    files["train/cat/0000.png"] = files["test/cat/0000.png"]
    files["train/dog/0000.png"] = files["test/cat/0001.png"]
    path = write_folder(tmp_path / "images", files)
    info = build.build(make_config(path, tmp_path / "out"))
    assert "2 images of train are in test too" in capsys.readouterr().out
    assert info.details["dropped_duplicates"] == {"train/test": 2}
    held = {split: {image.tobytes() for image in read_split(tmp_path / "out", split)[0]} for split in info.splits}
    assert [len(held[split]) for split in ("train", "val", "test")] == [22, 6, 8]
    assert not held["test"] & (held["train"] | held["val"]) and not held["train"] & held["val"]


def test_details_say_how_the_splits_came_about(images, tmp_path):
    details = build.build(make_config(images, tmp_path / "out", val_fraction=0.5, limit_per_class=6)).details
    assert (details["val_fraction"], details["limit_per_class"], details["input"]) == (0.5, 6, images)
    assert "stratified" in details["val"]
    own = write_folder(tmp_path / "own", class_files({**COUNTS, "val/cat": 2}, first_seed=500))
    details = build.build(make_config(own, tmp_path / "out2")).details
    assert details["val_fraction"] is None and "own" in details["val"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (class_files({"train/cat": 3}), "only one class (cat)"),
        (class_files({"train/cat": 3, "train/Cat": 3}), "'Cat' and 'cat' have the same name"),
    ],
)
def test_classes_that_cannot_be_learnt_are_refused(tmp_path, files, words):
    with pytest.raises(UserError) as error:
        build.build(make_config(write_folder(tmp_path / "images", files), tmp_path / "out"))
    assert words in str(error.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_test_split_that_repeats_a_whole_class_of_train_loses_it(tmp_path, capsys):
    files = {"train/a/1.png": png(1), "train/b/1.png": png(2), "test/b/1.png": png(2)}
    info = build.build(make_config(write_folder(tmp_path / "images", files), tmp_path / "out"))
    assert info.splits["train"].counts_per_class == {"a": 1, "b": 1} and "test" not in info.splits
    assert info.details["dropped_duplicates"] == {"test/train": 1}
    assert "every image of test is in train too, so there is no test split" in capsys.readouterr().out


def test_class_of_which_nothing_can_be_read_is_refused(tmp_path):
    files = class_files({"train/cat": 3, "test/dog": 1}) | {"train/dog/1.png": b""}
    path = write_folder(tmp_path / "images", files)
    with pytest.raises(UserError, match="class 'dog' of test has no image in train"):
        build.build(make_config(path, tmp_path / "out", skip_unreadable=True))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_of_which_nothing_can_be_read_is_refused(tmp_path, split):
    """Another one would be cut in its place, or it would be said to repeat train."""
    path = write_folder(tmp_path / "images", class_files({"train/a": 3, "train/b": 3}) | {f"{split}/a/1.png": b""})
    with pytest.raises(UserError, match=rf"none of the 1 images of {split} can be read, the first {split}/a/1\.png"):
        build.build(make_config(path, tmp_path / "out", skip_unreadable=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source=image_folder"], "--source=image_folder needs --input=PATH"),
        (["--source=tfds"], "needs --tfds_name"),
        (["--source=synthetic", "--input=x"], "--input is not used by --source=synthetic"),
        (["--tfds_name=mnist"], "--tfds_name is not used by --source=cifar10"),
        (["--source=synthetic", "--max_megapixels=9"], "--max_megapixels is not used by --source=synthetic"),
        (["--source=tfds", "--tfds_name=x", "--max_archive_gib=9"], "--max_archive_gib is not used by --source=tfds"),
        (["--source=image_folder", "--input=x", "--archive_encoding=utf-16"], "--archive_encoding=utf-16: no encoding"),
        (["--source=imagenet"], "takes one of cifar10, cifar10_archive"),
        (["--val_fraction=1"], "at most 0.9"),
        (["--num_shards=-1"], "at least 0"),
        (["--output_dir="], "--output_dir must name a folder"),
        (["data/photos"], "unexpected argument 'data/photos'"),
        (["--fit=stretch"], "takes one of squash, crop, pad"),
        (["--fit=crop"], "--fit is not used by --source=cifar10, only by image_folder, tfds"),
        (["--source=image_folder", "--input=x", "--fit=pad", "--crop_to_aspect_ratio"], "is --fit=crop, not --fit=pad"),
    ],
)
def test_wrong_flags_end_with_one_line(arguments, words, capsys):
    code, _, err = run(arguments, capsys)
    assert code == 2 and words in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("module", ["data_prep.build_tfrecords", "data_prep.verify_tfrecords"])
def test_help_needs_no_tensorflow(module):
    code = (
        f"import sys, runpy; sys.argv = ['command', '--help']\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\n"
        f"finally: assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout and "default" in done.stdout


class _MemorySource(Source):
    """Random images drawn chunk by chunk; remembers how many chunks were alive at once."""

    name, class_names, splits = "memory", ("a", "b"), ("train", "test")
    chunk_images = 1000

    def __init__(self, num_images):
        self.details, self.notes, self._num_images = {}, [], num_images

    def chunks(self, split, rule):
        rng = np.random.default_rng(len(split))
        for start in range(0, self._num_images // 2, self.chunk_images):
            images = rng.integers(0, 256, (self.chunk_images, 32, 32, 3), dtype=np.uint8)
            labels = np.arange(self.chunk_images) % 2
            yield Chunk(images, labels, [f"{split}[{start + i}]" for i in range(self.chunk_images)])


def test_memory_stays_flat(tmp_path, monkeypatch):
    """48 MB of images pass through; what Python and NumPy hold at once stays far below that."""
    import tracemalloc

    monkeypatch.setattr(build, "open_source", lambda config: _MemorySource(16_000))
    monkeypatch.setattr("data_prep.shard_writer.BLOCK_BYTES", 2**20)
    import tensorflow  # noqa: F401 - its import is not to be counted

    tracemalloc.start()
    try:
        build.build(BuildConfig(source="synthetic", output_dir=str(tmp_path / "out"), num_writers=2))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 24 * 2**20


def test_source_that_breaks_its_contract_is_a_defect_not_a_data_set(tmp_path, monkeypatch):
    class Broken(_MemorySource):
        def chunks(self, split, rule):
            yield Chunk(np.zeros((1, 32, 32, 3), np.uint8), np.array([2]), ["the culprit"])

    monkeypatch.setattr(build, "open_source", lambda config: Broken(0))
    with pytest.raises(ValueError, match="the culprit has label 2"):
        build.build(BuildConfig(source="synthetic", output_dir=str(tmp_path / "out")))
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar10_images(real_data_dir, tmp_path):
    start = time.monotonic()
    info = build.build(
        BuildConfig(
            source="image_folder",
            input=str(real_data_dir / "cifar10_images.tar.gz"),
            output_dir=str(tmp_path / "cifar10"),
        )
    )
    print(f"built in {time.monotonic() - start:.1f} s")
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        "train": 40_000,
        "val": 10_000,
        "test": 10_000,
    }
    assert {name: set(split.counts_per_class.values()) for name, split in info.splits.items()} == {
        "train": {4_000},
        "val": {1_000},
        "test": {1_000},
    }
    assert len(info.class_names) == 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("writer", "decoder"))]
