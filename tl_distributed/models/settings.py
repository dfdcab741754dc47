"""Settings of the model: which backbone, its weights and head, and what of it trains."""

import dataclasses

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.settings.flags import setting

MODEL, TRANSFER = "Model", "Transfer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Flags of the model. `None` is filled in by `transfer_and_weights`."""

    backbone: str = setting("mobilenet_v2", "Backbone; --backbone=list prints them all.", topic=MODEL)
    weights: str | None = setting(
        None,
        "imagenet, none, or PATH of a Keras weights file, a .keras model or a run's workdir. Default: imagenet, or "
        "none where the backbone has no ImageNet weights or --transfer=scratch. A head of the same classes is kept.",
        topic=MODEL,
    )
    reset_head: bool = setting(
        False, "Begin with a new head also where --weights=PATH has one of the same classes.", topic=MODEL
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

    def transfer_and_weights(self) -> tuple[str, str]:
        """Returns (transfer, weights) with the defaults of both filled in."""
        pretrained = get_backbone(self.backbone).has_imagenet_weights
        weights = self.weights or ("imagenet" if pretrained and self.transfer != "scratch" else "none")
        return self.transfer or ("scratch" if weights == "none" else "two_phase"), weights

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant."""
        self._check_weights()
        self._check_unfreezing()
        if any(units < 1 for units in self.head_units):
            raise UserError(f"--head_units={','.join(map(str, self.head_units))}: every layer takes 1 unit or more")

    def _check_weights(self) -> None:
        transfer, weights = self.transfer_and_weights()
        if weights == "imagenet" and not get_backbone(self.backbone).has_imagenet_weights:
            raise UserError(f"--weights=imagenet: {self.backbone} has none; use --weights=none or --weights=PATH")
        if self.reset_head and weights in ("imagenet", "none"):
            raise UserError(f"--reset_head has no effect with --weights={weights}, which has no head; drop it")
        if transfer == "scratch" and weights != "none":
            raise UserError(f"--transfer=scratch trains random weights, but --weights={weights}; drop one of the two")
        if transfer != "scratch" and weights == "none":
            raise UserError(
                f"--transfer={transfer} without pretrained weights would keep random ones; "
                "use --transfer=scratch, --weights=imagenet or --weights=PATH"
            )

    def _check_unfreezing(self) -> None:
        transfer, _ = self.transfer_and_weights()
        given = [
            f"--{name}={getattr(self, name)}"
            for name in ("unfreeze_last_layers", "unfreeze_from")
            if getattr(self, name)
        ]
        if len(given) == 2:
            raise UserError(f"{given[0]} and {given[1]} name two places; drop one of them")
        if given and transfer not in ("partial", "two_phase"):
            raise UserError(f"{given[0]} has no effect with --transfer={transfer}; use partial or two_phase")
        if transfer == "partial" and not given:
            raise UserError("--transfer=partial needs --unfreeze_last_layers=N or --unfreeze_from=LAYER")
