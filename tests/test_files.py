"""Locks between processes, and files that a power cut finds whole."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest
import tensorflow as tf
from paths import PYTHONPATH

from tl_distributed.errors import UserError
from tl_distributed.files import (
    LockedError,
    file_lock,
    holder_line,
    path_exists,
    read_json,
    why_not_reached,
    write_file,
)

HOLD = """
import sys, time
from tl_distributed.files import file_lock
with file_lock(sys.argv[1], job="7"):
    print(flush=True)
    time.sleep(100)
"""


@pytest.fixture
def other_holder(tmp_path):
    """Another process, which holds `tmp_path/lock`."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path, other_holder):
    path = str(tmp_path / "lock")
    with pytest.raises(LockedError) as refused, file_lock(path):
        pass
    holder = refused.value.holder
    assert holder["process"] == other_holder.pid and holder["host"] == os.uname().nodename and holder["job"] == "7"
    assert holder_line(holder).startswith(f"process {other_holder.pid} on {os.uname().nodename}, since 20")
    other_holder.send_signal(signal.SIGKILL)
    other_holder.wait()
    with file_lock(path) as reason:
        assert not reason
    assert not os.listdir(tmp_path)


def test_a_lock_is_for_one_of_a_process_too(tmp_path):
    path = str(tmp_path / "lock")
    with file_lock(path), pytest.raises(LockedError) as refused, file_lock(path):
        pass
    assert refused.value.holder["process"] == os.getpid()
    with pytest.raises(ValueError, match="of the block"), file_lock(path):
        raise ValueError("of the block")
    with file_lock(path) as reason:
        assert not reason


def test_many_that_come_and_go_are_never_two(tmp_path):
    """The holder removes the file at its end, while others have it open already."""
    inside, most, times = [], [], []

    def come_and_go():
        while len(times) < 200:
            try:
                with file_lock(str(tmp_path / "lock")):
                    inside.append(1)
                    most.append(len(inside))
                    times.append(1)
                    inside.pop()
            except LockedError:
                continue

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(times) >= 200


def test_a_lock_whose_folder_was_made_anew_is_left_to_its_holder(tmp_path):
    folder = tmp_path / "build"
    folder.mkdir()
    with file_lock(str(folder / "lock")):
        os.remove(folder / "lock")
        (folder / "lock").write_text("of another")
    assert (folder / "lock").read_text() == "of another"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with file_lock(str(tmp_path / "lock")) as reason:
        assert reason == os.strerror(number)
    with file_lock("ram://somewhere/lock") as reason:
        assert reason == "an object store has no locks"


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events, fsync, rename = [], os.fsync, tf.io.gfile.rename

    def noted_fsync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def noted_rename(source, goal, overwrite):
        events.append("rename")
        rename(source, goal, overwrite=overwrite)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(tf.io.gfile, "rename", noted_rename)
    write_file(str(tmp_path / "results.json"), b"{}")
    written, renamed, folder = events
    assert written.startswith(f"{tmp_path}/results.json.") and renamed == "rename" and folder == str(tmp_path)
    assert os.listdir(tmp_path) == ["results.json"]
    write_file("ram://disk/results.json", b"{}")  # which has nothing to wait for
    assert len(events) == 4


@pytest.mark.parametrize("content", [b"", b"{", b'{"steps": 3', b"[]", b"3", b"\xff\xfe\x00"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    assert read_json(str(path)) is None
    path.write_bytes(b'{"steps": 3}')
    assert read_json(str(path)) == {"steps": 3}
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: damaged, no JSON object") as raised:
        read_json(str(path))
    assert "\n" not in str(raised.value)


def test_why_a_path_cannot_be_reached(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert why_not_reached(f"{tmp_path}/file/dataset.json") == "not a directory"
    assert why_not_reached(f"{tmp_path}/loop/dataset.json") == "too many levels of symbolic links"
    assert why_not_reached(f"{tmp_path}/{'a' * 300}") == "file name too long"
    with pytest.raises(NotADirectoryError):
        path_exists(f"{tmp_path}/file/x")
    assert path_exists(str(tmp_path)) and not path_exists(f"{tmp_path}/nothing") and not path_exists("ram://b/x")
    assert not why_not_reached(f"{tmp_path}/nothing") and not why_not_reached("ram://bucket/x")
