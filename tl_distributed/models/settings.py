"""Settings of the model: which backbone, its weights and head, and what of it trains."""

import dataclasses

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import NORMALIZATIONS, Backbone, get_backbone
from tl_distributed.models.hub_files import is_hub, preset_sources
from tl_distributed.models.plugins import import_plugins, is_own, modules_of, sources_of
from tl_distributed.settings.flags import setting

MODEL, TRANSFER = "Model", "Transfer"
_OF_NEW_HEAD = ("head_units", "pooling", "dropout", "reset_head")
_KEEP_BATCH_NORM = ("partial", "lora", "full", "two_phase")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Flags of the model. `None` is filled in by `transfer_and_weights`."""

    backbone: str = setting(
        "mobilenet_v2",
        "Backbone; --backbone=list prints them all. Or hub:PRESET or hub:FOLDER of KerasHub. Or MODULE:FUNCTION of "
        "your own, which maps an image side in pixels to a keras.Model from float32 images to features, or with "
        "--head=own to logits.",
        topic=MODEL,
    )
    weights: str | None = setting(
        None,
        "imagenet, none, own (what a backbone of your own returns), or PATH of a Keras weights file, a .keras model or "
        "a run's workdir. Default: imagenet or own, or none where the backbone has none or --transfer=scratch. A head "
        "of the same classes is kept.",
        topic=MODEL,
    )
    reset_head: bool = setting(
        False, "Begin with a new head also where --weights=PATH has one of the same classes.", topic=MODEL
    )
    pooling: str = setting(
        "avg", "From feature map or tokens to vector; cls takes the first token.", topic=MODEL,
        choices=("avg", "max", "flatten", "cls"),
    )  # fmt: skip
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
    head: str = setting(
        "new", "new: a head on the backbone's features; own: the model of --backbone=MODULE:FUNCTION ends in logits.",
        topic=MODEL, choices=("new", "own"),
    )  # fmt: skip
    normalization: str = setting(
        "",
        "What --backbone=MODULE:FUNCTION expects of an image: tf [-1, 1], torch or caffe (ImageNet's mean), internal "
        "[0, 255], or MODULE:FUNCTION from images [batch, height, width, 3] float32 in [0, 255], by keras.ops.",
        topic=MODEL,
    )
    pretrained: bool = setting(
        False, "The weights that --backbone=MODULE:FUNCTION returns are worth keeping.", topic=MODEL
    )
    plugin: tuple[str, ...] = setting(
        (), "Modules that are imported first; they may register backbones (tl_distributed.register_backbone).",
        topic=MODEL,
    )  # fmt: skip
    transfer: str | None = setting(
        None,
        "What trains: scratch (everything, from random weights), frozen (the head), partial (the head and the last "
        "layers), norms (the head, normalisation layers and biases), lora (the head, and low-rank updates of the "
        "frozen backbone's kernels, merged where the model is saved), full (everything), two_phase (the head first, "
        "then everything or the last layers). Default: two_phase, or scratch where there are no weights.",
        topic=TRANSFER,
        choices=("scratch", "frozen", "partial", "norms", "lora", "full", "two_phase"),
    )
    lora_rank: int = setting(
        8, "lora: rank of the updates; more is nearer to full.", topic=TRANSFER, minimum=1, maximum=1024
    )
    unfreeze_last_layers: int = setting(
        0, "partial, two_phase: train the backbone's last N layers.", topic=TRANSFER, minimum=0
    )
    unfreeze_from: str = setting("", "partial, two_phase: train the backbone from this layer on.", topic=TRANSFER)
    batch_norm: str | None = setting(
        None,
        "What the backbone's BatchNorm layers do while the layers around them train: frozen (stay as pretrained, in "
        "inference mode) or train. Default: frozen for partial, lora, full and two_phase, unless "
        "--batch_norm_momentum is given; else train.",
        topic=TRANSFER,
        choices=("frozen", "train"),
    )

    def backbone_row(self) -> Backbone:
        """Returns the backbone's row, of one's own with what the settings say of it."""
        backbone = get_backbone(self.backbone)
        if not is_own(self.backbone):
            return backbone
        named = self.normalization in NORMALIZATIONS  # a function becomes a part of the network
        normalization = self.normalization if named else "internal"
        return dataclasses.replace(backbone, normalization=normalization, pretrained=self.pretrained)

    def plugin_modules(self) -> list[str]:
        """Returns the names of the modules of one's own that the settings name, without importing them."""
        return modules_of(self._may_name_modules())

    def plugin_sources(self) -> dict[str, str]:
        """Returns the SHA-256 of the source of each module of one's own, and of a preset of KerasHub, by its name."""
        preset = preset_sources(self.backbone) if is_hub(self.backbone) else {}
        return {**sources_of(self._may_name_modules()), **preset}

    def _may_name_modules(self) -> dict[str, str | tuple[str, ...]]:
        return {name: getattr(self, name) for name in ("backbone", "normalization", "plugin")}

    def transfer_and_weights(self) -> tuple[str, str]:
        """Returns (transfer, weights) with the defaults of both filled in."""
        row = self.backbone_row()
        best = "imagenet" if row.has_imagenet_weights else "own" if row.pretrained else "none"
        weights = self.weights or ("none" if self.transfer == "scratch" else best)
        return self.transfer or ("scratch" if weights == "none" else "two_phase"), weights

    def batch_norm_mode(self) -> str:
        """Returns `batch_norm` with its default filled in."""
        keeps = self.transfer_and_weights()[0] in _KEEP_BATCH_NORM
        return self.batch_norm or ("frozen" if keeps and not self.batch_norm_momentum else "train")

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant; imports the plug-ins."""
        import_plugins(self.plugin)
        self._check_own()
        self._check_weights()
        self._check_unfreezing()
        if any(units < 1 for units in self.head_units):
            raise UserError(f"--head_units={','.join(map(str, self.head_units))}: every layer takes 1 unit or more")

    def _check_own(self) -> None:
        if not is_own(self.backbone):
            given = [name for name in ("normalization", "pretrained") if getattr(self, name)]
            given += ["head"] if self.head == "own" else []
            if given:
                raise UserError(
                    f"--{given[0]} is of a --backbone=MODULE:FUNCTION of your own, and --backbone={self.backbone} is "
                    "of the table; drop it"
                )
        elif not self.normalization:
            raise UserError(
                f"--backbone={self.backbone}: say by --normalization what it expects of an image: "
                f"{', '.join(NORMALIZATIONS)}, or MODULE:FUNCTION; internal is plain [0, 255]"
            )
        elif self.normalization not in NORMALIZATIONS and not is_own(self.normalization):
            raise UserError(
                f"--normalization={self.normalization}: takes {', '.join(NORMALIZATIONS)}, or MODULE:FUNCTION"
            )
        elif self.head == "own":
            defaults = ModelSettings.__dataclass_fields__
            given = [name for name in _OF_NEW_HEAD if getattr(self, name) != defaults[name].default]
            if given:
                raise UserError(f"--{given[0]} has no effect with --head=own; drop it")

    def _check_weights(self) -> None:
        row, (transfer, weights) = self.backbone_row(), self.transfer_and_weights()
        if weights == "imagenet" and not row.has_imagenet_weights:
            raise UserError(f"--weights=imagenet: {self.backbone} has none; use --weights=none or --weights=PATH")
        if weights == "own" and not row.pretrained:
            raise UserError(f"--weights=own: {self.backbone} brings none that are worth keeping; --pretrained says so")
        if self.reset_head and weights in ("imagenet", "own", "none"):
            raise UserError(f"--reset_head has no effect with --weights={weights}, which has no head; drop it")
        if transfer == "scratch" and weights != "none":
            raise UserError(f"--transfer=scratch trains random weights, but --weights={weights}; drop one of the two")
        if transfer != "scratch" and weights == "none":
            say = "--pretrained" if is_own(self.backbone) else "--weights=imagenet"
            raise UserError(
                f"--transfer={transfer} without pretrained weights would keep random ones; "
                f"use --transfer=scratch, {say} or --weights=PATH"
            )

    def _check_unfreezing(self) -> None:
        transfer, _ = self.transfer_and_weights()
        if self.batch_norm == "frozen" and transfer in ("scratch", "norms"):
            raise UserError(f"--batch_norm=frozen: --transfer={transfer} trains BatchNorm; drop one of the two")
        if self.batch_norm == "train" and transfer == "lora":
            raise UserError(
                "--batch_norm=train has no effect with --transfer=lora, of whose backbone the updates alone train; "
                "drop one of the two"
            )
        if self.batch_norm == "frozen" and self.batch_norm_momentum:
            raise UserError(
                f"--batch_norm_momentum={self.batch_norm_momentum:g} has no effect with --batch_norm=frozen; drop one "
                "of the two"
            )
        given = [
            f"--{name}={getattr(self, name)}"
            for name in ("unfreeze_last_layers", "unfreeze_from")
            if getattr(self, name)
        ]
        if len(given) == 2:
            raise UserError(f"{given[0]} and {given[1]} name two places; drop one of them")
        if given and transfer not in ("partial", "two_phase"):
            raise UserError(f"{given[0]} has no effect with --transfer={transfer}; use partial or two_phase")
        if self.lora_rank != ModelSettings.lora_rank and transfer != "lora":
            raise UserError(f"--lora_rank={self.lora_rank} has no effect with --transfer={transfer}; drop one of them")
        if transfer == "partial" and not given:
            raise UserError("--transfer=partial needs --unfreeze_last_layers=N or --unfreeze_from=LAYER")
