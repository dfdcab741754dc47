"""Errors of disks and file systems, which are the user's to mend: one line, and no traceback."""

import dataclasses
import errno
import os
import pathlib

import pytest

from tl_distributed.errors import UserError, file_error_line, full_disk_to_mend, tensorflow_cause
from tl_distributed.files import write_file
from tl_distributed.settings.command import run_command


@dataclasses.dataclass(frozen=True)
class NoFlags:
    """Of a command that takes none."""


def _run(call) -> None:
    run_command(lambda config, positional: call(), NoFlags, "What it does.", [])


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            'Graph execution error:\n\nDetected at node ones defined at (most recent call last):\n  File "a", line 1, '
            "in g\n\nOOM when allocating tensor\n\t [[{{node ones}}]]\nHint: look.\n",
            "OOM when allocating tensor",
        ),
        ("corrupted record at 0 [Op:IteratorGetNext]", "corrupted record at 0 [Op:IteratorGetNext]"),
        (
            "{{function_node __inference_read_4}} Error in user-defined function passed to MapDataset:3 transformation "
            "with iterator: Iterator::Root::Prefetch::ParallelInterleaveV4[2]::Map: no label\n\t [[{{node parse}}]]",
            "no label",
        ),
        ("Graph execution error:\nDetected at node a\n<stack traces unavailable>\nno label", "no label"),
        ("Graph execution error:\n", "Graph execution error:"),
        ("", ""),
    ],
)
def test_cause_of_a_tensorflow_error(message, cause):
    assert tensorflow_cause(message) == cause


def _python_writes() -> None:
    with pathlib.Path("/dev/full").open("w") as file:
        file.write("a row")


def _tensorflow_writes() -> None:
    import tensorflow as tf

    with tf.io.gfile.GFile("/dev/full", "w") as file:
        file.write("a row")


def _hdf5_writes() -> None:
    raise OSError("Can't synchronously write data (file write failed: errno = 28, 'No space left on device')")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("write", [_python_writes, _tensorflow_writes, _hdf5_writes])
def test_a_full_disk_is_for_the_user_to_mend(write):
    line = r"^runs/a: no space left on device; make room, and start again"
    with pytest.raises(UserError, match=line), full_disk_to_mend("runs/a"):
        write()


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), RuntimeError("out of step"), KeyError("x")])
def test_other_errors_are_none_of_the_disk(error):
    with pytest.raises(type(error)) as caught, full_disk_to_mend("runs/a"):
        raise error
    assert caught.value is error


def _raised(call) -> BaseException:
    with pytest.raises(Exception) as raised:
        call()
    return raised.value


def test_an_error_of_a_file_system_is_one_line_with_the_path(tmp_path, capsys):
    import tensorflow as tf

    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    inside, gfile = f"{tmp_path}/file/out.json", tf.io.gfile
    calls = {
        f"{inside}: not a directory; check the path": [
            pathlib.Path(inside).read_text, lambda: os.listdir(inside), lambda: gfile.GFile(inside, "w").write("x"),
            lambda: tf.io.TFRecordWriter(inside), lambda: gfile.copy(tmp_path / "file", inside),
            lambda: next(iter(tf.data.TFRecordDataset([inside]))), lambda: write_file(inside, b"x"),
        ],
        f"{tmp_path}/file: is not a directory; check the path": [lambda: gfile.makedirs(inside)],
        f"{tmp_path}: is a directory; check the path": [tmp_path.read_text, lambda: gfile.GFile(tmp_path).read()],
        f"{tmp_path}/no: no such file or directory; check the path": [
            (tmp_path / "no").read_text, lambda: gfile.GFile(f"{tmp_path}/no").read(),
        ],
        f"{tmp_path}/loop: too many levels of symbolic links; check the path": [(tmp_path / "loop").read_text],
        "s3://bucket/x: there is no file system s3:// here: paths are local ones or gs://; copy it to one of them": [
            lambda: gfile.exists("s3://bucket/x"), lambda: gfile.makedirs("s3://bucket/x"),
        ],
    }  # fmt: skip
    for line, several in calls.items():
        for call in several:
            assert file_error_line(_raised(call)) == line
            with pytest.raises(SystemExit, match=r"^2$"):
                _run(call)
            assert capsys.readouterr().err == f"error: {line}\n"
    denied = PermissionError(13, "Permission denied", "/root/x")
    assert file_error_line(denied) == (
        "/root/x: permission denied; check who may read and write there, or name another path"
    )


def test_a_quota_that_shows_when_a_file_is_synced_names_the_file(tmp_path, monkeypatch):
    """As on NFS; the system's own error names no file."""

    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    path = f"{tmp_path}/out.json"
    line = f"{path}: disk quota exceeded; make room, or name another path"
    assert file_error_line(_raised(lambda: write_file(path, b"x"))) == line
    assert not os.listdir(tmp_path)


def test_other_errors_are_defects_and_keep_their_traceback():
    import tensorflow as tf

    stray = [
        lambda: tf.ones([2, 3]) @ tf.ones([2, 3]), lambda: tf.constant([1])[3], lambda: os.close(-1),
        lambda: tf.debugging.assert_equal(1, 2, "see https://example.org; Not found"),
        pathlib.Path(os.__file__, "none").read_text,
    ]  # fmt: skip
    for call in stray:
        error = _raised(call)
        assert file_error_line(error) is None
        with pytest.raises(type(error)):
            _run(call)


def test_an_object_stores_error_names_the_object():
    import tensorflow as tf

    message = "Error executing an HTTP request: HTTP response code 403 with body 'no' when reading metadata of gs://b/x"
    line = file_error_line(tf.errors.PermissionDeniedError(None, None, message))
    assert line.startswith("gs://b/x: error executing an HTTP request: HTTP response code 403")
