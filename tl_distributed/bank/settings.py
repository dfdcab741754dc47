"""Settings of the feature bank, and whether a run's other settings leave anything to bank."""

import dataclasses

from tl_distributed.errors import UserError
from tl_distributed.pixels.augment_settings import AugmentSettings
from tl_distributed.settings.flags import setting

BANK = "Feature bank"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BankSettings:
    """Flags of the feature bank."""

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
        "auto", "Read the bank into memory, or each batch from its files (disk, which stream means too); auto goes by "
        "size and free memory.", topic=BANK, choices=("auto", "memory", "disk", "stream"),
    )  # fmt: skip
    bank_dir: str = setting(
        "", "Folder of the banks, which runs may share; by default WORKDIR/feature_bank.", topic=BANK
    )

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant."""
        if self.bank_views and self.feature_bank == "off":
            raise UserError(
                f"--bank_views={self.bank_views} has no effect with --feature_bank=off; drop one of the two"
            )


def why_nothing_to_bank(transfer: str, augment: AugmentSettings, *, bank_views: int) -> str:
    """Returns why there are no features to bank, or nothing where there are.

    Args:
      transfer: Resolved.
      augment: Resolved.
      bank_views: Fixed views of each training image.
    """
    if transfer in ("scratch", "full"):
        return f"--transfer={transfer} freezes nothing"
    if transfer in ("norms", "lora"):
        return f"--transfer={transfer} trains something in the backbone's first layers"
    if augment.mixes_images:
        return f"images are mixed with others in every epoch, unless {' '.join(augment.flags_against_mixing())}"
    if not augment.is_off and not bank_views:
        return "augmentation changes the images in every epoch; --augment=none or --bank_views=K allow it"
    return ""
