"""Models and functions that a program gives to `train`: kept under a name, which the settings hold in their place."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tl_distributed.errors import UserError
from tl_distributed.models.plugins import give, source_of_function

if TYPE_CHECKING:
    import keras


def flags_of(
    flags: dict[str, Any],
    model: "keras.Model | Callable[[int], keras.Model] | None",
    normalization: str | Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """Returns the flags with what names the model and the function in them.

    Raises:
      UserError: A backbone beside the model, or a model that cannot be copied.
    """
    flags = dict(flags)
    if callable(normalization):
        flags["normalization"] = give(normalization, name_of(normalization), source_of_function(normalization))
    elif normalization is not None:
        flags["normalization"] = normalization
    if model is None:
        return flags
    if "backbone" in flags:
        raise UserError(f"model is the backbone; drop backbone={flags['backbone']!r}")
    if not hasattr(model, "get_config"):
        if not callable(model):
            raise UserError(f"model takes a keras.Model, or a function of the image side, not {type(model).__name__}")
        return {**flags, "backbone": give(model, name_of(model), source_of_function(model))}
    from tl_distributed.models.own_networks import anew, digest_source, image_side

    keep = bool(flags.get("pretrained"))
    if not flags.get("image_size") and image_side(model):
        flags["image_size"] = image_side(model)
    content = digest_source(model, with_weights=keep)
    return {**flags, "backbone": give(lambda size: anew(model, size, keep_weights=keep), model.name, content)}


def name_of(function: Callable[..., Any]) -> str:
    """Returns the module and name of a function or class, for people."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
