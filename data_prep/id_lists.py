"""Writes the ids of each split beside its shards; see `tl_distributed.data.ids`."""

import dataclasses
import os
from typing import Any

import numpy as np

from data_prep.id_file import IdFile
from tl_distributed.data.ids import IdsFile, id_lines, ids_name
from tl_distributed.files import hash_file

_BLOCK = 10_000


def write_ids(folder: str, orders: dict[str, np.ndarray], ids: IdFile) -> dict[str, dict[str, Any]]:
    """Writes one file a split, in the order in which its records are written, and describes each as JSON values.

    Args:
      folder: Local, of the build.
      orders: Of each split, the indices of its images.
      ids: Of all images.
    """
    described = {}
    for split, order in orders.items():
        path = os.path.join(folder, ids_name(split))
        with open(path, "x", encoding="ascii") as file:
            for start in range(0, len(order), _BLOCK):
                file.writelines(id_lines(ids.read(order[start : start + _BLOCK])))
            file.flush()
            os.fsync(file.fileno())
        digest, num_bytes = hash_file(path)
        described[split] = dataclasses.asdict(IdsFile(ids_name(split), num_bytes, digest))
    return described
