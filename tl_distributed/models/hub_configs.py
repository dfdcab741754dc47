"""What KerasHub's layers write of themselves and cannot be made anew from, as a model that is opened has to be.

Found in KerasHub 0.32. They are mended where a model is written, so that the file opens in stock Keras and KerasHub.
"""

import functools
import inspect
import sys
from typing import Any

_MODULE = "keras_hub.src.models.vit.vit_layers"
# Theirs name what follows from the rest, which the constructors refuse, and leave out whether there is a bias.
_CLASSES = ("ViTPatchingAndEmbedding", "ViTEncoderBlock")
_OF_EVERY_LAYER = ("name", "trainable", "dtype")
_DINOV2 = "keras_hub.src.models.dinov2.dinov2_layers"


def mend_configs() -> None:
    """Mends the classes; where KerasHub has not been imported, no model has layers of it, and nothing is done."""
    for name in _CLASSES:
        kind = getattr(sys.modules.get(_MODULE), name, None)
        if kind is not None:
            _mend(kind)
    if _DINOV2 in sys.modules:
        # Trained positions are written where the sum of what they moved by is positive, and else those of before.
        sys.modules[_DINOV2].DINOV2Embedding._is_interpolated_position_embeddings_updated = lambda _: True


@functools.cache
def _mend(kind: Any) -> None:
    get_config, taken = kind.get_config, set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}

    @functools.wraps(get_config)
    def mended(self: Any) -> dict[str, Any]:
        config = {name: value for name, value in get_config(self).items() if name in taken or name in _OF_EVERY_LAYER}
        return {**{name: getattr(self, name) for name in taken if hasattr(self, name)}, **config}

    kind.get_config = mended
