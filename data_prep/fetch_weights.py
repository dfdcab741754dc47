"""Downloads ImageNet weights into a folder that a cluster without internet can read.

Run it where there is a network, copy the folder if need be, and train with --weights=FOLDER.
It imports the table of backbones from tl_distributed, so that both name a backbone alike.
"""

import dataclasses
import functools
import json
import os
import tempfile

from tl_distributed.errors import DownloadError, UserError
from tl_distributed.files import hash_file, replace_file, write_json
from tl_distributed.models.backbones import Backbone, get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.weights import fetched_weights_file
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command
from tl_distributed.settings.flags import setting

_TEMPORARY_SUFFIX = ".tmp"


@dataclasses.dataclass(frozen=True)
class FetchConfig:
    """Flags of the command."""

    backbone: tuple[str, ...] = setting((), "Backbones to fetch, separated by commas.", topic="What")
    image_size: int = setting(
        0,
        "Image side in pixels; 0 means each backbone's default. Only MobileNet v1 and v2 have weights of their own "
        "for 96 (v2 only), 128, 160 and 192 pixels; take a folder of its own for each size.",
        topic="What",
        minimum=0,
    )
    output_dir: str = setting("", "Folder to put the files in; made if need be.", topic="Where")


def main(config: FetchConfig, positional: list[str]) -> None:
    """Fetches what is not there yet; the files that are finished stay if a later one fails."""
    refuse_positional(positional)
    if not config.backbone:
        raise UserError("--backbone: name at least one, e.g. --backbone=convnext_tiny,resnet50")
    if not config.output_dir:
        raise UserError("--output_dir: name the folder to put the weights in")
    backbones = [get_backbone(name) for name in config.backbone]
    for backbone in backbones:  # refused before anything is downloaded
        if not backbone.has_imagenet_weights:
            raise UserError(f"--backbone={backbone.name}: there are no ImageNet weights for it")
    import_tensorflow()
    for backbone in backbones:
        print(fetch(backbone, image_size=config.image_size or backbone.default_size, output_dir=config.output_dir))


def fetch(backbone: Backbone, *, image_size: int, output_dir: str) -> str:
    """Downloads the weights of one backbone, unless they are there and whole.

    Writes `NAME_imagenet_notop.weights.h5`, a weights file of Keras 3, and beside it a `.json` with its
    SHA-256, size in bytes, image size and Keras version.

    Args:
      backbone: Row of the table.
      image_size: Image side in pixels.
      output_dir: Folder, local or remote.

    Returns:
      One line that says what was done.

    Raises:
      UserError: A failed download, or a folder that cannot be written.
    """
    import tensorflow as tf

    path = f"{output_dir.rstrip('/')}/{fetched_weights_file(backbone.name)}"
    try:
        tf.io.gfile.makedirs(output_dir)
        known = _read_description(path)
        if known and known["image_size"] == image_size and hash_file(path)[0] == known["sha256"]:
            return f"{path}: there already"
        with tempfile.TemporaryDirectory() as folder:
            return _download(backbone, image_size, f"{folder}/{fetched_weights_file(backbone.name)}", path)
    except DownloadError as error:
        raise UserError(
            f"--backbone={backbone.name}: cannot download its weights ({error.cause}); "
            "run this command on a machine with internet, then copy the folder"
        ) from None
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--output_dir={output_dir}: cannot write there ({_cause(error)})") from None


def _download(backbone: Backbone, image_size: int, local_file: str, path: str) -> str:
    import keras
    import tensorflow as tf

    build_backbone(backbone, image_size=image_size, weights="imagenet").save_weights(local_file)
    description = {
        "backbone": backbone.name,
        "image_size": image_size,
        "bytes": os.path.getsize(local_file),
        "sha256": hash_file(local_file)[0],
        "keras": keras.__version__,
    }
    # An old description would vouch for a new file that is still on its way.
    if tf.io.gfile.exists(_description_file(path)):
        tf.io.gfile.remove(_description_file(path))
    try:
        tf.io.gfile.copy(local_file, path + _TEMPORARY_SUFFIX, overwrite=True)
        replace_file(path + _TEMPORARY_SUFFIX, path)
    except BaseException:
        if tf.io.gfile.exists(path + _TEMPORARY_SUFFIX):
            tf.io.gfile.remove(path + _TEMPORARY_SUFFIX)
        raise
    write_json(_description_file(path), description)
    return f"{path}: {description['bytes'] / 1e6:.1f} MB"


def _description_file(path: str) -> str:
    return path.removesuffix(".weights.h5") + ".json"


def _read_description(path: str) -> dict | None:
    """Returns what is known of a finished file; None if there is none, or only part of one."""
    import tensorflow as tf

    if not (tf.io.gfile.exists(path) and tf.io.gfile.exists(_description_file(path))):
        return None
    with tf.io.gfile.GFile(_description_file(path)) as file:
        try:
            description = json.loads(file.read())
        except ValueError:
            return None
    return description if {"sha256", "image_size"} <= description.keys() else None


def _cause(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())


run = functools.partial(run_command, main, FetchConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
