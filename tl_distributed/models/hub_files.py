"""Files of a preset of KerasHub: what they name, their licence, and by what one preset is told from another.

A preset is data: its JSON may name classes of Keras and KerasHub, and nothing else is made of it. Importing this module
imports neither TensorFlow nor KerasHub.
"""

import difflib
import functools
import glob
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from tl_distributed.errors import UserError, one_line

_PREFIX = "hub:"
CONFIG, CONVERTER = "config.json", "image_converter.json"
_README = "README.md"
_WEIGHTS = ("model*.weights.h5", "model.weights.json")
_PACKAGE = "keras_hub."
_LICENCE = re.compile(r"^license:\s*[\"']?([^\"'\n]+)", re.MULTILINE)  # as Hugging Face's model cards name it
_HASHED_BYTES = 1 << 20


def is_hub(text: str) -> bool:
    """Whether a setting names a preset of KerasHub."""
    return text.startswith(_PREFIX)


def name_of(text: str) -> str:
    """Returns a preset as KerasHub takes it."""
    return os.path.expanduser(text.removeprefix(_PREFIX))


@functools.cache
def preset_image_size(text: str) -> int:
    """Returns the side in pixels that a preset's images have; 0 where it does not say.

    Raises:
      UserError: No such preset or folder, one of no images, or KerasHub is not installed.
    """
    config, converter = read_part(text, CONFIG), read_part(text, CONVERTER)
    shapes = (
        converter["config"].get("image_size"), config["config"].get("image_shape"),
        config["config"].get("vision_encoder", {}).get("config", {}).get("image_shape"),
    )  # fmt: skip
    return next((int(shape[0]) for shape in shapes if shape and shape[0]), 0)


def read_part(text: str, name: str) -> dict[str, Any]:
    """Returns the content of a file of JSON of a preset, that names classes of Keras and KerasHub alone.

    Raises:
      UserError: As `preset_image_size`.
    """
    path = _path(text, name)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise UserError(f"--backbone={text}: its {name} is no JSON ({one_line(error)})") from None
    module = content.get("module") if isinstance(content, dict) else None
    if not module:  # of the Transformers library or of timm, which KerasHub converts
        raise UserError(
            f"--backbone={text}: its {name} is not of KerasHub's format; Backbone.from_preset(...) reads it, "
            "save_to_preset(FOLDER) of it and of its ImageConverter makes a folder that is, for hub:FOLDER"
        )
    foreign = next((one for one in _modules_named(content) if not f"{one}.".startswith((_PACKAGE, "keras."))), None)
    if foreign or not str(module).startswith(_PACKAGE) or not isinstance(content.get("config"), dict):
        raise UserError(
            f"--backbone={text}: its {name} names {foreign or module}, and a preset is made of KerasHub's own classes; "
            "for others there is --backbone=MODULE:FUNCTION"
        )
    return content


def _modules_named(content: Any) -> Iterator[str]:
    """Yields the modules of all objects that a config is to be made of, those inside included."""
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if isinstance(content, dict) and content.get("class_name") is not None:
        # Of an initializer or a policy of types by its name Keras writes no module of its own.
        yield str(content["module"]) if content.get("module") else "keras"
    for value in values:
        yield from _modules_named(value)


def preset_sources(text: str) -> dict[str, str]:
    """Returns the SHA-256 of what a preset is, by its name in settings.

    Of a folder that is all that a backbone is made of, weights included. A preset that is fetched by its name has a
    version there; of it the network and the pixels' scale count, and not the weights, which need not be fetched for it.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, CONVERTER):
        digest.update(json.dumps(read_part(text, name), sort_keys=True).encode())
    folder = name_of(text)
    if os.path.isdir(folder):
        for path in sorted(path for pattern in _WEIGHTS for path in glob.glob(f"{glob.escape(folder)}/{pattern}")):
            stat = os.stat(path)
            digest.update(_file_digest(path, stat.st_size, stat.st_mtime_ns))
    return {text: digest.hexdigest()}


@functools.cache
def _file_digest(path: str, size: int, modified_ns: int) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASHED_BYTES):
            digest.update(block)
    return digest.digest()


def preset_licence(text: str) -> str:
    """Returns a preset's licence as its README names it, or where to look for one, in a few words."""
    preset = name_of(text)
    try:
        path = _path(text, _README, wanted=False)
        with open(path, encoding="utf-8", errors="replace") as file:
            found = _LICENCE.search(file.read())
    except (UserError, OSError):
        found = None
    if found:
        return f"{found[1].strip()}, as its {_README} says"
    handle = _handle(preset)
    places = {"kaggle://": "https://www.kaggle.com/models/", "hf://": "https://huggingface.co/"}
    for prefix, address in places.items():
        if handle.startswith(prefix):
            return f"not named in its files, see {address}{'/'.join(handle.removeprefix(prefix).split('/')[:2])}"
    return "not named in its files: see where it is from"


def _path(text: str, name: str, *, wanted: bool = True) -> str:
    """Returns where a file of a preset is, which is fetched if need be."""
    preset = name_of(text)
    if not preset:
        raise UserError("--backbone=hub: takes hub:PRESET or hub:FOLDER")
    if importlib.util.find_spec("keras_hub") is None:
        raise UserError(f"--backbone={text}: needs keras-hub: pip install -e '.[hub]' in the package's folder")
    if not os.path.isdir(preset):
        return _fetched(text, preset, name) if wanted or preset.startswith("hf://") else ""
    path = f"{preset.rstrip('/')}/{name}"
    if os.path.exists(path) or not wanted:
        return path
    if name == CONVERTER:
        kind = read_part(text, CONFIG).get("class_name", "backbone")
        raise UserError(
            f"--backbone={text}: no {name} in this folder, so its {kind} is of no images; if it is, save_to_preset "
            "of its ImageConverter writes it"
        )
    raise UserError(
        f"--backbone={text}: no {name} in this folder; save_to_preset of KerasHub's backbone and of its image "
        "converter write it"
    )


def _handle(preset: str) -> str:
    """Returns where KerasHub fetches a preset from."""
    try:
        from keras_hub.src.utils.preset_utils import BUILTIN_PRESETS
    except ImportError:
        return preset
    return BUILTIN_PRESETS[preset]["kaggle_handle"] if preset in BUILTIN_PRESETS else preset


def _fetched(text: str, preset: str, name: str) -> str:
    try:
        from keras_hub.src.utils.preset_utils import BUILTIN_PRESETS, get_file
    except ImportError as error:
        raise UserError(f"--backbone={text}: keras-hub cannot be imported ({one_line(error)[:200]})") from None
    if preset not in BUILTIN_PRESETS and "://" not in preset:
        nearest = difflib.get_close_matches(preset, BUILTIN_PRESETS, n=3, cutoff=0.6)
        suggestion = (
            f"did you mean {' or '.join(nearest)}?" if nearest else "https://keras.io/keras_hub/presets/ has them"
        )
        raise UserError(f"--backbone={text}: no such folder, and no preset of KerasHub; {suggestion}")
    try:
        return get_file(preset, name)
    except Exception as error:  # of kagglehub, huggingface_hub, requests
        raise UserError(
            f"--backbone={text}: KerasHub cannot fetch its {name} ({one_line(error)[:200]}); without internet: "
            "Backbone.from_preset(...).save_to_preset(FOLDER) and ImageConverter.from_preset(...).save_to_preset("
            "FOLDER) where there is one, then hub:FOLDER"
        ) from None
