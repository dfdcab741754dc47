"""Builds by Apache Beam against the local engine: the same bytes on any number of workers; and what goes wrong."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from image_files import class_files, png, write_folder, write_tar, write_zip
from paths import REPO

from data_prep import build
from data_prep.config import BuildConfig
from data_prep.sources import image_folder
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError

COUNTS = {"train/cat": 20, "train/dog": 10, "test/cat": 4, "test/dog": 4}
TWO_PROCESSES = "--direct_num_workers=2 --direct_running_mode=multi_processing"

try:
    import apache_beam  # noqa: F401

    needs_beam = pytest.mark.skipif(False, reason="")
except ImportError:
    needs_beam = pytest.mark.skip(reason="Apache Beam is missing: pip install .[beam]")


def make_config(input_path, output_dir, **settings):
    settings = {"source": "image_folder", "image_size": 8, "num_shards": 3, **settings}
    return BuildConfig(input=str(input_path), output_dir=str(output_dir), **settings)


def read_raw(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


@pytest.fixture
def files():
    """Duplicates within train, and of train and test; one picture that cannot be read; groups."""
    made = class_files(COUNTS)
    made["train/cat/0003.png"] = made["train/cat/0004.png"] = made["train/dog/0001.png"]
    made["train/cat/0000.png"] = made["test/cat/0000.png"]
    made["train/dog/0002.png"] = b"no picture"
    rows = [f"{name},{number // 3}" for number, name in enumerate(sorted(made)) if name.startswith("train/cat")]
    return {**made, "groups.csv": "\n".join(["file,group", *rows]).encode()}


@needs_beam
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("folder", {"storage": "jpeg", "fit": "pad"}),
        ("folder", {"num_shards": 0, "limit_per_class": 6}),
        ("zip", {"storage": "original"}),
        ("tar", {"group_csv": "groups.csv"}),
    ],
)
def test_one_worker_writes_the_same_bytes(files, tmp_path, monkeypatch, kind, settings):
    monkeypatch.setattr(image_folder, "_PART_IMAGES", 7)
    write = {
        "folder": lambda: write_folder(tmp_path / "in", files),
        "zip": lambda: write_zip(tmp_path / "in.zip", files),
    }
    path = write.get(kind, lambda: write_tar(tmp_path / "in.tar", files))()
    settings = {"skip_unreadable": True, "seed": 5, **settings}
    local = build.build(make_config(path, tmp_path / "local", **settings))
    by_beam = build.build(make_config(path, tmp_path / "beam", engine="beam", **settings))
    assert by_beam == local and read_raw(tmp_path / "beam") == read_raw(tmp_path / "local")
    assert local.details["source"]["unreadable"] == 1 and local.details["dropped_duplicates"] == {"train/test": 1}
    assert not (tmp_path / "beam.partial").exists()


@needs_beam
def test_another_source_writes_the_same_bytes(tmp_path):
    settings = {"source": "synthetic", "synthetic_task": "target", "images_per_class": 4, "image_size": 16}
    for engine in ("local", "beam"):
        build.build(BuildConfig(output_dir=str(tmp_path / engine), engine=engine, num_shards=2, **settings))
    assert read_raw(tmp_path / "beam") == read_raw(tmp_path / "local")


@needs_beam
def test_two_processes_write_the_same_bytes(files, tmp_path):
    path = write_folder(tmp_path / "in", files)
    build.build(make_config(path, tmp_path / "local", skip_unreadable=True))
    command = [
        *(sys.executable, "-m", "data_prep.build_tfrecords", "--source=image_folder", f"--input={path}"),
        *("--image_size=8", "--num_shards=3", "--skip_unreadable", f"--output_dir={tmp_path}/beam", "--engine=beam"),
        f"--beam_options={TWO_PROCESSES}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_raw(tmp_path / "beam") == read_raw(tmp_path / "local")


@needs_beam
def test_object_store(files, tmp_path):
    import tensorflow as tf

    path = write_folder(tmp_path / "in", files)
    build.build(make_config(path, tmp_path / "local", skip_unreadable=True))
    build.build(make_config(path, "ram://beam_test/out", skip_unreadable=True, engine="beam"))
    expected = read_raw(tmp_path / "local")
    assert sorted(tf.io.gfile.listdir("ram://beam_test/out")) == sorted(expected)
    for name, data in expected.items():
        assert tf.io.gfile.GFile(f"ram://beam_test/out/{name}", "rb").read() == data
    assert not [name for _, _, names in tf.io.gfile.walk("ram://beam_test/.out.partial") for name in names]


@needs_beam
def test_a_picture_that_cannot_be_read_is_one_line_and_nothing_is_left(files, tmp_path):
    path = write_folder(tmp_path / "in", files)
    with pytest.raises(UserError, match=r"cannot read train/dog/0002\.png \(.*add --skip_unreadable") as raised:
        build.build(make_config(path, tmp_path / "out", engine="beam"))
    assert "\n" not in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["in"]


@needs_beam
def test_a_worker_that_dies_of_a_defect_is_told(files, tmp_path, monkeypatch):
    from data_prep.engines import beam_work

    def fail(task):
        raise ZeroDivisionError(f"of part {task.number}")

    monkeypatch.setattr(beam_work, "read_part", fail)
    path = write_folder(tmp_path / "in", files)
    with pytest.raises(UserError, match=r"--engine=beam: the pipeline failed \(.*of part 0.*\); nothing is left of it"):
        build.build(make_config(path, tmp_path / "out", engine="beam"))
    assert sorted(os.listdir(tmp_path)) == ["in"]


@needs_beam
@pytest.mark.parametrize("output", ["local", "bucket"])
def test_an_interrupted_build_leaves_nothing(files, tmp_path, monkeypatch, output):
    import tensorflow as tf

    from data_prep.engines.beam import BeamEngine

    def interrupt(engine, tasks):
        raise KeyboardInterrupt

    monkeypatch.setattr(BeamEngine, "write", interrupt)
    path = write_folder(tmp_path / "in", files)
    goal = str(tmp_path / "out") if output == "local" else "ram://beam_interrupted/out"
    with pytest.raises(KeyboardInterrupt):
        build.build(make_config(path, goal, engine="beam", skip_unreadable=True))
    with pytest.raises(UserError, match=r"no dataset.json there \(.*build the data set with"):
        read_manifest(goal)
    assert sorted(os.listdir(tmp_path)) == ["in"]
    assert not [name for _, _, names in tf.io.gfile.walk("ram://beam_interrupted") for name in names]


@needs_beam
def test_a_build_killed_among_its_workers_is_never_readable_and_the_next_one_is_clean(files, tmp_path):
    path = write_folder(tmp_path / "in", files)
    build.build(make_config(path, tmp_path / "local", skip_unreadable=True))
    command = [
        *(sys.executable, "-m", "data_prep.build_tfrecords", "--source=image_folder", f"--input={path}"),
        *("--image_size=8", "--num_shards=3", "--skip_unreadable", f"--output_dir={tmp_path}/out", "--engine=beam"),
        f"--beam_options={TWO_PROCESSES}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("out.partial/shared/read-*")):  # of a worker that is done with a part
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(UserError, match=r"no dataset.json there \(an unfinished build\).*build the data set with"):
        read_manifest(str(tmp_path / "out"))
    build.build(make_config(path, tmp_path / "out", skip_unreadable=True))
    assert read_raw(tmp_path / "out") == read_raw(tmp_path / "local")
    assert sorted(os.listdir(tmp_path)) == ["in", "local", "out"]


@needs_beam
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--no_such_option=3", "Beam does not know all of it .*--no_such_option=3"),
        ("--runner=NoSuchRunner", "no such runner"),
        ("--direct_num_workers=many", "a wrong value"),
        ("'open", "cannot be taken apart"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        build.open_engine(make_config(tmp_path, tmp_path / "out", engine="beam", beam_options=options))


def test_beam_that_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"--engine=beam: Apache Beam is missing \(.*pip install \.\[beam\]"):
        build.open_engine(make_config(tmp_path, tmp_path / "out", engine="beam"))


def test_options_without_the_engine_are_refused(tmp_path):
    with pytest.raises(UserError, match="--beam_options is used by --engine=beam alone"):
        make_config(tmp_path, tmp_path / "out", beam_options="--x")


def test_results_of_workers_run_no_code(tmp_path):
    from data_prep.engines import beam_work

    path = str(tmp_path / "rows.npz")
    with open(path, "wb") as file:
        np.savez(file, rows=np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        beam_work.load_arrays(path)
    assert json.dumps(beam_work.unpack_names(beam_work.pack_names(["a", "é\n", ""]))) == json.dumps(["a", "é\n", ""])


def test_parts_are_the_split_in_its_order(tmp_path, monkeypatch):
    from stored_pictures import pixel_rule

    monkeypatch.setattr(image_folder, "_PART_IMAGES", 3)
    path = write_folder(tmp_path / "in", {f"train/{kind}/{n}.png": png(n) for kind in "ab" for n in range(5)})
    source = build.open_source(make_config(path, tmp_path / "out"))
    parts = source.parts("train")
    names = [[name for chunk in part.chunks(pixel_rule()) for name in chunk.names] for part in parts]
    assert [len(part) for part in names] == [3, 3, 3, 1]
    assert list(itertools.chain(*names)) == [
        name for chunk in source.chunks("train", pixel_rule()) for name in chunk.names
    ]
