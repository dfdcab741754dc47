"""The names of the rules by which a picture of any shape becomes a square; `fitting` follows them. Imports nothing."""

from typing import Literal, get_args

Fit = Literal["squash", "crop", "pad"]
FITS: tuple[str, ...] = get_args(Fit)
DEFAULT_FIT: Fit = "crop"
FIT_OF_VERSION_1: Fit = "squash"  # of data sets and models that do not say it
IN_WORDS = {"squash": "squashed to a square", "crop": "centred square", "pad": "padded with black to a square"}
