"""Where a data set is built: nothing half-written is ever seen, nothing finished is lost, whatever ends the build."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest
from folder_builds import COUNTS, make_config, read_raw, run
from image_files import class_files, write_folder
from paths import REPO

from data_prep import build, spill
from data_prep.config import BuildConfig
from tl_distributed.data import records
from tl_distributed.errors import UserError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), class_files(COUNTS))


def test_finished_data_set_is_not_touched_without_overwrite(images, tmp_path, capsys):
    arguments = ["--source=image_folder", f"--input={images}", "--image_size=8", f"--output_dir={tmp_path}/out"]
    assert run(arguments, capsys)[0] == 0
    before = read_raw(tmp_path / "out")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    code, _, err = run([*arguments, "--seed=1"], capsys)
    assert code == 2 and "add --overwrite" in err and len(err.splitlines()) == 1
    assert read_raw(tmp_path / "out") == before
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    assert run([*arguments, "--seed=1", "--num_shards=2", "--overwrite"], capsys)[0] == 0
    assert records.read_manifest(f"{tmp_path}/out").seed == 1
    assert len(list((tmp_path / "out").glob("train-*.tfrecord"))) == 2  # nothing of the old one is left
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_failed_overwrite_leaves_the_old_data_set(images, tmp_path):
    build.build(make_config(images, tmp_path / "out"))
    before = read_raw(tmp_path / "out")
    files = class_files(COUNTS) | {"train/dog/0003.png": b"no image"}
    with pytest.raises(UserError, match=r"cannot read train/dog/0003\.png"):
        build.build(make_config(write_folder(tmp_path / "bad", files), tmp_path / "out", overwrite=True))
    assert read_raw(tmp_path / "out") == before
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_other_things_in_it_is_refused(images, tmp_path, overwrite):
    build.build(make_config(images, tmp_path / "out"))
    (tmp_path / "out/thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds 'thesis\.tex', which is no part of a data set"):
        build.build(make_config(images, tmp_path / "out", overwrite=overwrite))
    assert (tmp_path / "out/thesis.tex").read_text() == "precious"


def test_folder_that_the_command_runs_in_is_refused(images, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for name in (".", str(tmp_path / "out")):
        with pytest.raises(UserError, match="is the folder that this command runs in"):
            build.build(make_config(images, name))
    assert os.path.samefile(".", tmp_path / "out")  # else whoever stands there sees an empty folder from then on
    build.build(make_config(images, "here"))
    assert records.read_manifest("here").num_classes == 2


def test_empty_folder_and_shards_without_description_are_replaced(images, tmp_path):
    (tmp_path / "out").mkdir()
    build.build(make_config(images, tmp_path / "out"))
    (tmp_path / "out/dataset.json").unlink()
    build.build(make_config(images, tmp_path / "out", num_shards=2))
    assert len(list((tmp_path / "out").glob("train-*.tfrecord"))) == 2


def test_link_to_a_folder_stays_a_link(images, tmp_path):
    (tmp_path / "big_disk/set").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "big_disk/set")
    build.build(make_config(images, tmp_path / "out"))
    assert (tmp_path / "out").is_symlink() and (tmp_path / "big_disk/set/dataset.json").exists()


# A build in a process of its own that stops for ever at a given point, so that it can be killed there.
_STOPPING_BUILD = """
import os, sys, time
import data_prep.build, data_prep.manifest, data_prep.reading, data_prep.shard_writer
from data_prep.config import BuildConfig


def stop(*_, **__):
    os.write(1, b"stopped\\n")  # whole, though several threads may stop at once
    time.sleep(600)

point, config = sys.argv[1], BuildConfig(**eval(sys.argv[2]))
if point == "reading":
    data_prep.reading.order_keys = stop
elif point == "writing":
    true_hash_file, calls = data_prep.shard_writer.hash_file, []
    def hash_file(path):
        calls.append(path)
        return stop() if len(calls) > 2 else true_hash_file(path)
    data_prep.shard_writer.hash_file = hash_file
elif point == "describing":
    data_prep.manifest.write = stop
elif point == "between renames":
    true_rename = os.rename
    def rename(source, goal):
        true_rename(source, goal)
        if goal.endswith("replaced"):
            stop()
    os.rename = rename
data_prep.build.build(config)
"""


@contextlib.contextmanager
def build_killed_at(point, settings):
    """Starts a build and waits until it stands at `point`; on leaving the context it is killed with SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPING_BUILD, point, repr(settings)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    deadline = threading.Timer(120, process.kill)
    deadline.start()
    with process:
        try:
            assert process.stdout.readline() == "stopped\n"
            yield
        finally:
            deadline.cancel()
            process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("point", ["reading", "writing", "describing", "between renames"])
def test_build_killed_at_any_point_is_never_readable_and_the_next_one_is_clean(images, tmp_path, point, capsys):
    settings = {
        "source": "image_folder",
        "input": images,
        "image_size": 8,
        "num_shards": 3,
        "output_dir": str(tmp_path / "out"),
    }
    overwrites = point == "between renames"
    if overwrites:
        build.build(BuildConfig(**settings))
        old = read_raw(tmp_path / "out")
    running = build_killed_at(point, {**settings, "seed": 1, "overwrite": overwrites})
    # While it runs, a second build for the same folder is refused.
    with (
        running,
        pytest.raises(UserError, match=r"another build is writing .* \(process \d+ on .*, since 2"),
    ):
        build.build(BuildConfig(**settings))
    with pytest.raises(UserError, match=r"build_tfrecords"):
        records.read_manifest(str(tmp_path / "out"))
    capsys.readouterr()
    if overwrites:  # the old data set comes back, and is as safe as before
        with pytest.raises(UserError, match="add --overwrite"):
            build.build(BuildConfig(**settings))
        assert read_raw(tmp_path / "out") == old
        assert "put back" in capsys.readouterr().out
    else:
        build.build(BuildConfig(**settings))
        assert "deleting what a build left that was killed" in capsys.readouterr().out
        build.build(BuildConfig(**{**settings, "output_dir": str(tmp_path / "fresh")}))
        assert read_raw(tmp_path / "out") == read_raw(tmp_path / "fresh")
    assert not (tmp_path / "out.partial").exists()


def test_a_file_system_without_locks_is_said(images, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    build.build(make_config(images, tmp_path / "out"))
    words = f"{tmp_path}/out.partial is not locked (No locks available): see to it that no other build writes there"
    assert words in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["out"]


def test_interrupt_cleans_up(images, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.manifest, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.build(make_config(images, tmp_path / "out"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EXDEV, "Invalid cross-device link")])
def test_overwrite_that_fails_between_the_renames_puts_the_old_data_set_back(images, tmp_path, monkeypatch, error):
    build.build(make_config(images, tmp_path / "out"))
    before = read_raw(tmp_path / "out")
    true_rename = os.rename

    def rename(source, goal):
        if source.endswith("build"):
            raise error
        true_rename(source, goal)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises((KeyboardInterrupt, UserError)):
        build.build(make_config(images, tmp_path / "out", seed=1, overwrite=True))
    assert read_raw(tmp_path / "out") == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("where", ["first pass", "shards"])
def test_full_disk_is_one_line_and_leaves_nothing(images, tmp_path, monkeypatch, where):
    import tensorflow as tf

    def full(*_):
        if where == "first pass":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise tf.errors.ResourceExhaustedError(None, None, "shard; No space left on device")

    target = (spill.Spill, "append") if where == "first pass" else (tf.io.TFRecordWriter, "write")
    monkeypatch.setattr(*target, full)
    with pytest.raises(UserError, match="No space left on device; nothing was changed there"):
        build.build(make_config(images, tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_really_full_disk(images, tmp_path):
    """On a disk of 64 KiB, which only root can mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(UserError, match="No space left on device"):
            build.build(make_config(images, disk / "out", image_size=64))
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("place", ["{tmp}/file/out", "/proc/out"])
def test_folder_that_cannot_be_made_is_named(images, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out.*name another --output_dir"):
        build.build(make_config(images, place.format(tmp=tmp_path)))


def test_file_in_the_place_of_the_folder_is_named(images, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        build.build(make_config(images, tmp_path / "out"))


def test_object_store_gets_the_description_last(images, monkeypatch, tmp_path):
    import tensorflow as tf

    output_dir = "ram://build_test/out"
    copied = []
    true_copy = tf.io.gfile.copy
    monkeypatch.setattr(tf.io.gfile, "copy", lambda a, b, overwrite: copied.append(b) or true_copy(a, b, overwrite))
    build.build(make_config(images, output_dir))
    assert copied[-1] == f"{output_dir}/dataset.json" and len(copied) == 23
    build.build(make_config(images, tmp_path / "local"))
    for name, data in read_raw(tmp_path / "local").items():
        assert tf.io.gfile.GFile(f"{output_dir}/{name}", "rb").read() == data
    with pytest.raises(UserError, match="add --overwrite"):
        build.build(make_config(images, output_dir))
    build.build(make_config(images, output_dir, num_shards=2, overwrite=True))
    assert len(tf.io.gfile.listdir(output_dir)) == 17


def test_object_store_that_fails_half_way_is_left_unreadable(images, monkeypatch):
    import tensorflow as tf

    output_dir = "ram://build_test/failing"
    build.build(make_config(images, output_dir))
    true_copy = tf.io.gfile.copy

    def copy(source, goal, overwrite):
        if "val-00001" in goal:
            raise tf.errors.UnavailableError(None, None, "the store is away")
        true_copy(source, goal, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "copy", copy)
        with pytest.raises(UserError, match=r"copying failed \(the store is away\).*run the build again"):
            build.build(make_config(images, output_dir, overwrite=True))
    with pytest.raises(UserError, match="an unfinished build"):
        records.read_manifest(output_dir)
    build.build(make_config(images, output_dir))
    assert records.read_manifest(output_dir).splits["train"].num_examples == 24
