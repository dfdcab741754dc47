"""Backbones of KerasHub (extra `hub`): `hub:PRESET` or `hub:FOLDER`, with the normalisation of their image converter.

Importing this module imports neither TensorFlow nor KerasHub.
"""

import logging
from typing import Any

from tl_distributed.errors import UserError, one_line
from tl_distributed.models.hub_configs import mend_configs, without_warnings
from tl_distributed.models.hub_files import CONFIG, name_of, preset_image_size, preset_licence, read_part

_LOG = logging.getLogger(__name__)
_PACKAGE = "keras_hub."
_PATCHES_OF_SWIN = ("keras_hub.src.models.swin_transformer.swin_transformer_layers", "PatchEmbedding")
_FEWEST_BLOCKS = 2  # of one class, that make a layer a stack of blocks


@without_warnings()
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
      UserError: As `hub_files.preset_image_size`, another size than its weights take, or a backbone of other inputs.
    """
    import keras

    preset_image_size(text)  # says what is wrong with the preset, before anything of it is made
    backbone = _with_own_positions(_vision_part(_from_preset(text, image_size, load_weights), text))
    mend_configs()
    converter = _converter(text)
    (given,) = keras.tree.flatten(backbone.input)
    # By the preset's name: Keras warns where a model takes a dictionary, and its tensors have other names.
    image = keras.Input((image_size, image_size, 3), name=given.name)
    scale, offset = converter.scale, converter.offset
    normalized = keras.layers.Rescaling(
        1.0 if scale is None else scale, 0.0 if offset is None else offset, name="rescaling"
    )(image)
    model = keras.Model(image, _opened(backbone, image, normalized, text))
    _LOG.info(
        "KerasHub's %s of %s: %s parameters. Licence of its weights: %s.", type(backbone).__name__, name_of(text),
        f"{model.count_params():,}", preset_licence(text),
    )  # fmt: skip
    return model


def _from_preset(text: str, image_size: int, load_weights: bool) -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(f"--backbone={text}: keras-hub cannot be imported ({one_line(error)[:200]})") from None
    shape = (image_size, image_size, 3)
    settings = read_part(text, CONFIG)["config"]
    # Of a model of images and texts the image's part keeps the size that it was made for.
    given = {"image_shape": shape} if "image_shape" in settings else {}
    try:
        return keras_hub.models.Backbone.from_preset(name_of(text), load_weights=load_weights, **given)
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


def _with_own_positions(backbone: Any) -> Any:
    """Returns DINOv2's backbone with positions of the size that it is for.

    It keeps those of its preset, and saves what has been trained interpolated to their size and back, which is not what
    was trained.
    """
    config = backbone.get_config()
    if config.get("position_embedding_shape") in (None, config.get("image_shape")):
        return backbone
    fresh = type(backbone).from_config({**config, "position_embedding_shape": config["image_shape"]})
    for own, given in zip(fresh.weights, backbone.weights, strict=True):
        if own.shape == given.shape:
            own.assign(given)
    (embedding,) = [layer for layer in fresh._flatten_layers() if hasattr(layer, "interpolated_position_embeddings")]
    embedding.position_embeddings.assign(embedding.interpolated_position_embeddings)
    return fresh


def _opened(backbone: Any, image: Any, normalized: Any, text: str) -> Any:
    """Returns the backbone's output on normalised images, by its own layers; those of stacks are called one by one."""
    import keras

    (given,) = keras.tree.flatten(backbone.input)
    if tuple(given.shape[1:]) not in (tuple(image.shape[1:]), (None, None, 3)):
        raise UserError(
            f"--backbone={text}: takes images of {given.shape[1]} x {given.shape[2]} pixels; give "
            f"--image_size={given.shape[1]}"
        )
    for operation in backbone.operations:
        operation._inbound_nodes.clear()  # of the graph that is taken apart: what a layer's `input` is must be the new

    def call(layer: Any, *arguments: Any, **named: Any) -> Any:
        arguments, named = keras.tree.map_structure(
            lambda value: normalized if value is image else value, (arguments, named)
        )
        if (type(layer).__module__, type(layer).__name__) == _PATCHES_OF_SWIN:
            return _swin_patches(layer, *arguments)
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


def _swin_patches(layer: Any, images: Any) -> Any:
    """Calls the parts of a layer that itself could not be read back: only data, and not its shape, builds it."""
    import keras

    for inner in filter(None, (layer.proj, layer.norm)):
        inner.name = f"{layer.name}_{inner.name}"
    patches = keras.layers.Reshape((-1, layer.embed_dim), name=f"{layer.name}_in_a_row")(layer.proj(images))
    return patches if layer.norm is None else layer.norm(patches)


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
        return keras_hub.layers.ImageConverter.from_preset(name_of(text))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"--backbone={text}: its image converter cannot be read ({one_line(error)[:200]})") from error
