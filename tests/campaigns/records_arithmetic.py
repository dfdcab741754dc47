"""Prints what large data sets take to store, build and read on 1, 8 and 100 nodes: arithmetic on paper.

  python tests/campaigns/records_arithmetic.py

Bytes and speeds of a core are the flags' values, measured on small sets as docs/performance/scaling.md says; nothing
was built or read at these sizes, and on several nodes.
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tl_distributed.data.storage import MOST_SHARDS, SHARD_BYTES
from tl_distributed.settings.command import refuse_positional, run_command
from tl_distributed.settings.flags import setting

_KILO, _MEGA, _GIGA = 1e3, 1e6, 1e9
_INDEX_BYTES = 8  # a record, on the disk; and mapped, not held, while it is read
_BUILD_BYTES = 70 + 16 + 8  # a picture, in the memory of the process that plans a build: index, id, place in the order


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordsConfig:
    pictures: tuple[int, ...] = setting((1_281_167, 14_197_122), "Of the sets.", topic="Flags", minimum=1)
    nodes: tuple[int, ...] = setting((1, 8, 100), "Nodes.", topic="Flags", minimum=1)
    cores: int = setting(96, "Cores of a node.", topic="Flags", minimum=1)
    gpus: int = setting(8, "GPUs of a node.", topic="Flags", minimum=1)
    gpu_images_per_second: float = setting(1000.0, "That a GPU trains on.", topic="Flags", minimum=1)
    memory_gbytes: float = setting(512.0, "Of a node, that its page cache may take.", topic="Flags", minimum=1)
    jpeg_kbytes: float = setting(50.0, "A picture of --storage=jpeg --image_size=224.", topic="Flags", minimum=0.1)
    original_kbytes: float = setting(110.0, "A picture of --storage=original.", topic="Flags", minimum=0.1)
    pixel_side: int = setting(224, "Of --storage=pixels.", topic="Flags", minimum=1)
    built_per_core: float = setting(300.0, "Pictures a second that a core decodes, shrinks, encodes.", topic="Flags")
    decoded_per_core: float = setting(900.0, "JPEGs a second that a core decodes, of 224 px.", topic="Flags")


def main(config: RecordsConfig, positional: list[str]) -> None:
    refuse_positional(positional)
    print(stored_table(config), "", work_table(config), sep="\n")


def bytes_of(config: RecordsConfig) -> dict[str, float]:
    """Returns the bytes of a picture by storage."""
    return {
        "pixels": 3.0 * config.pixel_side**2,
        "jpeg": config.jpeg_kbytes * _KILO,
        "original": config.original_kbytes * _KILO,
    }


def stored_table(config: RecordsConfig) -> str:
    """Returns what the sets take on a disk, whatever the nodes."""
    lines = [
        "| pictures | storage | bytes | shards | indices | memory of the planning process |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for count in config.pictures:
        for storage, size in bytes_of(config).items():
            shards = min(MOST_SHARDS, -(-int(count * size) // SHARD_BYTES))
            lines.append(
                f"| {count:,} | `{storage}` | {count * size / _GIGA:,.0f} GB | {shards:,} | "
                f"{count * _INDEX_BYTES / _MEGA:,.0f} MB | {count * _BUILD_BYTES / _MEGA:,.0f} MB |"
            )
    return "\n".join(lines)


def work_table(config: RecordsConfig) -> str:
    """Returns what building, and an epoch of training, ask of each node."""
    size = bytes_of(config)["jpeg"]
    rate = config.gpus * config.gpu_images_per_second
    lines = [
        "| pictures | nodes | building | an epoch | a node reads | cores that decode | of the set in its page cache |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in config.pictures:
        for nodes in config.nodes:
            held = min(1.0, config.memory_gbytes * _GIGA / (count * size))
            lines.append(
                f"| {count:,} | {nodes} | {_time(count / (nodes * config.cores * config.built_per_core))} | "
                f"{_time(count / (nodes * rate))} | {rate * size / _MEGA:,.0f} MB/s | "
                f"{rate / config.decoded_per_core:.0f} of {config.cores} | {held:.0%} |"
            )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    run_command(main, RecordsConfig, __doc__)
