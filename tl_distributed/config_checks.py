"""Combinations of a run's settings that cannot be meant; single values are checked by their flag."""

from typing import TYPE_CHECKING

from tl_distributed.commandline import UserError
from tl_distributed.models.backbones import Backbone, get_backbone
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS

if TYPE_CHECKING:
    from tl_distributed.config import Config


def check_settings(config: "Config") -> None:
    """Raises `UserError` for the first combination that cannot be meant."""
    backbone = get_backbone(config.backbone)
    _check_weights(config, backbone)
    _check_unfreezing(config)
    _check_bank(config)
    _check_workers(config)
    config.augment_settings()  # raises for a strength out of its range
    if config.image_size and config.image_size < backbone.minimum_size:
        raise UserError(
            f"--image_size={config.image_size}: {config.backbone} takes {backbone.minimum_size} pixels or more"
        )
    if config.profile_steps and (
        len(config.profile_steps) != 2 or not 0 <= config.profile_steps[0] < config.profile_steps[1]
    ):
        raise UserError(f"--profile_steps={','.join(map(str, config.profile_steps))}: takes two steps A,B with A < B")
    if config.export_h5 and ("/" in config.export_h5 or not config.export_h5.endswith(".h5")):
        raise UserError(f"--export_h5={config.export_h5}: takes a file name that ends in .h5, without folders")
    if any(units < 1 for units in config.head_units):
        raise UserError(f"--head_units={','.join(map(str, config.head_units))}: every layer takes 1 unit or more")
    if config.virtual_devices and config.global_batch_size % config.virtual_devices and config.strategy != "one_device":
        raise UserError(
            f"--global_batch_size={config.global_batch_size} does not divide by "
            f"--virtual_devices={config.virtual_devices}"
        )


def _check_weights(config: "Config", backbone: Backbone) -> None:
    transfer, weights = config.transfer_and_weights()
    if weights == "imagenet" and not backbone.has_imagenet_weights:
        raise UserError(f"--weights=imagenet: {config.backbone} has none; use --weights=none or --weights=PATH")
    if transfer == "scratch" and weights != "none":
        raise UserError(f"--transfer=scratch trains random weights, but --weights={weights}; drop one of the two")
    if transfer != "scratch" and weights == "none":
        raise UserError(
            f"--transfer={transfer} without pretrained weights would keep random ones; "
            "use --transfer=scratch, --weights=imagenet or --weights=PATH"
        )


def _check_bank(config: "Config") -> None:
    reason = config.why_nothing_to_bank()
    if config.feature_bank == "on" and reason:
        raise UserError(f"--feature_bank=on: {reason}")
    if config.bank_views and config.feature_bank == "off":
        raise UserError(f"--bank_views={config.bank_views} has no effect with --feature_bank=off; drop one of the two")
    if config.bank_views and config.augment_settings() == NAMED_AUGMENTATIONS["none"]:
        raise UserError(f"--bank_views={config.bank_views} has no effect without augmentation; drop it")


def _check_unfreezing(config: "Config") -> None:
    transfer, _ = config.transfer_and_weights()
    given = [
        f"--{name}={getattr(config, name)}"
        for name in ("unfreeze_last_layers", "unfreeze_from")
        if getattr(config, name)
    ]
    if len(given) == 2:
        raise UserError(f"{given[0]} and {given[1]} name two places; drop one of them")
    if config.layer_decay != 1 and transfer == "frozen":
        raise UserError(f"--layer_decay={config.layer_decay:g} has no effect with --transfer=frozen; drop one of them")
    if given and transfer not in ("partial", "two_phase"):
        raise UserError(f"{given[0]} has no effect with --transfer={transfer}; use partial or two_phase")
    if transfer == "partial" and not given:
        raise UserError("--transfer=partial needs --unfreeze_last_layers=N or --unfreeze_from=LAYER")


def _check_workers(config: "Config") -> None:
    if config.strategy != "multi_worker":
        given = [name for name in ("workers", "worker_index") if getattr(config, name) not in ((), -1)]
        if given:
            raise UserError(f"--{given[0]} needs --strategy=multi_worker, got --strategy={config.strategy}")
    elif bool(config.workers) != (config.worker_index >= 0):
        raise UserError("--workers and --worker_index go together: all the workers, and which of them this one is")
