"""Settings of the data that a run reads, and how."""

import dataclasses

from tl_distributed.settings.flags import setting

INPUT = "Data and input"
BLOCK_RECORDS = 1000  # that `shuffle_blocks` counts in


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Flags of the input."""

    data_dir: str = setting("data/cifar10", "Folder that data_prep.build_tfrecords wrote.", topic=INPUT)
    data_copy_dir: str = setting(
        "", "Folder with a copy of --data_dir on a nearer disk, from which the shards are read.", topic=INPUT
    )
    input_mode: str = setting(
        "auto", "memory holds the splits as uint8 on the host, decoded, device the training split on each device that "
        "trains as well, disk reads each batch's records from the shards; auto is memory or disk, by size and free "
        "memory. All give the same batches. stream is the former name of disk.",
        topic=INPUT, choices=("auto", "memory", "device", "disk", "stream"),
    )  # fmt: skip
    shuffle_blocks: int = setting(
        0, f"Shuffle the records of this many blocks of {BLOCK_RECORDS:,} at a time, so that those read together lie "
        "near one another, for network file systems and buckets; 0 shuffles all of them.", topic=INPUT, minimum=0,
    )  # fmt: skip
    images_per_class: int = setting(
        0, "Train on this many images of each class, chosen by --seed (more images include the fewer) and held in "
        "memory; 0 is all.", topic=INPUT, minimum=0,
    )  # fmt: skip
    shuffle_buffer_examples: int = setting(
        16384, "Of version 1; has no effect any more, since no mode needs a window. See --shuffle_blocks.",
        topic=INPUT, minimum=1,
    )  # fmt: skip

    @property
    def shard_dir(self) -> str:
        """The folder from which shards are read."""
        return self.data_copy_dir or self.data_dir
