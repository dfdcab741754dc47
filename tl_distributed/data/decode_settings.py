"""Flags of everything that decodes pictures."""

import dataclasses

from tl_distributed.settings.flags import setting


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """What a picture may cost."""

    max_megapixels: float = setting(
        200.0,
        "Million pixels that one picture may hold once decoded; a larger one is refused, since a small file can claim "
        "any number. A JPEG that is far larger than what is stored is decoded at a half, a quarter or an eighth.",
        topic="Images",
        minimum=0.001,
    )
