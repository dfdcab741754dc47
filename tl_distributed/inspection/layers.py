"""Which layers are looked at: by name, by what they put out, and at the ends of blocks."""

import difflib
from collections.abc import Sequence
from typing import Any

import keras

from tl_distributed.errors import UserError
from tl_distributed.models.heads import HEAD_PREFIX
from tl_distributed.models.layer_depths import backbone_blocks

_LEAST_MAP_SIDE = 6  # of the default layer: smaller maps show little of an image
_FEW_BLOCKS = 6  # NASNet's cells all hang together: fewer ends than this say nothing about depth
_NAMES_SHOWN = 5

Shape = tuple[int, ...]


class Layers:
    """The layers that two classifiers have in common, by name and shape of output, from the image to the logits.

    Operations without weights (ConvNeXt adds its residuals by `+`) count as layers.
    """

    def __init__(self, before: keras.Model, after: keras.Model):
        """Raises `UserError` where the two have nothing below the head in common."""
        others = {operation.name: _shape(operation) for operation in before.operations}
        operations = [
            operation
            for operation in after.operations
            if not isinstance(operation, keras.layers.InputLayer)
            and _shape(operation) is not None
            and others.get(operation.name) == _shape(operation)
        ]
        if all(operation.name.startswith(HEAD_PREFIX) for operation in operations):
            raise UserError(f"{before.name} and {after.name} have no layer of the same name and size below the head")
        self._classifier = after
        self._operations = {operation.name: operation for operation in operations}
        self.shapes: dict[str, Shape] = {operation.name: _shape(operation) for operation in operations}

    def maps(self, names: Sequence[str]) -> list[str]:
        """Returns the layers of `--layer`, checked; by default the deepest whose maps show something."""
        return [self._map(name, "--layer") for name in names] or [self._deepest(least_side=_LEAST_MAP_SIDE)]

    def grad_cam(self, name: str) -> str:
        """Returns the layer of `--grad_cam_layer`, checked; by default the last with maps of several places."""
        return self._map(name, "--grad_cam_layer") if name else self._deepest(least_side=2)

    def features(self) -> str:
        """Returns the layer that the head's first Dense layer takes: the pooled features."""
        head = [operation for operation in self._classifier.operations if operation.name.startswith(HEAD_PREFIX)]
        flat = [operation.name for operation in head if not isinstance(operation, _HEAD_LAYERS)]
        backbone = [operation.name for operation in self._classifier.operations if operation not in head]
        name = (backbone + flat)[-1]
        if name not in self.shapes:
            raise UserError(f"--before: its {name} is of another size than that of the run, so nothing can be compared")
        return name

    def compared(self, names: Sequence[str]) -> list[str]:
        """Returns the layers of `--cka_layers`, from the image to the logits."""
        if tuple(names) == ("blocks",):
            ends = self._block_ends()
            return [name for name in self.shapes if name in ends]
        if tuple(names) == ("all",):
            return [name for name, operation in self._operations.items() if getattr(operation, "weights", ())]
        chosen = {self._known(name, "--cka_layers") for name in names}
        return [name for name in self.shapes if name in chosen]

    def _block_ends(self) -> set[str]:
        """Returns the last operation of each block, and the layers of the head that compute something."""
        operations = self._classifier.operations
        place = {id(operation): index for index, operation in enumerate(operations)}
        starts = [min(place[id(layer)] for layer in block) for block in backbone_blocks(self._classifier)]
        is_head = [operation.name.startswith(HEAD_PREFIX) for operation in operations]
        end_of_backbone = is_head.index(True) if True in is_head else len(operations)
        ends = {operations[start - 1].name for start in [*starts[1:], end_of_backbone]}
        if len(ends) < _FEW_BLOCKS:
            ends |= {operation.name for operation in operations if isinstance(operation, keras.layers.Concatenate)}
        head = [operation for operation, in_head in zip(operations, is_head, strict=True) if in_head]
        return ends | {operation.name for operation in head if not isinstance(operation, keras.layers.Dropout)}

    def _deepest(self, *, least_side: int) -> str:
        """Returns the deepest layer with maps of that side, rather one that no connection passes by than a branch."""
        maps = [name for name in self._map_names() if not isinstance(self._operations[name], _PADDING)]
        large = [name for name in maps if min(self.shapes[name][:2]) >= least_side]
        on_every_path = _on_every_path(self._classifier)
        return ([name for name in large if name in on_every_path] or large or maps or self._map_names())[-1]

    def _map_names(self) -> list[str]:
        found = [name for name, shape in self.shapes.items() if len(shape) == 3]
        if not found:
            raise UserError(f"{self._classifier.name} has no layer that puts out maps")
        return found

    def _map(self, name: str, flag: str) -> str:
        self._known(name, flag)
        shape = self.shapes[name]
        if len(shape) != 3:
            raise UserError(
                f"{flag}={name}: puts out {'x'.join(map(str, shape))} numbers, not maps; layers with maps near it: "
                + ", ".join(self._nearest(name, self._map_names()))
            )
        return name

    def _known(self, name: str, flag: str) -> str:
        if name not in self.shapes:
            nearest = self._nearest(name, list(self.shapes))
            raise UserError(f"{flag}={name}: {self._classifier.name} has no such layer; near it: {', '.join(nearest)}")
        return name

    def _nearest(self, name: str, among: list[str]) -> list[str]:
        """Returns names spelled alike; if there are none, the last ones."""
        folded = {other.lower(): other for other in among}
        containing = [other for low, other in folded.items() if name.lower() in low or low in name.lower()]
        alike = [folded[low] for low in difflib.get_close_matches(name.lower(), folded, n=_NAMES_SHOWN, cutoff=0.5)]
        return list(dict.fromkeys([*alike, *containing]))[:_NAMES_SHOWN] or among[-_NAMES_SHOWN:]


_HEAD_LAYERS = (keras.layers.Dense, keras.layers.Dropout)
_PADDING = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


def _on_every_path(classifier: keras.Model) -> set[str]:
    """Returns the layers through which everything goes that later layers are computed from."""
    operations = classifier.operations
    place = {id(operation): index for index, operation in enumerate(operations)}
    reach, found = 0, set()
    last_use = [0] * len(operations)
    for index, operation in enumerate(operations):
        for tensor in operation.input if isinstance(operation.input, (list, tuple)) else [operation.input]:
            producer = place[id(tensor._keras_history.operation)]
            last_use[producer] = max(last_use[producer], index)
    for index, operation in enumerate(operations):
        if reach <= index:
            found.add(operation.name)
        reach = max(reach, last_use[index])
    return found


def computes_in_head(name: str) -> bool:
    """Tells whether a layer is of the head and has weights."""
    return name.startswith(HEAD_PREFIX) and ("dense" in name or "logits" in name)


def _shape(operation: Any) -> Shape | None:
    """Returns the shape of one example's output; `None` for several outputs or calls, or a side that is not known."""
    try:
        shape = tuple(operation.output.shape[1:])
    except (AttributeError, ValueError):  # called more than once; a list of outputs
        return None
    return shape if shape and None not in shape else None
