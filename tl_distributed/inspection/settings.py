"""Flags of `python -m tl_distributed.inspect_features`."""

import dataclasses

from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.models.settings import ModelSettings
from tl_distributed.settings.flags import borrowed, setting

WHAT, MAPS, NUMBERS, HOW = "What", "Feature maps", "Numbers", "How"
MOST_SHOWN = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Flags of the command."""

    workdir: str = setting("", "Folder of a finished run; its best weights are 'after'.", topic=WHAT)
    before: str = setting(
        "", "What 'before' is: the workdir or .keras model of another run, or what train's --weights takes. By default "
        "the weights that the run started from.", topic=WHAT,
    )  # fmt: skip
    data_dir: str = setting("", "Data set; by default the run's own.", topic=WHAT)
    split: str = setting("test", "Split that the images are of.", topic=WHAT, choices=("train", "val", "test"))
    output_dir: str = setting("", "Folder to write; by default WORKDIR/inspection.", topic=WHAT)
    plugin: tuple[str, ...] = borrowed(ModelSettings, "plugin", topic=WHAT)

    layer: tuple[str, ...] = setting(
        (), "Layers whose maps are shown, a figure each; by default the deepest one with maps of 6 x 6 or more.",
        topic=MAPS,
    )  # fmt: skip
    images: tuple[str, ...] = setting(
        (), f"Images whose maps are shown, up to {MOST_SHOWN}: places in the split (0, 5, 17) or image files; by "
        "default the first of each class, 8 at most.", topic=MAPS,
    )  # fmt: skip
    channels: int = setting(8, "Channels shown.", topic=MAPS, minimum=1, maximum=32)
    channel_rule: str = setting(
        "changed", "Which channels, by their mean over the images shown: changed, the largest difference of before and "
        "after; active, the largest magnitude.", topic=MAPS, choices=("changed", "active"),
    )  # fmt: skip

    num_images: int = setting(
        1000, "Images that the numbers are of, spread evenly over the split; of fewer, all.", topic=NUMBERS, minimum=10
    )
    cka_layers: tuple[str, ...] = setting(
        ("blocks",), "Layers compared by CKA: blocks (the end of each block, and the head), all (every layer with "
        "weights), or names.", topic=NUMBERS,
    )  # fmt: skip
    grad_cam_layer: str = setting(
        "", "Layer of Grad-CAM; by default the last one with maps larger than 1 x 1.", topic=NUMBERS
    )
    grad_cam_images: int = setting(
        8, "Right answers, and as many wrong ones, for Grad-CAM.", topic=NUMBERS, minimum=1, maximum=MOST_SHOWN
    )
    seed: int = setting(0, "Seed of PCA and t-SNE.", topic=NUMBERS, minimum=0, maximum=2**31 - 1)
    batch_size: int = setting(64, "Images at once.", topic=HOW, minimum=1)
    max_megapixels: float = borrowed(DecodeSettings, "max_megapixels", topic=HOW)
