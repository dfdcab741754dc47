"""Files of any file system: whole or not at all, on the disk when they are said to be, locked; values as JSON."""

import contextlib
import errno
import fnmatch
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tl_distributed.errors import UserError, one_line

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)  # folders of CIFS and of some FUSE mounts


def absolute(path: str) -> str:
    """Returns the path from the root; one with a scheme (`gs://`) is already."""
    return path if not path or "://" in path else os.path.abspath(path)


def to_json_values(value: Any) -> Any:
    """Returns `value` in JSON types.

    Scalars and arrays of numpy and TensorFlow become numbers and lists, NaN and infinities null.

    Raises:
      TypeError: A value of another type.
    """
    if isinstance(value, dict):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json_values(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int)) or value is None:  # bool is an int
        return value
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "numpy"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufUS":  # bfloat16 and its kin
            array = array.astype(np.float32)
        return to_json_values(array.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_json(path: str, value: Any) -> None:
    """Writes `value` as indented JSON (see `to_json_values`); the file appears whole or not at all."""
    text = json.dumps(to_json_values(value), indent=2, allow_nan=False) + "\n"
    write_file(path, text.encode())


def read_json(path: str) -> dict[str, Any] | None:
    """Returns the object that a JSON file holds, or `None` where there is no such file.

    Raises:
      UserError: A file that holds none: it was cut off or written over, since here files appear whole.
    """
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        value = json.loads(content)
    except ValueError as error:
        cause = one_line(error)
    else:
        if isinstance(value, dict):
            return value
        cause = "its content is a value of another kind"
    raise UserError(f"{path}: damaged, no JSON object ({cause}); restore it from a copy, or remove it")


def write_file(path: str, content: bytes) -> None:
    """Writes a file of any file system under a temporary name, then has it take the place of `path`, for good.

    The name is the process's own: the runs of a study may write the same file at the same time.
    """
    import tensorflow as tf

    temporary = f"{path}.{socket.gethostname()}.{os.getpid()}.tmp"
    try:
        with tf.io.gfile.GFile(temporary, "wb") as file:
            file.write(content)
        replace_file(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError, tf.errors.OpError):  # what went wrong before says more
            if tf.io.gfile.exists(temporary):
                tf.io.gfile.remove(temporary)
        raise


def replace_file(temporary: str, path: str) -> None:
    """Renames a file over `path`, such that a power cut leaves the old content or the new one, never an empty file.

    A file system may carry out the rename before the content is on the disk: ext4 and XFS do.
    """
    import tensorflow as tf

    sync(temporary)
    tf.io.gfile.rename(temporary, path, overwrite=True)
    sync(os.path.dirname(path) or ".")


def sync(path: str) -> None:
    """Waits until a local file's content, or a folder's list of names, is on the disk; object stores do so at once."""
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise OSError(error.errno, error.strerror, path) from None  # a quota of NFS, say; the system names no file
    finally:
        os.close(descriptor)


def path_exists(path: str) -> bool:
    """Tells whether there is a file or folder; `tf.io.gfile.exists` takes one out of reach for none.

    A local name may be any bytes, as the system has it.

    Raises:
      OSError: It cannot be told: no permission, a file in a folder's place, links in a circle.
    """
    if is_remote(path):
        import tensorflow as tf

        return tf.io.gfile.exists(path)
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)
        return True
    return False


def is_folder(path: str) -> bool:
    """Tells whether a path is that of a folder; a local name may be any bytes."""
    if is_remote(path):
        import tensorflow as tf

        return tf.io.gfile.isdir(path)
    return os.path.isdir(path)


def why_not_reached(path: str) -> str:
    """Returns why `path_exists` cannot tell, e.g. `permission denied`; nothing where it can."""
    try:
        path_exists(path)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def is_remote(path: str) -> bool:
    """Tells whether a path is of an object store, which only TensorFlow opens."""
    return "://" in path


class LockedError(Exception):
    """Another process holds a lock; `holder` is what it said of itself, empty where that is unknown."""

    def __init__(self, holder: dict[str, Any]):
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def file_lock(path: str, **about: Any) -> Iterator[str]:
    """Holds a lock, which the system frees however this process ends; the file at `path` names the holder meanwhile.

    By `flock`, which Linux turns into a lock of the file's server on NFS, so that other hosts see it too.

    Args:
      path: Of a file of its own, in a folder that is there.
      **about: What is noted of the holder beside its `host`, `process` and `since`; JSON values.

    Yields:
      Why there is no lock, where the file system has none: ENOLCK of an NFS server without its lock daemon, ENOSYS or
      EOPNOTSUPP of Lustre without `-o flock` and of some FUSE mounts, an object store. Else nothing.

    Raises:
      LockedError: Another holds it.
      OSError: The file cannot be made.
    """
    if is_remote(path):
        yield "an object store has no locks"
        return
    file, reason = _take_lock(path)
    with file:
        if reason:
            yield reason
            return
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
        file.truncate(0)
        file.write(json.dumps({**holder, **about}).encode())
        file.flush()
        os.fsync(file.fileno())  # for readers on other hosts
        try:
            yield ""
        finally:
            if _is_at(path, file):  # else its folder has gone, and another may hold a new one
                os.remove(path)


def _take_lock(path: str) -> tuple[Any, str]:
    """Returns the locked file, or the file and why it cannot be locked."""
    import fcntl

    while True:
        file = open(path, "a+b")  # noqa: SIM115 - the caller's
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise LockedError(_holder(file.read())) from None
        except OSError as error:
            return file, error.strerror or str(error)
        if _is_at(path, file):
            return file, ""
        file.close()  # the holder before removed it between the two calls


def _is_at(path: str, file: Any) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _holder(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):  # it is being written
        return {}


def holder_line(holder: dict[str, Any]) -> str:
    """Returns e.g. `process 4711 on node7, since 2026-08-01 10:00:00 CEST`."""
    if not {"process", "host", "since"} <= holder.keys():
        return "another process"
    return f"process {holder['process']} on {holder['host']}, since {holder['since']}"


def matching_files(folder: str, pattern: str) -> list[str]:
    """Returns the paths in a folder whose names match a pattern of `fnmatch`, sorted; none where there is no folder.

    Unlike `tf.io.gfile.glob`, to which the folder is a pattern too: `runs/lr[0.1]` is a path that people choose.
    """
    import tensorflow as tf

    if not tf.io.gfile.isdir(folder):
        return []
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(folder))  # a bucket's folders end in one
    return [f"{folder}/{name}" for name in sorted(names) if fnmatch.fnmatchcase(name, pattern)]


def hash_file(path: str) -> tuple[str, int]:
    """Returns (SHA-256 in hex, size in bytes) of the file at any path that TensorFlow reads."""
    import tensorflow as tf

    digest, num_bytes = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(4 * 2**20):
            digest.update(block)
            num_bytes += len(block)
    return digest.hexdigest(), num_bytes
