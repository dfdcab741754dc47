"""Settings of the data that a run reads, and how."""

import dataclasses

from tl_distributed.settings.flags import setting

INPUT = "Data and input"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Flags of the input."""

    data_dir: str = setting("data/cifar10", "Folder that data_prep.build_tfrecords wrote.", topic=INPUT)
    data_copy_dir: str = setting(
        "", "Folder with a copy of --data_dir on a nearer disk, from which the shards are read.", topic=INPUT
    )
    input_mode: str = setting(
        "auto", "memory holds the splits as uint8 on the host, device the training split on each device that trains as "
        "well, stream reads shards; auto is memory or stream, by size and free memory.",
        topic=INPUT, choices=("auto", "memory", "device", "stream"),
    )  # fmt: skip
    images_per_class: int = setting(
        0, "Train on this many images of each class, chosen by --seed (more images include the fewer) and held in "
        "memory; 0 is all.", topic=INPUT, minimum=0,
    )  # fmt: skip
    shuffle_buffer_examples: int = setting(
        16384,
        "stream: examples held for shuffling, at most 512 MiB of them; takes four times their bytes, and 0.2 GB.",
        topic=INPUT,
        minimum=1,
    )

    @property
    def shard_dir(self) -> str:
        """The folder from which shards are read."""
        return self.data_copy_dir or self.data_dir
