"""Flags of `python -m tl_distributed.benchmark`; imports no TensorFlow."""

import dataclasses
import sys

from tl_distributed.data.settings import DataSettings
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_counted_backbone
from tl_distributed.settings.flags import borrowed, setting

MEASURING, MODEL, DEVICES, DATA = "Measuring", "Model", "Devices", "Data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring:
    """Flags that every sub-command has."""

    output: str = setting("", "Write every single measurement as this JSON file too.", topic=MEASURING)
    repeats: int = setting(
        5, "Turns of each contender; they take turns, A B A B.", topic=MEASURING, minimum=1, maximum=1000
    )
    contenders: tuple[str, ...] = setting((), "Measure these only; by default all.", topic=MEASURING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig(Measuring):
    """Flags of `step`, and of `peers` and `scaling`."""

    steps: int = setting(10, "Steps of a turn.", topic=MEASURING, minimum=1)
    mode: str = setting(
        "train", "train: forward, backward and update; forward: inference.", topic=MEASURING,
        choices=("train", "forward"),
    )  # fmt: skip
    backbone: str = setting("mobilenet_v2", "Backbone, with random weights.", topic=MODEL)
    image_size: int = setting(96, "Side in pixels that the backbone sees.", topic=MODEL, minimum=8)
    global_batch_size: int = setting(64, "Images in a step, over all replicas.", topic=MODEL, minimum=1)
    augment: str = setting(
        "basic", "basic mirrors half of the images and crops them after padding by 4.", topic=MODEL,
        choices=("none", "basic"),
    )  # fmt: skip
    precision: str = setting(
        "auto", "As train takes it.", topic=DEVICES, choices=("auto", "float32", "mixed_bfloat16", "mixed_float16")
    )
    input_mode: str = setting("memory", "Of our step, as train takes it.", topic=DEVICES, choices=("memory", "device"))
    xla: str = setting("auto", "Of our step, as train takes it.", topic=DEVICES, choices=("auto", "on", "off"))
    replicas: int = setting(
        0, "Replicas: GPUs, or virtual devices of the CPU; 0 is all GPUs, or the CPU as one.", topic=DEVICES, minimum=0
    )
    native_size: int = setting(32, "Side in pixels of the stored images.", topic=DATA, minimum=8)
    images: int = setting(2048, "Random images in the training split.", topic=DATA, minimum=1)
    torch_python: str = setting(
        sys.executable, "Python that has torch and timm, where they live in an environment of their own.", topic=DEVICES
    )

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be."""
        backbone = get_counted_backbone(self.backbone)
        if self.image_size < backbone.minimum_size:
            raise UserError(
                f"--image_size={self.image_size}: {self.backbone} takes {backbone.minimum_size} pixels or more"
            )
        if self.replicas and self.global_batch_size % self.replicas:
            raise UserError(
                f"--global_batch_size={self.global_batch_size} does not divide by --replicas={self.replicas}"
            )
        if self.input_mode == "device" and self.mode == "forward":
            raise UserError("--input_mode=device: of --mode=train alone")
        if self.images < self.global_batch_size:
            raise UserError(
                f"--images={self.images} do not fill a batch of --global_batch_size={self.global_batch_size}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig(StepConfig):
    """Flags of `scaling`."""

    replica_counts: tuple[int, ...] = setting((1, 2), "Replicas in one process.", topic=DEVICES, minimum=1)
    worker_counts: tuple[int, ...] = setting(
        (2,), "Processes on this machine that train together, a replica each (multi_worker).", topic=DEVICES, minimum=2
    )
    per_replica: bool = setting(
        False, "Keep the batch of a replica (--global_batch_size is then one replica's), instead of the global one.",
        topic=MODEL,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputConfig(Measuring):
    """Flags of `input`."""

    what: str = setting(
        "read", "read: training batches from shards; build: shards from images; growth: reading by size of the set.",
        topic=MEASURING, choices=("read", "build", "growth"),
    )  # fmt: skip
    seconds: float = setting(6.0, "A turn reads whole epochs until it has taken this long.", topic=MEASURING, minimum=0)
    records: int = setting(50_000, "Images.", topic=DATA, minimum=64)
    growth_records: tuple[int, ...] = setting(
        (1_000, 10_000, 100_000, 1_000_000), "growth: sizes of the set.", topic=DATA, minimum=64
    )
    native_size: int = setting(32, "Side in pixels of the stored images.", topic=DATA, minimum=8, maximum=1024)
    image_size: int = setting(224, "Side to which the tutorials resize on the CPU.", topic=DATA, minimum=8)
    global_batch_size: int = setting(256, "Images in a batch.", topic=DATA, minimum=1)
    num_shards: int = setting(16, "Files.", topic=DATA, minimum=1)
    storage: str = setting("pixels", "read: raw pixels, or pictures as JPEG.", topic=DATA, choices=("pixels", "jpeg"))
    shuffle_buffer_examples: int = setting(
        16384, "Of version 1; has no effect any more, as of train.", topic=DATA, minimum=1
    )
    folder: str = setting(
        "", "Where the synthetic shards are written, and found again; by default a temporary folder.", topic=DATA
    )
    torch_python: str = setting(
        sys.executable, "read: Python that has torch, where it lives in an environment of its own.", topic=DATA
    )
    grain_python: str = setting(sys.executable, "read: likewise of grain and array_record.", topic=DATA)
    plot: str = setting("", "growth: write the plot as this PNG file.", topic=MEASURING)

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be."""
        smallest = min(self.growth_records) if self.what == "growth" else self.records
        if self.what != "build" and smallest < self.global_batch_size:
            raise UserError(f"{smallest} records do not fill a batch of --global_batch_size={self.global_batch_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelsConfig(Measuring):
    """Flags of `pixels`."""

    batches: int = setting(20, "Batches of a turn.", topic=MEASURING, minimum=1)
    native_size: int = setting(32, "Side in pixels of the stored images.", topic=DATA, minimum=8, maximum=2048)
    image_size: int = setting(224, "Side in pixels of the result.", topic=DATA, minimum=8, maximum=2048)
    batch_size: int = setting(64, "Images in a batch.", topic=DATA, minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartupConfig(Measuring):
    """Flags of `startup`."""

    backbone: str = setting("mobilenet_v2", "Backbone, with random weights.", topic=MODEL)
    image_size: int = setting(96, "Side in pixels.", topic=MODEL, minimum=8)
    global_batch_size: int = setting(32, "Images in a step.", topic=MODEL, minimum=1)

    def validate(self) -> None:
        """Raises `UserError` for a backbone or a size that cannot be."""
        backbone = get_counted_backbone(self.backbone)
        if self.image_size < backbone.minimum_size:
            raise UserError(
                f"--image_size={self.image_size}: {self.backbone} takes {backbone.minimum_size} pixels or more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenConfig(Measuring):
    """Flags of `frozen`."""

    repeats: int = setting(3, "Pairs of runs of each way of transferring.", topic=MEASURING, minimum=1)
    data_dir: str = borrowed(DataSettings, "data_dir", topic=DATA)
    weights: str = setting("", "Keras weights file of the backbone without its top.", topic=MODEL)
    backbone: str = setting("mobilenet_v2", "Backbone.", topic=MODEL)
    transfers: tuple[str, ...] = setting(
        ("frozen", "partial"), "What to compare.", topic=MODEL, choices=("frozen", "partial")
    )
    unfreeze_last_layers: int = setting(30, "partial: how many layers of the backbone train.", topic=MODEL, minimum=1)
    image_size: int = setting(96, "Side in pixels.", topic=MODEL, minimum=8)
    epochs: int = setting(20, "Epochs.", topic=MODEL, minimum=1)
    global_batch_size: int = setting(32, "Images in a step.", topic=MODEL, minimum=1)

    def validate(self) -> None:
        """Raises `UserError` for a missing file or an unknown backbone."""
        get_counted_backbone(self.backbone)
        if not self.weights:
            raise UserError("--weights: frozen and partial train on pretrained features; name a Keras weights file")
