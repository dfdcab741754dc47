"""The files of a folder of checkpoints: which there are, whether they are whole, and when every worker sees them."""

import logging
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.runtime.workers import Workers

_LOG = logging.getLogger(__name__)

DAMAGED = (tf.errors.OpError, RuntimeError, ValueError, TypeError, LookupError)  # what TensorFlow's reader raises
_VISIBLE_SECONDS = 30.0


def checkpoint_paths(folder: str) -> list[str]:
    """Returns the checkpoints of a folder, the newest first."""
    state = tf.train.get_checkpoint_state(folder)
    paths = reversed(state.all_model_checkpoint_paths) if state else ()
    return [path for path in paths if tf.io.gfile.exists(f"{path}.index")]


def verified_scalars(path: str) -> dict[str, Any]:
    """Reads every tensor of a checkpoint, which compares its checksum; returns the scalars.

    Raises:
      DAMAGED: One of them.
    """
    reader = tf.train.load_checkpoint(path)
    tensors = ((name, reader.get_tensor(name)) for name in reader.get_variable_to_shape_map())
    return {name: value for name, value in tensors if not np.shape(value)}


def put_aside(folder: str, path: str, error: Exception) -> None:
    """Renames a damaged checkpoint, and takes it off the folder's list."""
    _LOG.warning(
        "DAMAGED CHECKPOINT %s (%s: %s): renamed to *.damaged; the run goes on from the one before, if there is one.",
        path, type(error).__name__, str(error).strip().splitlines()[0],
    )  # fmt: skip
    for file in tf.io.gfile.glob(f"{path}.*"):
        tf.io.gfile.rename(file, f"{file}.damaged", overwrite=True)
    # The list of a folder is TensorFlow's; `CheckpointManager` would go on with the missing one.
    rest = list(reversed(checkpoint_paths(folder)))
    if rest:
        tf.compat.v1.train.update_checkpoint_state(folder, rest[-1], rest)
    else:
        tf.io.gfile.remove(f"{folder}/checkpoint")


def wait_until_visible(path: str, workers: Workers) -> None:
    """Waits until this worker sees a file that the chief wrote: a network file system may be late.

    Raises:
      UserError: It does not appear.
    """
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not tf.io.gfile.exists(path):
        if time.monotonic() > deadline:
            raise UserError(
                f"{workers.name(workers.index)} does not see {path}, which {workers.name(0)} wrote; put --workdir on a "
                "file system that all workers share"
            )
        tf.io.gfile.glob(f"{path}*")  # listing the folder makes NFS look again
        time.sleep(0.1)


def remove_unfinished(folder: str) -> None:
    """Removes what a write that was cut short left: TensorFlow collects a checkpoint in `step-N_temp`."""
    for path in tf.io.gfile.glob(f"{folder}/step-*_temp"):
        tf.io.gfile.rmtree(path)
