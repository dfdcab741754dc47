"""Backbones of KerasHub (extra `hub`): `hub:PRESET` or `hub:FOLDER`, with the normalisation of their image converter.

A preset is data: its JSON names a class of KerasHub, and nothing else is made of it. Importing this module imports
neither TensorFlow nor KerasHub.
"""

import functools
import json
import logging
import os
import re
from typing import Any

from tl_distributed.errors import UserError, one_line

_LOG = logging.getLogger(__name__)
_PREFIX = "hub:"
_CONFIG, _CONVERTER, _README = "config.json", "image_converter.json", "README.md"
_PACKAGE = "keras_hub."
_LICENCE = re.compile(r"^license:\s*[\"']?([^\"'\n]+)", re.MULTILINE)
_FEWEST_BLOCKS = 2  # of one class, that make a layer a stack of blocks


def is_hub(text: str) -> bool:
    """Whether a setting names a preset of KerasHub."""
    return text.startswith(_PREFIX)


@functools.cache
def preset_image_size(text: str) -> int:
    """Returns the side in pixels that a preset's images have; 0 where it does not say.

    Raises:
      UserError: No such preset or folder, one of no images, or KerasHub is not installed.
    """
    config, converter = _checked(text, _CONFIG), _checked(text, _CONVERTER)
    shapes = (
        converter["config"].get("image_size"), config["config"].get("image_shape"),
        config["config"].get("vision_encoder", {}).get("config", {}).get("image_shape"),
    )  # fmt: skip
    return next((int(shape[0]) for shape in shapes if shape and shape[0]), 0)


def build_from_preset(text: str, image_size: int, *, load_weights: bool) -> Any:
    """Builds the backbone of a preset for images in [0, 255].

    Stacks of blocks (an encoder of a transformer, a stage) are opened, so that each block is a layer of the model,
    which freezing, layer decay and the feature bank know one by one.

    Args:
      text: `hub:PRESET` or `hub:FOLDER`.
      image_size: Side in pixels.
      load_weights: Whether it has the preset's weights, and not random ones.

    Returns:
      `keras.Model` from `[batch, image_size, image_size, 3] float32` in [0, 255] to features of rank 2, 3 or 4.

    Raises:
      UserError: As `preset_image_size`, another size than its weights take, or a backbone of other inputs.
    """
    import keras

    preset_image_size(text)  # says what is wrong with the preset, before anything of it is made
    backbone = _vision_part(_from_preset(text, image_size, load_weights), text)
    converter = _converter(text)
    image = keras.Input((image_size, image_size, 3), name="image")
    scale, offset = converter.scale, converter.offset
    normalized = keras.layers.Rescaling(
        1.0 if scale is None else scale, 0.0 if offset is None else offset, name="rescaling"
    )(image)
    model = keras.Model(image, _opened(backbone, image, normalized, text))
    licence = _licence(text)
    _LOG.info(
        "KerasHub %s of %s: %s parameters, licence of its weights %s.", type(backbone).__name__,
        text.removeprefix(_PREFIX), f"{model.count_params():,}", licence or "not named there: see where it is from",
    )  # fmt: skip
    return model


def _from_preset(text: str, image_size: int, load_weights: bool) -> Any:
    import keras_hub

    preset, shape = text.removeprefix(_PREFIX), (image_size, image_size, 3)
    settings = _checked(text, _CONFIG)["config"]
    # Of a model of images and texts the image's part keeps the size that it was made for.
    given = {"image_shape": shape} if "image_shape" in settings else {}
    try:
        return keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights, **given)
    except Exception as error:  # KerasHub raises whatever Keras, h5py and its downloads do
        native = preset_image_size(text)
        hint = f"; its weights are for --image_size={native}" if native not in (0, image_size) else ""
        raise UserError(f"--backbone={text}: KerasHub cannot make it ({one_line(error)[:200]}{hint})") from error


def _vision_part(backbone: Any, text: str) -> Any:
    """Returns the part that takes images alone: of SigLIP and its like, the vision tower."""
    import keras

    backbone = getattr(backbone, "vision_encoder", backbone)
    names = list(backbone.input) if isinstance(backbone.input, dict) else []
    if len(keras.tree.flatten(backbone.input)) != 1:
        raise UserError(f"--backbone={text}: {type(backbone).__name__} takes {', '.join(names)}, and not images alone")
    if len(keras.tree.flatten(backbone.output)) != 1:
        raise UserError(f"--backbone={text}: {type(backbone).__name__} returns several outputs, of which none is meant")
    return backbone


def _opened(backbone: Any, image: Any, normalized: Any, text: str) -> Any:
    """Returns the backbone's output on normalised images, by its own layers; those of stacks are called one by one."""
    import keras

    (given,) = keras.tree.flatten(backbone.input)
    if tuple(given.shape[1:]) not in (tuple(image.shape[1:]), (None, None, 3)):
        raise UserError(
            f"--backbone={text}: takes images of {given.shape[1]} x {given.shape[2]} pixels; give "
            f"--image_size={given.shape[1]}"
        )

    def call(layer: Any, *arguments: Any, **named: Any) -> Any:
        arguments, named = keras.tree.map_structure(
            lambda value: normalized if value is image else value, (arguments, named)
        )
        if not _is_stack(layer):
            return layer(*arguments, **named)
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            inner.name = f"{layer.name}_{inner.name}"  # the blocks of each stage have the same names
        return layer.call(*arguments, **named)

    inputs = keras.tree.map_structure(lambda _: image, backbone.input)
    model = keras.models.clone_model(
        backbone, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call
    )
    (output,) = keras.tree.flatten(model.output)
    return output


def _is_stack(layer: Any) -> bool:
    """Whether a layer of KerasHub is but a row of blocks of one class, with no weights of its own."""
    if not type(layer).__module__.startswith(_PACKAGE) or layer._trainable_variables or layer._non_trainable_variables:
        return False
    blocks = [inner for inner in layer._flatten_layers(include_self=False, recursive=False) if inner.weights]
    kinds = [type(inner) for inner in blocks if type(inner).__module__.startswith(_PACKAGE)]
    is_row = hasattr(layer, "num_layers") or hasattr(layer, "blocks")  # an encoder's; a stage's of Swin
    return is_row and any(kinds.count(kind) >= _FEWEST_BLOCKS for kind in kinds)


def _converter(text: str) -> Any:
    import keras_hub

    try:
        return keras_hub.layers.ImageConverter.from_preset(text.removeprefix(_PREFIX))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"--backbone={text}: its image converter cannot be read ({one_line(error)[:200]})") from error


def _checked(text: str, name: str) -> dict[str, Any]:
    """Reads a file of JSON of the preset, that names a class of KerasHub."""
    try:
        content = json.loads(_read(text, name))
    except (ValueError, TypeError) as error:
        raise UserError(f"--backbone={text}: its {name} is no JSON ({one_line(error)})") from None
    module = content.get("module") if isinstance(content, dict) else None
    if module is None:  # of the Transformers library or of timm, which KerasHub converts
        raise UserError(
            f"--backbone={text}: its {name} is not of KerasHub's format; Backbone.from_preset(...) reads it, "
            "save_to_preset(FOLDER) of it and of its ImageConverter makes a folder that is, for hub:FOLDER"
        )
    if not isinstance(module, str) or not module.startswith(_PACKAGE) or "config" not in content:
        raise UserError(
            f"--backbone={text}: its {name} names {module}, and a preset is made of KerasHub's own classes; "
            "for others there is --backbone=MODULE:FUNCTION"
        )
    return content


def _read(text: str, name: str) -> str:
    preset = text.removeprefix(_PREFIX)
    if not preset:
        raise UserError("--backbone=hub: takes hub:PRESET or hub:FOLDER")
    if os.path.isdir(preset):
        path = f"{preset.rstrip('/')}/{name}"
        if not os.path.exists(path):
            raise UserError(
                f"--backbone={text}: no {name} in this folder; save_to_preset of KerasHub's backbone and of its image "
                "converter write it"
            )
    else:
        path = _fetched(text, preset, name)
    with open(path, encoding="utf-8") as file:
        return file.read()


def _fetched(text: str, preset: str, name: str) -> str:
    """Downloads a file of a preset by its name; returns where it is."""
    try:
        from keras_hub.src.utils.preset_utils import get_file
    except ImportError as error:
        raise UserError(
            f"--backbone={text}: KerasHub is missing ({one_line(error)}); pip install 'tl_distributed[hub]'"
        ) from None
    try:
        return get_file(preset, name)
    except Exception as error:  # of kagglehub, huggingface_hub, requests
        raise UserError(
            f"--backbone={text}: no such folder, and KerasHub cannot fetch it ({one_line(error)[:200]}); without "
            "internet: Backbone.from_preset(...).save_to_preset(FOLDER) where there is one, then hub:FOLDER"
        ) from None


def _licence(text: str) -> str:
    """Returns the licence that the preset's README names, as Hugging Face's model cards do; empty where none is."""
    preset = text.removeprefix(_PREFIX)
    path = f"{preset.rstrip('/')}/{_README}"
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        found = _LICENCE.search(file.read())
    return found[1].strip() if found else ""
