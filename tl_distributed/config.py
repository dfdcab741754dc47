"""Every flag of a run beside its field: one frozen, validated dataclass, with the one default of each setting.

No TensorFlow here: a wrong flag is refused before any device is touched. Settings whose default is `None`
are resolved by `Config.resolved` from the others (and from the data set's image size).
"""

import dataclasses
from collections.abc import Sequence

from tl_distributed.commandline import setting
from tl_distributed.config_checks import check_settings
from tl_distributed.models.backbones import get_backbone
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS, AugmentSettings
from tl_distributed.recipes import expand_recipes

MODEL, TRANSFER, BANK, PIXELS, OPTIMIZATION, DEVICES, WORKERS, INPUT, RUN = (
    "Model", "Transfer", "Feature bank", "Pixels and augmentation", "Optimization", "Devices", "Workers",
    "Data and input", "Run",
)  # fmt: skip
_FROM_SET = "by default as --augment says"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one training run. `None` means: resolved from other settings (`resolved`)."""

    backbone: str = setting("mobilenet_v2", "Backbone; --backbone=list prints them all.", topic=MODEL)
    weights: str | None = setting(
        None,
        "imagenet, none, or PATH of a Keras weights file, a .keras model or a run's workdir. Default: imagenet, or "
        "none where the backbone has no ImageNet weights or --transfer=scratch.",
        topic=MODEL,
    )
    pooling: str = setting("avg", "From feature map to vector.", topic=MODEL, choices=("avg", "max", "flatten"))
    head_units: tuple[int, ...] = setting((), "Hidden ReLU layers of the head, e.g. 256 or 512,128.", topic=MODEL)
    dropout: float = setting(
        0.2, "Share of the head's inputs dropped in training.", topic=MODEL, minimum=0, maximum=0.95
    )

    batch_norm_momentum: float = setting(
        0.0,
        "Momentum of BatchNorm's moving statistics; 0 keeps the backbone's own, which may be too slow for a short "
        "run (MobileNetV2: 0.999).",
        topic=MODEL,
        minimum=0,
        maximum=0.9999,
    )

    transfer: str | None = setting(
        None,
        "What trains: scratch (everything, from random weights), frozen (the head), partial (the head and the last "
        "layers), full (everything), two_phase (the head first, then everything or the last layers). "
        "Default: two_phase, or scratch where there are no weights.",
        topic=TRANSFER,
        choices=("scratch", "frozen", "partial", "full", "two_phase"),
    )
    unfreeze_last_layers: int = setting(
        0, "partial, two_phase: train the backbone's last N layers.", topic=TRANSFER, minimum=0
    )
    unfreeze_from: str = setting("", "partial, two_phase: train the backbone from this layer on.", topic=TRANSFER)

    feature_bank: str = setting(
        "auto",
        "Compute once what the frozen layers make of each image, and train the rest from it; auto does so where it "
        "pays.",
        topic=BANK, choices=("auto", "on", "off"),
    )  # fmt: skip
    bank_views: int = setting(
        0,
        "With augmentation: bank this many fixed random views of each training image, shown in turn (an "
        "approximation); 0 banks unaugmented training only.",
        topic=BANK, minimum=0, maximum=100,
    )  # fmt: skip
    bank_dtype: str = setting(
        "auto",
        "Type of the banked features; auto keeps the one that they are computed in, so nothing is lost; bfloat16 "
        "takes half of float32's space.",
        topic=BANK, choices=("auto", "float32", "bfloat16"),
    )  # fmt: skip
    bank_mode: str = setting(
        "auto", "Read the bank into memory, or stream it from its files; auto goes by size and free memory.",
        topic=BANK, choices=("auto", "memory", "stream"),
    )  # fmt: skip
    bank_dir: str = setting(
        "", "Folder of the banks, which runs may share; by default WORKDIR/feature_bank.", topic=BANK
    )

    image_size: int = setting(
        0, "Side in pixels that the backbone sees; 0 is the backbone's own.", topic=PIXELS, minimum=0, maximum=2048
    )
    augment: str = setting("basic", "Named set of augmentations.", topic=PIXELS, choices=tuple(NAMED_AUGMENTATIONS))
    horizontal_flip: bool | None = setting(None, f"Mirror half of the images; {_FROM_SET}.", topic=PIXELS)
    crop_padding_pixels: int | None = setting(
        None, f"Pad by this many source pixels, crop back; {_FROM_SET}.", topic=PIXELS, minimum=0
    )
    resized_crop_min_area: float | None = setting(
        None, f"Smallest share of the area that a random resized crop keeps, 1 is off; {_FROM_SET}.",
        topic=PIXELS, minimum=0.01, maximum=1,
    )  # fmt: skip
    width_shift_fraction: float | None = setting(
        None, f"Largest horizontal shift, as a share of the width; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=0.9
    )
    height_shift_fraction: float | None = setting(
        None, f"Largest vertical shift, as a share of the height; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=0.9
    )
    zoom_fraction: float | None = setting(
        None, f"Largest zoom in or out, as a share of the size; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=0.9
    )
    rotation_degrees: float | None = setting(
        None, f"Largest rotation either way; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=180
    )
    brightness_fraction: float | None = setting(
        None, f"Largest change of brightness, as a share of 255; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=1
    )
    contrast_fraction: float | None = setting(
        None, f"Largest change of contrast; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=1
    )
    saturation_fraction: float | None = setting(
        None, f"Largest change of saturation; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=1
    )
    random_erasing_probability: float | None = setting(
        None, f"Share of images in which a rectangle is erased; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=1
    )
    mixup: float | None = setting(
        None, f"Alpha of MixUp's Beta distribution, 0 is off; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=10
    )
    cutmix: float | None = setting(
        None, f"Alpha of CutMix's Beta distribution, 0 is off; {_FROM_SET}.", topic=PIXELS, minimum=0, maximum=10
    )

    epochs: int = setting(10, "Epochs of the main phase.", topic=OPTIMIZATION, minimum=1)
    head_epochs: int = setting(
        3, "two_phase: epochs in which only the head trains, before the main phase.", topic=OPTIMIZATION, minimum=1
    )
    min_steps: int = setting(
        0, "Steps that each phase takes at least: small training sets, as of --images_per_class, then get more epochs.",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    global_batch_size: int = setting(128, "Images in a step, over all replicas.", topic=OPTIMIZATION, minimum=1)
    learning_rate: float = setting(
        1e-3, "Peak rate where only new weights train (scratch, frozen, two_phase's head).",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    finetune_learning_rate: float = setting(
        1e-4, "Peak rate where pretrained weights train (partial, full, two_phase's main phase).",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    optimizer: str = setting(
        "adamw", "Keras optimizer.", topic=OPTIMIZATION, choices=("adam", "adamw", "sgd", "lamb", "lion")
    )
    momentum: float = setting(0.9, "sgd: Nesterov momentum.", topic=OPTIMIZATION, minimum=0, maximum=0.9999)
    schedule: str = setting(
        "cosine", "Course of the rate within a phase, after warm-up; step divides by 10 at 1/2 and 3/4.",
        topic=OPTIMIZATION, choices=("constant", "cosine", "linear", "step"),
    )  # fmt: skip
    warmup_epochs: float = setting(
        0.0, "Epochs of linear warm-up at the start of each phase.", topic=OPTIMIZATION, minimum=0
    )
    layer_decay: float = setting(
        1.0, "Factor on the rate from each block of the backbone to the block below; the head keeps the full rate, "
        "1 is off.", topic=OPTIMIZATION, minimum=0.01, maximum=1,
    )  # fmt: skip
    weight_decay: float = setting(
        1e-4, "Decoupled decay, times the rate; not on biases, norms and layer scales.", topic=OPTIMIZATION, minimum=0
    )
    clip_norm: float = setting(0.0, "Largest global norm of the gradient; 0 is off.", topic=OPTIMIZATION, minimum=0)
    ema_decay: float = setting(
        0.0, "Decay a step of the averaged weights that are evaluated and saved; 0 is off.",
        topic=OPTIMIZATION, minimum=0, maximum=0.99999,
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, "Share of the label spread evenly over all classes.", topic=OPTIMIZATION, minimum=0, maximum=0.9
    )
    early_stopping_epochs: int = setting(
        0, "End a phase after this many epochs without a better validation accuracy; 0 is off.",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip

    strategy: str = setting(
        "auto", "tf.distribute strategy; auto is mirrored where there are several devices, multi_worker joins several "
        "processes.", topic=DEVICES, choices=("auto", "one_device", "mirrored", "multi_worker"),
    )  # fmt: skip
    virtual_devices: int = setting(
        0, "Split the CPU into N devices, to try replicas without GPUs; 0 is off.", topic=DEVICES, minimum=0, maximum=64
    )
    precision: str = setting(
        "auto", "auto: bfloat16 from compute capability 8.0, float16 at 7.x, float32 elsewhere.",
        topic=DEVICES, choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )  # fmt: skip
    xla: str = setting("auto", "Compile the step; auto is on for GPUs.", topic=DEVICES, choices=("auto", "on", "off"))
    all_reduce_dtype: str = setting(
        "float32", "Type in which gradients travel between replicas.",
        topic=DEVICES, choices=("float32", "bfloat16", "float16"),
    )  # fmt: skip
    gpu_memory_limit_mib: int = setting(
        0, "The most of each GPU's memory to take, at once; 0 takes what is needed, when it is needed.",
        topic=DEVICES, minimum=0,
    )  # fmt: skip
    steps_per_loop: int = setting(
        0, "Steps run in the graph for each call from Python; 0 lets the run choose.", topic=DEVICES, minimum=0
    )

    workers: tuple[str, ...] = setting(
        (), "HOST:PORT of each worker's gRPC server, the chief's first; by default from TF_CONFIG, or from SLURM.",
        topic=WORKERS,
    )  # fmt: skip
    worker_index: int = setting(
        -1, "This process's place in --workers, from 0, which is the chief; -1 without --workers.",
        topic=WORKERS, minimum=-1,
    )  # fmt: skip
    grpc_port: int = setting(
        8888, "SLURM: gRPC port of a node's first worker; its others take the ports that follow.",
        topic=WORKERS, minimum=2, maximum=65535,
    )  # fmt: skip
    control_port: int = setting(
        0, "Port of the chief through which workers check and watch one another; 0 is the one below its gRPC port.",
        topic=WORKERS, minimum=0, maximum=65535,
    )  # fmt: skip
    worker_timeout_seconds: float = setting(
        60.0, "How long workers wait for one another at the start, and for a sign of life later, before all end.",
        topic=WORKERS, minimum=2,
    )  # fmt: skip

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
        16384, "stream: examples held for shuffling; takes four times their bytes, and 0.2 GB.", topic=INPUT, minimum=1
    )

    recipe: str = setting(
        "", "Flags of a published walk-through or of good practice; a later flag wins. --recipe=list prints them all.",
        topic=RUN,
    )  # fmt: skip
    workdir: str = setting(
        "", "Folder of the run; by default runs/RECIPE, or runs/BACKBONE_TRANSFER without one.", topic=RUN
    )
    seed: int = setting(0, "Seed of weights, order, augmentation and dropout.", topic=RUN, minimum=0, maximum=2**31 - 1)
    deterministic: bool = setting(False, "Use deterministic kernels only (slower on GPUs).", topic=RUN)
    checkpoint_every_steps: int = setting(0, "Steps between checkpoints; 0 is once an epoch.", topic=RUN, minimum=0)
    keep_checkpoints: int = setting(2, "Newest checkpoints kept, beside the best.", topic=RUN, minimum=1)
    log_every_steps: int = setting(
        0, "Steps between lines of metrics.jsonl; 0 is about 20 an epoch.", topic=RUN, minimum=0
    )
    resume: str = setting(
        "auto", "auto goes on where the workdir's run stopped; never wants an empty workdir; must wants a checkpoint.",
        topic=RUN, choices=("auto", "never", "must"),
    )  # fmt: skip
    max_steps: int = setting(0, "Stop after this many steps in all, for trying things; 0 is off.", topic=RUN, minimum=0)
    scaling_reference: str = setting(
        "", "Workdir of a run of one replica like this one: its speed is what scaling_efficiency is measured by.",
        topic=RUN,
    )  # fmt: skip
    profile_steps: tuple[int, ...] = setting((), "A,B: profile from step A to B for TensorBoard.", topic=RUN)
    export_h5: str = setting(
        "", "Write the model as this Keras HDF5 file too, e.g. cifar10.h5, in the workdir.", topic=RUN
    )

    @staticmethod
    def expand_arguments(arguments: Sequence[str]) -> list[str]:
        """Puts the flags of `--recipe=NAME` in its place (`commandline.parse_arguments` asks for it)."""
        return expand_recipes(arguments)

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant; single values are checked by their flag."""
        check_settings(self)

    def resolved(self, *, native_size: int) -> "Config":
        """Returns the config with every `None` and every "0 is automatic" of the model filled in.

        Args:
          native_size: Side in pixels of the data set's images, taken by backbones without a size of their own.
        """
        backbone = get_backbone(self.backbone)
        transfer, weights = self.transfer_and_weights()
        augmentation = dataclasses.asdict(self.augment_settings())
        augmentation["mixup"] = augmentation.pop("mixup_alpha")
        augmentation["cutmix"] = augmentation.pop("cutmix_alpha")
        return dataclasses.replace(
            self,
            weights=weights,
            transfer=transfer,
            image_size=self.image_size or backbone.default_size or native_size,
            workdir=self.workdir or f"runs/{self.recipe or f'{self.backbone}_{transfer}'}",
            **augmentation,
        )

    @property
    def shard_dir(self) -> str:
        """The folder from which shards are read."""
        return self.data_copy_dir or self.data_dir

    def transfer_and_weights(self) -> tuple[str, str]:
        """Returns (transfer, weights) with the defaults of both filled in."""
        pretrained = get_backbone(self.backbone).has_imagenet_weights
        weights = self.weights or ("imagenet" if pretrained and self.transfer != "scratch" else "none")
        return self.transfer or ("scratch" if weights == "none" else "two_phase"), weights

    def why_nothing_to_bank(self) -> str:
        """Returns why the settings leave no features to bank, or nothing where they do."""
        transfer, _ = self.transfer_and_weights()
        if transfer in ("scratch", "full"):
            return f"--transfer={transfer} freezes nothing"
        augmentation = self.augment_settings()
        if augmentation.mixes_images:
            return "MixUp and CutMix mix other images in every epoch; --mixup=0 and --cutmix=0 switch them off"
        if augmentation != NAMED_AUGMENTATIONS["none"] and not self.bank_views:
            return "augmentation changes the images in every epoch; --augment=none or --bank_views=K allow it"
        return ""

    def augment_settings(self) -> AugmentSettings:
        """Returns the named set with the flags that were given put over it."""
        named = NAMED_AUGMENTATIONS[self.augment]
        given = {
            field.name: getattr(self, field.name.removesuffix("_alpha"))
            for field in dataclasses.fields(AugmentSettings)
        }
        return dataclasses.replace(named, **{name: value for name, value in given.items() if value is not None})
