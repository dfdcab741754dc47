"""The ids of a data set's images: the name of each in its source, e.g. `train/cat/0001.jpg`.

They lie beside the shards, one file a split: `ids-test.jsonl`, a line an image, each line a JSON string in ASCII, so
that any name is on one line. Line i is of the split's record i, counted from shard to shard; of version 1, of record
`i // num_shards` of shard `i % num_shards`. `dataset.json` names the files in `details.ids`; data sets of before have
none.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator

from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError

DETAIL = "ids"  # in `DatasetInfo.details`


@dataclasses.dataclass(frozen=True)
class IdsFile:
    """One file of ids: its name in the folder, size in bytes and SHA-256 in hex."""

    file: str
    num_bytes: int
    sha256: str


def ids_name(split: str) -> str:
    """Returns e.g. `ids-test.jsonl`."""
    return f"ids-{split}.jsonl"


def id_lines(ids: Iterable[str]) -> Iterator[str]:
    """Yields the line of each id."""
    return (json.dumps(one) + "\n" for one in ids)


def ids_file(info: DatasetInfo, split: str) -> IdsFile | None:
    """Returns the file that holds the ids of a split, or nothing where the data set has none."""
    described = info.details.get(DETAIL, {})
    return IdsFile(**described[split]) if split in described else None


def read_ids(data_dir: str, info: DatasetInfo, split: str) -> list[str] | None:
    """Reads the ids of a split in the order of its examples, the shards end to end.

    Returns:
      One for each example, or nothing where the data set has no ids.

    Raises:
      UserError: The file is missing, damaged, or has not one id for each example.
    """
    ids = ids_as_written(data_dir, info, split)
    if not ids:
        return ids
    if info.is_indexed:
        return ids
    num_shards = len(info.splits[split].shards)
    return [one for shard in range(num_shards) for one in ids[shard::num_shards]]


def ids_as_written(data_dir: str, info: DatasetInfo, split: str) -> list[str] | None:
    """As `read_ids`, in the order of the file."""
    described = ids_file(info, split)
    if described is None:
        return None
    path, num_examples = f"{data_dir.rstrip('/')}/{described.file}", info.splits[split].num_examples
    ids = _read_lines(path)
    if len(ids) != num_examples:
        raise UserError(
            f"{path}: {len(ids):,} ids, split {split} has {num_examples:,} examples; build the data set again with "
            "--overwrite"
        )
    return ids


def _read_lines(path: str) -> list[str]:
    import tensorflow as tf

    ids: list[str] = []
    try:
        with tf.io.gfile.GFile(path) as file:
            for line in file:
                one = json.loads(line)
                if not isinstance(one, str):
                    raise ValueError("not a JSON string")
                ids.append(one)
    except ValueError as error:
        raise UserError(f"{path}: line {len(ids) + 1} is no id ({error})") from None
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot be read ({error.message})") from None
    return ids
