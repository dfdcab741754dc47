"""Files of any file system, whole or not at all, and values as JSON."""

import fnmatch
import hashlib
import json
import math
import os
import socket
from typing import Any

import numpy as np


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


def read_json(path: str) -> Any:
    """Returns the content of a JSON file, or `None` where there is none."""
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())


def write_file(path: str, content: bytes) -> None:
    """Writes a file of any file system under a temporary name, then renames it over `path`.

    The name is the process's own: the runs of a study may write the same file at the same time.
    """
    import tensorflow as tf

    temporary = f"{path}.{socket.gethostname()}.{os.getpid()}.tmp"
    try:
        with tf.io.gfile.GFile(temporary, "wb") as file:
            file.write(content)
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)
        raise


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
