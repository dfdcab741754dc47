"""The files of a folder of checkpoints: which there are, and whether they are whole."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.files import matching_files, sync, write_file

_LOG = logging.getLogger(__name__)

DAMAGED = (tf.errors.OpError, RuntimeError, ValueError, TypeError, LookupError)  # what TensorFlow's reader raises
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # how TensorFlow ends the name of a variable's value


def checkpoint_paths(folder: str) -> list[str]:
    """Returns the checkpoints of a folder, the newest first."""
    state = tf.train.get_checkpoint_state(folder)
    paths = reversed(state.all_model_checkpoint_paths) if state else ()
    return [path for path in paths if tf.io.gfile.exists(f"{path}.index")]


def mend_list(folder: str) -> None:
    """Makes a folder's list of its checkpoints anew, of their files, where it is gone or damaged: a copy may lack it.

    TensorFlow takes a list that it cannot read for none, so that a run would begin at its first step in silence.
    """
    try:
        if tf.train.get_checkpoint_state(folder) is not None:
            return
    except ValueError:  # of an empty list, or bytes that are no text
        pass
    found = (path.removesuffix(".index") for path in matching_files(folder, "step-*.index"))
    paths = sorted((path for path in found if _step_of(path).isdigit()), key=lambda path: int(_step_of(path)))
    if paths:
        _LOG.warning("%s/checkpoint, the list of the checkpoints there, is gone or damaged: made anew.", folder)
        _list_as(folder, paths)
    elif tf.io.gfile.exists(f"{folder}/checkpoint"):
        tf.io.gfile.remove(f"{folder}/checkpoint")


def verified_scalars(path: str) -> dict[str, Any]:
    """Reads every tensor of a checkpoint, which compares its checksum; returns the scalars.

    Raises:
      DAMAGED: One of them.
    """
    with checkpoint_reader(path) as reader:
        tensors = ((name, reader.get_tensor(name)) for name in reader.get_variable_to_shape_map())
        return {name: value for name, value in tensors if not np.shape(value)}


@contextlib.contextmanager
def checkpoint_reader(path: str) -> Iterator[Any]:
    """Opens a checkpoint; TensorFlow takes its path for a pattern, so that of `runs/lr[0.1]` is seen through a link."""
    if "://" in path or not any(character in path for character in "*?[\\"):
        yield tf.train.load_checkpoint(path)
        return
    folder, _, name = os.path.abspath(path).rpartition("/")
    with tempfile.TemporaryDirectory() as elsewhere:
        os.symlink(folder, f"{elsewhere}/checkpoints")
        yield tf.train.load_checkpoint(f"{elsewhere}/checkpoints/{name}")


def restore_variables(
    path: str, content: Mapping[str, tf.Variable | Sequence[tf.Variable]], *, besides: Collection[str] | None = ()
) -> None:
    """Puts a checkpoint's values into variables, under the names that `tf.train.Checkpoint(**content)` gives them.

    `tf.train.Checkpoint.restore` takes the path for a pattern, and finds nothing in `runs/lr[0.1]`.

    Args:
      path: Of the checkpoint.
      content: Variables, and lists of them.
      besides: Names that may be there besides; `None` allows any.

    Raises:
      ValueError: Names or shapes that differ; nothing is changed then.
    """
    variables = {}
    for key, value in content.items():
        if isinstance(value, (list, tuple)):
            variables |= {f"{key}/{index}/{VALUE}": variable for index, variable in enumerate(value)}
        else:
            variables[f"{key}/{VALUE}"] = value
    with checkpoint_reader(path) as reader:
        _restore(reader, variables, besides)


def _restore(reader: Any, variables: Mapping[str, tf.Variable], besides: Collection[str] | None) -> None:
    shapes = {name: shape for name, shape in reader.get_variable_to_shape_map().items() if name.endswith(VALUE)}
    if missing := sorted(variables.keys() - shapes.keys()):
        raise ValueError(f"it has no {missing[0]}")
    extra = set() if besides is None else shapes.keys() - variables.keys() - {*besides, f"save_counter/{VALUE}"}
    if extra:
        raise ValueError(f"it has {min(extra)} besides")
    for name, variable in variables.items():
        if list(variable.shape) != list(shapes[name]):
            raise ValueError(f"{name} is of shape {list(shapes[name])} there and {list(variable.shape)} here")
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(name))


def put_aside(folder: str, path: str, error: Exception) -> None:
    """Renames a damaged checkpoint, and takes it off the folder's list."""
    _LOG.warning(
        "DAMAGED CHECKPOINT %s (%s: %s): renamed to *.damaged; the run goes on from the one before, if there is one.",
        path, type(error).__name__, str(error).strip().splitlines()[0],
    )  # fmt: skip
    for file in _files_of(folder, path):
        tf.io.gfile.rename(file, f"{file}.damaged", overwrite=True)
    # The list of a folder is TensorFlow's; `CheckpointManager` would go on with the missing one.
    rest = list(reversed(checkpoint_paths(folder)))
    if rest:
        _list_as(folder, rest)
    else:
        tf.io.gfile.remove(f"{folder}/checkpoint")


def keep_only(folder: str, *, newest: int, steps: Collection[int]) -> None:
    """Deletes the checkpoints of a folder but the newest few and those of some steps.

    `tf.train.CheckpointManager` would take the folder for a pattern, and delete nothing in `runs/lr[0.1]`.
    """
    paths = checkpoint_paths(folder)
    kept = [path for place, path in enumerate(paths) if place < newest or int(_step_of(path)) in steps]
    for path in set(paths) - set(kept):
        for file in _files_of(folder, path):
            tf.io.gfile.remove(file)
    _list_as(folder, list(reversed(kept)))


def _list_as(folder: str, paths: Sequence[str]) -> None:
    """Writes the folder's list, the newest last; by names, so that the folder may be moved."""
    names = [path.rpartition("/")[2] for path in paths]
    # TensorFlow's manager forgets those without a time, and those not later than the last that it "preserved": 0.
    times = [1.0 + place for place in range(len(names))]
    absolute = "/"  # else the names are taken to be relative to where this process is
    state = tf.compat.v1.train.generate_checkpoint_state_proto(
        absolute, names[-1], all_model_checkpoint_paths=names, all_model_checkpoint_timestamps=times
    )
    write_file(f"{folder}/checkpoint", str(state).encode())


def sync_checkpoint(folder: str, path: str) -> None:
    """Waits until a checkpoint is on the disk: only then may those before it be deleted."""
    for file in _files_of(folder, path):
        sync(file)
    sync(folder)


def _step_of(path: str) -> str:
    return path.rpartition("-")[2]


def _files_of(folder: str, path: str) -> list[str]:
    return matching_files(folder, f"{path.rpartition('/')[2]}.*")


def remove_unfinished(folder: str) -> None:
    """Removes what a write that was cut short left: TensorFlow collects a checkpoint in `step-N_temp`."""
    for path in matching_files(folder, "step-*_temp"):
        tf.io.gfile.rmtree(path)
