"""What KerasHub's layers write of themselves and cannot be made anew from, as a model that is opened has to be.

Found in KerasHub 0.32. They are mended where a model is written, so that the file opens in stock Keras and KerasHub.
So are the shapes that layers name wrongly of their output, or do not know.
"""

import contextlib
import functools
import inspect
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_MODULE = "keras_hub.src.models.vit.vit_layers"
# Theirs name what follows from the rest, which the constructors refuse, and leave out whether there is a bias.
_CLASSES = ("ViTPatchingAndEmbedding", "ViTEncoderBlock")
_OF_EVERY_LAYER = ("name", "trainable", "dtype")
_DINOV2 = "keras_hub.src.models.dinov2.dinov2_layers"
_SIGLIP = "keras_hub.src.models.siglip.siglip_layers"
_SWIN = "keras_hub.src.models.swin_transformer.swin_transformer_layers"
# Of Swin: its attention is given a mask of windows that Keras takes for one of padding; its blocks have no `build`.
_OF_NO_USE = (r"Layer 'attn' .* was passed an input with a mask attached", r"`build\(\)` was called on layer")


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps back what Keras says of each of KerasHub's blocks, and nobody who trains one can mend."""
    with warnings.catch_warnings():
        for message in _OF_NO_USE:
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


def mend_configs() -> None:
    """Mends the classes; where KerasHub has not been imported, no model has layers of it, and nothing is done."""
    for name in _CLASSES:
        kind = getattr(sys.modules.get(_MODULE), name, None)
        if kind is not None:
            _mend(kind)
    if _DINOV2 in sys.modules:
        # Trained positions are written where the sum of what they moved by is positive, and else those of before.
        sys.modules[_DINOV2].DINOV2Embedding._is_interpolated_position_embeddings_updated = lambda _: True
    if _SIGLIP in sys.modules:
        # It counts a class token, and has none.
        sys.modules[_SIGLIP].SigLIPVisionEmbedding.compute_output_shape = lambda layer, shape: (
            shape[0], layer.num_positions, layer.hidden_dim
        )  # fmt: skip
    if _SWIN in sys.modules:
        sys.modules[_SWIN].PatchMerging.compute_output_spec = _merged_patches


def _merged_patches(layer: Any, x: Any, H: int, W: int) -> Any:
    """Returns the output of Swin's PatchMerging: of itself its number of tokens is unknown, and of all that follows."""
    import keras

    traced = keras.Layer.compute_output_spec(layer, x, H=H, W=W)  # which builds what is inside
    return keras.KerasTensor((x.shape[0], -(-H // 2) * -(-W // 2), traced.shape[-1]), dtype=traced.dtype)


@functools.cache
def _mend(kind: Any) -> None:
    get_config, taken = kind.get_config, set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}

    @functools.wraps(get_config)
    def mended(self: Any) -> dict[str, Any]:
        config = {name: value for name, value in get_config(self).items() if name in taken or name in _OF_EVERY_LAYER}
        return {**{name: getattr(self, name) for name in taken if hasattr(self, name)}, **config}

    kind.get_config = mended
