"""Configs of KerasHub's layers from which the layers cannot be made anew, as a model that is opened has to be.

Found in KerasHub 0.32. They are mended where a model is written, so that the file opens in stock Keras and KerasHub.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

_MODELS = "keras_hub.src.models."
_MENDED = "mended_by_tl_distributed"
_OF_EVERY_LAYER = ("name", "trainable", "dtype")


def mend_configs() -> None:
    """Mends the classes; where KerasHub has not been imported, no model has layers of it, and nothing is done."""
    for module, names, config_of in (
        # Theirs name what follows from the rest, which the constructors refuse, and leave out whether there is a bias.
        (f"{_MODELS}vit.vit_layers", ("ViTPatchingAndEmbedding", "ViTEncoderBlock"), _of_constructor),
        # Its own fails: it writes the class of its normalisation as if it were a layer.
        (f"{_MODELS}swin_transformer.swin_transformer_layers", ("PatchEmbedding",), _with_class_of_norm),
    ):
        for name in names:
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and not hasattr(kind.get_config, _MENDED):
                kind.get_config = _mended(kind.get_config, config_of)


def _mended(get_config: Callable[[Any], Any], config_of: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(get_config)
    def mended(self: Any) -> dict[str, Any]:
        return config_of(self, get_config)

    setattr(mended, _MENDED, True)
    return mended


def _of_constructor(layer: Any, get_config: Callable[[Any], Any]) -> dict[str, Any]:
    """Returns what the constructor takes, and that alone."""
    taken = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    config = {name: value for name, value in get_config(layer).items() if name in taken or name in _OF_EVERY_LAYER}
    return {**{name: getattr(layer, name) for name in taken if hasattr(layer, name)}, **config}


def _with_class_of_norm(layer: Any, get_config: Callable[[Any], Any]) -> dict[str, Any]:
    norm, layer.norm_layer = layer.norm_layer, None
    try:
        config = get_config(layer)
    finally:
        layer.norm_layer = norm
    # So Keras writes a thing that it finds by its name, and is given back itself.
    named = {"module": "keras.layers", "class_name": "function", "config": norm.__name__} if norm else None
    return {**config, "norm_layer": named}
