"""Reads the file of an offline run of Weights & Biases: records of a LevelDB log, each a protocol buffer of its own."""

import dataclasses
import json
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

_FILE_HEADER, _BLOCK, _HEADER = 7, 32768, 7  # bytes; a record's header is a checksum, a length and a kind
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclasses.dataclass
class WandbStart:
    """What one start of a run wrote; `exit_code` is `None` where it never ended."""

    run_id: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    points: list[tuple[int, str, float]] = dataclasses.field(default_factory=list)
    exit_code: int | None = None


def read_wandb(path: pathlib.Path) -> WandbStart:
    """Returns its number, settings, and points as (step, tag, value)."""
    from wandb.proto.wandb_internal_pb2 import Record

    start = WandbStart()
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            start.run_id = record.run.run_id
            start.config = {
                item.key: json.loads(item.value_json) for item in record.run.config.update if item.key != "_wandb"
            }
        elif kind == "history":
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            step = int(values.pop("_step"))
            start.points += [(step, tag, value) for tag, value in values.items() if not tag.startswith("_")]
        elif kind == "exit":
            start.exit_code = record.exit.exit_code
    return start


def _records(content: bytes) -> Iterator[bytes]:
    place, parts = _FILE_HEADER, []
    while place + _HEADER <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEADER])
        parts.append(content[place + _HEADER : place + _HEADER + length])
        place += _HEADER + length
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
