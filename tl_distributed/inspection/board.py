"""The TensorBoard side of an inspection: its figures under Images, its features in the Projector."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from tl_distributed.errors import printable
from tl_distributed.files import matching_files, write_file

METADATA_FILE, SPRITE_FILE, CHECKPOINT = "metadata.tsv", "sprite.png", "features.ckpt"
CONFIG_FILE = "projector_config.pbtxt"  # the name that the plugin looks for
_THUMBNAIL_PIXELS = 48
_SPRITE_PIXELS = 8192  # the plugin draws no larger sprite


def write_images(folder: str, figures: Mapping[str, bytes], step: int) -> None:
    """Writes PNGs as images of one run of TensorBoard, in place of those of an earlier inspection.

    Args:
      folder: On any file system.
      figures: Content of a PNG by tag.
      step: Training step that they are of.
    """
    earlier = matching_files(folder, "events.out.tfevents.*")
    writer = tf.summary.create_file_writer(folder)
    with writer.as_default(step):
        for tag, content in figures.items():
            tf.summary.image(tag, tf.io.decode_png(content, channels=3)[None])
    writer.close()
    for path in earlier:
        tf.io.gfile.remove(path)


def write_projector(
    folder: str, features: Mapping[str, np.ndarray], columns: Mapping[str, Sequence], images: np.ndarray
) -> None:
    """Writes what the Projector shows; its config last, without which it shows nothing.

    Args:
      folder: Where the events of a run are.
      features: By name `[n, dimensions] float32`.
      columns: What is told of each of the n points, by heading; two or more.
      images: `[n, height, width, 3] uint8`, shown at the points.
    """
    from tensorboard.plugins.projector import ProjectorConfig

    lines = ["\t".join(columns), *("\t".join(map(_cell, row)) for row in zip(*columns.values(), strict=True))]
    write_file(f"{folder}/{METADATA_FILE}", "".join(f"{line}\n" for line in lines).encode())
    sprite, thumbnail = _sprite(images)
    write_file(f"{folder}/{SPRITE_FILE}", sprite)
    # Not tf.train.Checkpoint: its names end in .ATTRIBUTES/VARIABLE_VALUE, and the page shows them.
    tf.raw_ops.SaveV2(
        prefix=f"{folder}/{CHECKPOINT}",
        tensor_names=list(features),
        shape_and_slices=[""] * len(features),
        tensors=[tf.constant(values, tf.float32) for values in features.values()],
    )
    write_file(f"{folder}/checkpoint", f'model_checkpoint_path: "{CHECKPOINT}"\n'.encode())
    config = ProjectorConfig()
    for name in features:
        embedding = config.embeddings.add(tensor_name=name, metadata_path=METADATA_FILE)
        embedding.sprite.image_path = SPRITE_FILE
        embedding.sprite.single_image_dim.extend(thumbnail)
    write_file(f"{folder}/{CONFIG_FILE}", text_format.MessageToString(config).encode())


def _cell(value: object) -> str:
    return printable(str(value))  # a tab or a line feed in a class name would shift the columns or the rows


def _sprite(images: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """Returns a PNG of all images in rows of a square, and (width, height) of one of them."""
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1:3]
    shrink = min(1.0, _THUMBNAIL_PIXELS / max(height, width), _SPRITE_PIXELS / (side * max(height, width)))
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    sheet = Image.new("RGB", (size[0] * side, size[1] * side), "white")
    for place, pixels in enumerate(images):
        thumbnail = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        sheet.paste(thumbnail, (size[0] * (place % side), size[1] * (place // side)))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue(), size
