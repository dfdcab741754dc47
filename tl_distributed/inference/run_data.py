"""Where the data set of a run is: also after the run, the data set or the folder around both has moved."""

import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tl_distributed.data.records import MANIFEST_FILE, read_manifest
from tl_distributed.errors import UserError
from tl_distributed.files import absolute, read_json


def find_data_dir(workdir: str) -> str:
    """Returns the folder of the very data set that the run in `workdir` was trained on, told by its SHA-256.

    Looked at, in this order: the path as `train` was given it, from the folder of now and from that of then; beside the
    workdir as it was then; and from each folder above the workdir.

    Raises:
      UserError: `workdir` is not that of a run, or no data set there is the run's.
    """
    saved = read_json(f"{workdir}/config.json")
    if saved is None:
        raise UserError(f"--workdir={workdir}: no config.json there; name the folder of a run")
    try:
        folders, digest = list(dict.fromkeys(_candidates(saved, workdir))), saved.get("dataset_sha256")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{workdir}/config.json: not the config of a run; name its data set with --data_dir") from None
    present = [folder for folder in folders if tf.io.gfile.exists(f"{folder}/{MANIFEST_FILE}")]
    for folder in present:
        if digest is None or _digest(folder) == digest:
            return folder
    named = saved["config"]["data_dir"]
    found = f"{present[0]} is another one" if present else f"no {named} from here, nor from the folders above the run"
    raise UserError(f"--workdir={workdir}: its data set is not found ({found}); name it with --data_dir=FOLDER")


def _candidates(saved: dict[str, Any], workdir: str) -> Iterator[str]:
    named, copy = saved["config"]["data_dir"].rstrip("/"), saved["config"].get("data_copy_dir", "")
    then = saved.get("absolute_paths", {})
    yield named
    if "data_dir" in then:
        yield then["data_dir"]
    if copy:
        yield copy.rstrip("/")
    here = absolute(workdir)
    if "://" not in "".join([here, *then.values()]) and {"data_dir", "workdir"} <= set(then):
        yield os.path.normpath(os.path.join(here, os.path.relpath(then["data_dir"], then["workdir"])))
    if absolute(named) == named:
        return
    while (above := os.path.dirname(here)) not in (here, "") and not above.endswith(":"):
        here = above
        yield f"{here.rstrip('/')}/{named}"


def _digest(folder: str) -> str | None:
    try:
        return read_manifest(folder).digest()
    except UserError:
        return None
