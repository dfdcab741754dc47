"""What a saved model says of itself beside its weights: class names, how pictures are fitted, image size, version.

Each model has its own: an entry of `metadata.json` inside a `.keras` file, `assets.extra/tl_distributed.json` inside a
SavedModel (the folder that TensorFlow leaves to others), and `MODEL.json` beside an `.h5` or `.tflite`. Older versions
wrote one `labels.txt` for all the models of a folder.
"""

import dataclasses
import json
import math
import os
import shutil
import zipfile
from typing import Any

import tensorflow as tf

import tl_distributed
from tl_distributed.data.fit_rules import FITS, Fit
from tl_distributed.data.storage import STORAGES, Storage
from tl_distributed.errors import UserError
from tl_distributed.files import hash_file, to_json_values

LABELS_FILE = "labels.txt"  # of older versions
ACTIVATIONS = ("softmax", "sigmoid", "linear")
_KEY = "tl_distributed"  # in metadata.json
_METADATA_FILE = "metadata.json"  # inside a .keras file; Keras writes its version and a date there, and reads nothing
_SAVED_MODEL_FILE = "assets.extra/tl_distributed.json"
_MOST_BYTES = 64 * 2**20  # of what is read; ImageNet's 21,841 names are below one megabyte


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is stored with a model.

    Attributes:
      class_names: In order of label; empty where they are not known.
      fit: How the pictures that it was trained on became square; `None` where that is not known.
      image_shape: (height, width, 3) that the model takes.
      storage: Of the data set that it was trained on, as in `DatasetInfo`.
      stored_size: Of a data set that stores pictures whole, its `image_size`; 0 of one that stores pixels.
      version: Of this package, which wrote it.
      model_sha256: Of the file that it lies beside, in hex; empty where it lies inside.
      temperature: That fits the validation images of its run: softmax(logits / temperature); `None` where unknown.
      calibrated: Whether the model's probabilities are those at the temperature.
      task: What was learnt, as `--task` names it.
      activation: What the network's outputs went through: softmax, sigmoid or linear.
    """

    class_names: tuple[str, ...]
    fit: Fit | None
    image_shape: tuple[int, ...]
    storage: Storage = "pixels"
    stored_size: int = 0
    version: str = tl_distributed.__version__
    model_sha256: str = ""
    temperature: float | None = None
    calibrated: bool = False
    task: str = "classification"
    activation: str = "softmax"


def info_path(path: str) -> str:
    """Returns where the model at `path` keeps its info, for messages: a file, or the model itself."""
    if path.endswith(".keras"):
        return path
    return f"{path}/{_SAVED_MODEL_FILE}" if tf.io.gfile.isdir(path) else f"{path}.json"


def store_inside(made: str, info: ModelInfo) -> None:
    """Puts the info into a `.keras` file or a SavedModel folder of the local disk; others keep theirs beside."""
    if os.path.isdir(made):
        os.makedirs(os.path.dirname(f"{made}/{_SAVED_MODEL_FILE}"))
        with open(f"{made}/{_SAVED_MODEL_FILE}", "w", encoding="utf-8") as file:
            file.write(_to_json(info))
        return
    # Into the member that is there: of an archive with more than three, Keras unpacks everything when it loads.
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(f"{made}.new", "w") as new:
        for member in old.infolist():
            if member.filename == _METADATA_FILE:
                metadata = {**json.loads(old.read(member)), _KEY: json.loads(_to_json(info))}
                new.writestr(_METADATA_FILE, json.dumps(metadata, indent=2))
            else:
                with old.open(member) as source, new.open(member, "w") as target:
                    shutil.copyfileobj(source, target, 2**20)
    os.replace(f"{made}.new", made)


def beside(made: str, info: ModelInfo) -> bytes:
    """Returns the content of the JSON file to be put beside the model, whose file of now is at `made`."""
    return _to_json(dataclasses.replace(info, model_sha256=hash_file(made)[0])).encode()


def _to_json(info: ModelInfo) -> str:
    return json.dumps(to_json_values(dataclasses.asdict(info)), indent=2) + "\n"


def read_model_info(path: str, num_outputs: int) -> tuple[ModelInfo | None, str]:
    """Reads what is stored with the model at `path`.

    Args:
      path: `.keras`, `.h5` or `.tflite` file, or SavedModel folder.
      num_outputs: Of the model.

    Returns:
      (The info, or `None` where there is none that is surely the model's; a line to tell the user, or nothing.)

    Raises:
      UserError: The info is not what a version of this package writes, or names another number of classes.
    """
    where, info = info_path(path), _stored(path)
    if info is None:
        return _of_labels_file(path, num_outputs)
    if _is_of_another(info, path):
        return None, (
            f"{path}: {where} was written with another model, so its class names are not taken and classes are "
            "numbers; export the model again, or copy it together with its own .json"
        )
    if info.class_names and len(info.class_names) != num_outputs:
        raise UserError(
            f"{path}: has {num_outputs} outputs, and {len(info.class_names)} class names in {where}; "
            "export the model again, or put its own .json there"
        )
    return info, "" if info.class_names else f"{path}: stored without class names, so classes are numbers"


def stored_class_names(path: str) -> tuple[str, ...]:
    """Returns the class names stored with the model at `path`, however many outputs it has; none where unknown.

    Raises:
      UserError: The info is not what a version of this package writes.
    """
    info = _stored(path)
    if info is None:
        return _names_in_labels_file(path) or ()
    return () if _is_of_another(info, path) else info.class_names


def _stored(path: str) -> ModelInfo | None:
    where = info_path(path)
    text = _read_inside_keras(path) if path.endswith(".keras") else _read_text(where)
    return None if text is None else _parse(text, where)


def _is_of_another(info: ModelInfo, path: str) -> bool:
    return bool(info.model_sha256) and info.model_sha256 != hash_file(path)[0]


def _of_labels_file(path: str, num_outputs: int) -> tuple[ModelInfo | None, str]:
    """Takes the names that an older version left in the folder, if they can be the model's."""
    missing = "stored without its class names" if path.endswith(".keras") else f"{info_path(path)} is not there"
    labels, names = _labels_file(path), _names_in_labels_file(path)
    if names is None:
        return None, f"{path}: {missing}, so classes are numbers"
    if len(names) != num_outputs:
        return None, (
            f"{path}: {missing}, and {labels} has {len(names)} names for {num_outputs} outputs, so classes are numbers"
        )
    return ModelInfo(names, None, ()), f"{path}: {missing}; class names are those of {labels}, which the folder shares"


def _labels_file(path: str) -> str:
    return f"{os.path.dirname(path) or '.'}/{LABELS_FILE}"


def _names_in_labels_file(path: str) -> tuple[str, ...] | None:
    text = _read_text(_labels_file(path))
    # Not splitlines: a name may hold U+2028 or U+0085.
    return None if text is None else tuple(text.removesuffix("\n").split("\n"))


def _read_text(path: str) -> str | None:
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"{path}: larger than {_MOST_BYTES // 2**20} MiB; not what is stored with a model")
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot be read ({error.message})") from None


def _read_inside_keras(path: str) -> str | None:
    """Returns the entry in a `.keras` file as JSON; `None` where stock Keras wrote it."""
    try:
        with (
            tf.io.gfile.GFile(path, "rb") as file,
            zipfile.ZipFile(file) as archive,
            archive.open(_METADATA_FILE) as member,
        ):
            content = member.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"{path}: its {_METADATA_FILE} is larger than {_MOST_BYTES // 2**20} MiB")
        entry = json.loads(content).get(_KEY)
    except (KeyError, ValueError, AttributeError, zipfile.BadZipFile):  # no such member, or of somebody else
        return None
    return None if entry is None else json.dumps(entry)


def _parse(text: str, where: str) -> ModelInfo:
    try:
        raw: dict[str, Any] = json.loads(text)
        names, fit = raw["class_names"], raw["fit"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names is no list of texts")
        if fit is not None and fit not in FITS:
            raise ValueError(f"fit {fit!r} is none of {', '.join(FITS)}")
        shape = tuple(int(side) for side in raw["image_shape"])
        storage, stored_size = raw.get("storage", "pixels"), int(raw.get("stored_size", 0))  # since schema version 2
        if storage not in STORAGES or (storage != "pixels") != (stored_size > 0):
            raise ValueError(f"storage {storage!r} of {stored_size} pixels")
        temperature = raw.get("temperature")
        if temperature is not None and not 0 < float(temperature) < math.inf:
            raise ValueError(f"temperature {temperature!r} is no number above 0")
        activation = raw.get("activation", "softmax")  # of before there were other tasks than classification
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        return ModelInfo(
            tuple(names), fit, shape, storage, stored_size, str(raw["version"]), str(raw.get("model_sha256", "")),
            None if temperature is None else float(temperature), bool(raw.get("calibrated", False)),
            str(raw.get("task", "classification")), activation,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not what is stored with a model ({type(error).__name__}: {error})") from None
