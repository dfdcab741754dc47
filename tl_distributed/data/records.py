"""The schema of a data set on disk: one file for the writer (`data_prep`) and the readers.

A data set is a folder of `{train,val,test}-00000-of-00016.tfrecord` shards, an index beside each
(`record_index`), and one `dataset.json`, which is written last: a folder without it is an unfinished build and is
never read.

A record is a `tf.train.Example` with these features, single values but for labels; any TensorFlow program reads it:
  image: bytes. Of storage "pixels", raw uint8, row-major `[height, width, 3]` RGB; else the bytes of a JPEG, PNG,
    WebP, BMP or GIF file, upright, that `tf.io.decode_image` decodes.
  label: int64, index into `class_names`; of a data set whose pictures have any number of labels, all of the picture's,
    ascending, perhaps none.
  id: bytes, UTF-8, the picture's name in its source, e.g. `train/cat/0001.jpg`; unique in the data set.
  height, width: int64, in pixels, of the picture as it is stored.

Version 1 had `image` (raw pixels) and `label` alone, and no index; such data sets are read in memory mode.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tl_distributed.data.fit_rules import DEFAULT_FIT, FIT_OF_VERSION_1, FITS, IN_WORDS, Fit
from tl_distributed.data.missing_manifest import missing_manifest
from tl_distributed.data.storage import STORAGES, Storage
from tl_distributed.errors import UserError

SCHEMA_VERSION = 2
READ_VERSIONS = (1, SCHEMA_VERSION)
MANIFEST_FILE = "dataset.json"
SPLITS = ("train", "val", "test")
IMAGE_FEATURE, LABEL_FEATURE, ID_FEATURE = "image", "label", "id"
HEIGHT_FEATURE, WIDTH_FEATURE = "height", "width"
_OF_VERSION_2 = ("storage", "canvas_size", "decoder")  # what `DatasetInfo` has since then


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Returns e.g. `train-00003-of-00016.tfrecord`."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file: its name in the folder, number of records, size in bytes and SHA-256 in hex."""

    file: str
    num_records: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: examples, examples of each class by name, and its shards in order."""

    num_examples: int
    counts_per_class: dict[str, int]
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` holds.

    Attributes:
      class_names: In order of label.
      image_shape: (image_size, image_size, 3), of a picture once it is fitted to a square.
      seed: Of the build.
      source: Its name.
      splits: By name; one may be absent (a source without a test split).
      details: Whatever else the writer knows (input, fractions, duplicates).
      schema_version: 1 or 2.
      fit: How a picture that is not square becomes so: when it was built for storage "pixels", else when it is read.
      storage: What `image` of a record holds: "pixels", square and of `image_shape`; "jpeg", the whole picture with
        its shorter side at most `image_size`; "original", the file as it was.
      canvas_size: The longest side in pixels of any picture once its shorter side is at most `image_size`, capped at
        `MOST_CANVAS` times that; `image_size` for pixels.
      decoder: Versions of the libraries that decoded the source's pictures; empty where none did.
      most_labels: 0 where each picture has exactly one label; else the most that any has, at least 1. A picture is then
        counted in `counts_per_class` of each of its classes.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    seed: int
    source: str
    splits: dict[str, Split]
    details: dict[str, Any]
    schema_version: int = SCHEMA_VERSION
    fit: Fit = DEFAULT_FIT
    storage: Storage = "pixels"
    canvas_size: int = 0
    decoder: dict[str, str] = dataclasses.field(default_factory=dict)
    most_labels: int = 0

    def __post_init__(self) -> None:
        if not self.canvas_size:
            object.__setattr__(self, "canvas_size", max(self.image_shape[:2]))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels of a fitted picture."""
        return max(self.image_shape[:2])

    @property
    def is_multi_label(self) -> bool:
        """Whether a picture has any number of labels."""
        return self.most_labels > 0

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of a picture's labels in a batch: one number, or as many as any picture has, -1 where it has fewer."""
        return (self.most_labels,) if self.is_multi_label else ()

    @property
    def is_indexed(self) -> bool:
        """Whether an index lies beside each shard, so that any record can be read alone."""
        return self.schema_version > 1

    def images_in_words(self) -> str:
        """Returns what its records hold, for the user."""
        if self.storage == "pixels":
            return f"images of {'x'.join(map(str, self.image_shape))}"
        return f"pictures ({self.storage}), shorter side {self.image_size} px at most"

    def to_json(self) -> str:
        return json.dumps(self._told(), indent=2) + "\n"

    def digest(self) -> str:
        """Returns the SHA-256 in hex of the manifest, which holds that of every shard.

        Of version 1, `fit` is left out: it tells nothing that the shards do not, and runs of before it was stored go
        on.
        """
        told = self._told()
        if self.schema_version == 1:
            del told["fit"]
        return hashlib.sha256((json.dumps(told, indent=2) + "\n").encode()).hexdigest()

    def _told(self) -> dict[str, Any]:
        told = dataclasses.asdict(self)
        if not self.is_multi_label:  # of before there were others: their digest stays
            del told["most_labels"]
        return {name: value for name, value in told.items() if self.is_indexed or name not in _OF_VERSION_2}


MOST_CANVAS = 2  # times image_size: 16:9 is whole, and a batch of canvases takes at most four times that of squares


def canvas_size(shapes: Iterable[tuple[int, int]], image_size: int) -> int:
    """Returns `DatasetInfo.canvas_size` of pictures of these (height, width)."""
    sides = (-(-max(shape) * image_size // min(shape)) for shape in shapes)
    return min(max(image_size, max(sides, default=0)), MOST_CANVAS * image_size)


def parse_manifest(text: str, path: str) -> DatasetInfo:
    """Parses the text of the `dataset.json` at `path`.

    Raises:
      UserError: Not JSON, another schema version, or a missing or malformed entry (named).
    """
    try:
        raw = json.loads(text)
        version = raw["schema_version"]
        if version not in READ_VERSIONS:
            raise UserError(
                f"{path}: schema version {version}, this version reads {' and '.join(map(str, READ_VERSIONS))}; "
                "build the data set again with python -m data_prep.build_tfrecords --overwrite"
            )
        splits = {
            name: Split(
                int(split["num_examples"]),
                {str(key): int(value) for key, value in split["counts_per_class"].items()},
                tuple(Shard(**shard) for shard in split["shards"]),
            )
            for name, split in raw["splits"].items()
        }
        height, width, channels = raw["image_shape"]
        return DatasetInfo(
            _class_names(raw, splits), (height, width, channels), raw["seed"], raw["source"], splits, raw["details"],
            version, _fit(raw), **(_of_version_2(raw) if version > 1 else _of_version_1(raw)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a data set description ({type(error).__name__}: {error})") from None


def _class_names(raw: dict[str, Any], splits: dict[str, Split]) -> tuple[str, ...]:
    """Returns the names, which a label is an index into: one that was taken out by hand would move those behind it."""
    names = raw["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("class_names is no list of different names")
    counted = {name for split in splits.values() for name in split.counts_per_class}
    if counted - set(names):
        raise ValueError(f"counts_per_class has {min(counted - set(names))!r}, class_names has not; rename it in both")
    return tuple(names)


def _fit(raw: dict[str, Any]) -> Fit:
    """Returns the fitting rule; data sets of before it was stored say it among the source's details, in words."""
    if "fit" not in raw:
        said = str((raw["details"].get("source") or {}).get("resize", ""))
        return next((fit for fit, words in IN_WORDS.items() if words in said), FIT_OF_VERSION_1)
    return _one_of("fit", raw["fit"], FITS)


def _of_version_1(raw: dict[str, Any]) -> dict[str, Any]:
    return {"decoder": dict((raw["details"].get("source") or {}).get("decoder", {}))}


def _of_version_2(raw: dict[str, Any]) -> dict[str, Any]:
    return {
        "storage": _one_of("storage", raw["storage"], STORAGES),
        "canvas_size": int(raw["canvas_size"]),
        "decoder": {str(name): str(version) for name, version in raw["decoder"].items()},
        "most_labels": int(raw.get("most_labels", 0)),
    }


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is none of {', '.join(choices)}")
    return value


def read_manifest(data_dir: str) -> DatasetInfo:
    """Reads `dataset.json` of a finished data set.

    Raises:
      UserError: No such folder, an unfinished build, another folder, or a manifest that `parse_manifest` refuses.
    """
    import tensorflow as tf

    path = f"{data_dir.rstrip('/')}/{MANIFEST_FILE}"
    if not tf.io.gfile.exists(path):
        raise missing_manifest(data_dir, MANIFEST_FILE)
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        return parse_manifest(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError:  # an editor saved it in its own encoding
        raise UserError(f"{path}: is not UTF-8; save it as UTF-8, or copy it anew") from None


def encode_example(image: bytes, label: int | Sequence[int], *, id: bytes, height: int, width: int) -> bytes:
    """Serialises one record, always to the same bytes; the arguments are the features of the schema.

    `label` is a number, or of a picture with any number of labels all of them.
    """
    import tensorflow as tf

    example = tf.train.Example()
    features = example.features.feature
    features[IMAGE_FEATURE].bytes_list.value.append(image)
    features[LABEL_FEATURE].int64_list.SetInParent()  # also of a picture without labels
    features[LABEL_FEATURE].int64_list.value.extend([label] if isinstance(label, int) else label)
    features[ID_FEATURE].bytes_list.value.append(id)
    features[HEIGHT_FEATURE].int64_list.value.append(height)
    features[WIDTH_FEATURE].int64_list.value.append(width)
    return example.SerializeToString(deterministic=True)


def encode_id(name: str) -> bytes:
    """Returns the bytes of an id; names of files that are no UTF-8 keep their bytes as lone surrogates."""
    return name.encode("utf-8", "surrogatepass")


def decode_id(encoded: bytes) -> str:
    """Returns the id of its bytes; the inverse of `encode_id`."""
    return encoded.decode("utf-8", "surrogatepass")


def parse_pixels(serialized: Any, image_shape: tuple[int, int, int], most_labels: int = 0) -> tuple[Any, Any]:
    """Parses records of raw pixels, of either version.

    Args:
      serialized: `[batch] string`.
      image_shape: Of every image.
      most_labels: Of the data set.

    Returns:
      `[batch, height, width, 3] uint8`, and labels as `parse_files`.

    Raises:
      tf.errors.InvalidArgumentError: In the graph, for a record that is none or of another number of pixels.
    """
    import tensorflow as tf

    contents, labels = parse_files(serialized, most_labels)
    pixels = tf.ensure_shape(tf.io.decode_raw(contents, tf.uint8), [None, math.prod(image_shape)])
    return tf.reshape(pixels, [-1, *image_shape]), labels


def parse_files(serialized: Any, most_labels: int = 0) -> tuple[Any, Any]:
    """Parses `[batch] string` records of encoded pictures.

    Args:
      serialized: `[batch] string`.
      most_labels: Of the data set.

    Returns:
      `[batch] string` files, and `[batch] int32` labels, or `[batch, most_labels]` with -1 where there are fewer.

    Raises:
      tf.errors.InvalidArgumentError: In the graph, for a record that is none, or has more labels.
    """
    import tensorflow as tf

    label = (
        tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) if most_labels else tf.io.FixedLenFeature([], tf.int64)
    )
    spec = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string), LABEL_FEATURE: label}
    parsed = tf.io.parse_example(serialized, spec)
    labels = parsed[LABEL_FEATURE]
    if most_labels:
        checks = [tf.debugging.assert_less_equal(labels.row_lengths(), tf.constant(most_labels, tf.int64))]
        with tf.control_dependencies(checks):
            labels = labels.to_tensor(-1, shape=[None, most_labels])
    return parsed[IMAGE_FEATURE], tf.cast(labels, tf.int32)
