"""CIFAR-10 as TFDS has it."""

from data_prep.config import BuildConfig
from data_prep.source import Source
from data_prep.sources.tfds import TfdsSource

TAKES, NEEDS = ("input",), ()


def open_source(config: BuildConfig) -> Source:
    """Raises `UserError` where the download fails."""
    return TfdsSource(name="cifar10", tfds_name="cifar10", data_dir=config.input)
