"""Cuts a classifier where its frozen part ends: the output of the frozen part never changes while the rest trains."""

import dataclasses
import math
from typing import Any

import keras

from tl_distributed.bank.stillness import stays_still
from tl_distributed.bank.tail import model_from, tensors_of_shapes
from tl_distributed.models.calls import bottlenecks, calls_in_order, macs_of
from tl_distributed.models.freezing import draws_at_random

# The most that computing frozen layers again in every step may cost, as a share of the tail's own forward pass, for
# the sake of a boundary that takes less memory. A training step is three forward passes: 20 % here is 7 % of it.
_RECOMPUTED_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Cut:
    """A classifier in two parts that share its layers and variables.

    Attributes:
      prefix: Frozen part, from the classifier's input to a list of the tensors at the boundary.
      tail: The rest, from that list to the logits; its trainable variables are those of the classifier.
      shapes: Of each tensor at the boundary, without the batch.
      dtypes: Its type, e.g. "float32".
    """

    prefix: keras.Model
    tail: keras.Model
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


def cut_at_frozen(classifier: keras.Model, *, in_training: bool = True) -> Cut | None:
    """Cuts a classifier at the end of its frozen part.

    A layer is fixed if it is frozen or has no variables at all, and so is whatever it is fed by; but not one that draws
    at random in training, or one of one's own that makes something else of an image from step to step. The boundary are
    the outputs of fixed layers that others take. Where shortcuts cross it, or it is wide (an expanded layer), the tail
    begins at an earlier single tensor that holds fewer numbers, as long as the layers in between cost next to nothing.
    What has no batch is no part of an image's row: it is a constant of the tail (angles of rotary positions), or
    computed there again (a table of positions).

    Args:
      classifier: Functional model after `freezing.freeze_for`, of static image size.
      in_training: Whether the rest is trained as the whole would be; else frozen layers are fixed, as in inference.

    Returns:
      The two parts; `None` where nothing is frozen before the first layer that trains.
    """
    nodes = calls_in_order(classifier)
    of_shapes = tensors_of_shapes(nodes)
    moving = _moving(nodes, of_shapes, in_training)
    fixed = [node for node in nodes if id(node) not in moving and id(node.outputs[0]) not in of_shapes]
    producer = {id(tensor): node for node in nodes for tensor in node.outputs}
    consumed = [tensor for node in nodes if id(node) in moving for tensor in node.input_tensors]
    banked = (tensor for tensor in consumed if id(producer[id(tensor)]) not in moving and id(tensor) not in of_shapes)
    boundary = list({id(tensor): tensor for tensor in banked}.values())
    needed = _ancestors(boundary, producer)
    fixed = [node for node in fixed if id(node) in needed]
    if not any(map(_has_weights, fixed)):
        return None
    tail_macs = sum(macs_of(node) for node in nodes if id(node) in moving)
    boundary = _cheapest(boundary, fixed, _RECOMPUTED_SHARE * tail_macs)
    return Cut(
        keras.Model(classifier.input, boundary, name=f"{classifier.name}_prefix"),
        model_from(classifier, boundary, of_shapes, name=f"{classifier.name}_tail"),
        tuple(tuple(tensor.shape[1:]) for tensor in boundary),
        tuple(keras.backend.standardize_dtype(tensor.dtype) for tensor in boundary),
    )


def _moving(nodes: list[Any], of_shapes: dict[int, Any], in_training: bool) -> set[int]:
    """Returns the ids of the nodes whose output changes in training, from step to step or from draw to draw.

    So do those whose output has no batch, and cannot be banked by image, unless it is of shapes alone.
    """
    moving, moving_tensors = set(), set()
    for node in nodes:
        changes = _is_trained(node.operation)
        batchless = any(tensor.shape[:1] != (None,) and id(tensor) not in of_shapes for tensor in node.outputs)
        is_fed = any(id(tensor) in moving_tensors for tensor in node.input_tensors)
        if changes or batchless or is_fed or (in_training and not _is_fixed(node)):
            moving.add(id(node))
            moving_tensors.update(map(id, node.outputs))
    return moving


def _is_trained(operation: Any) -> bool:
    return bool(getattr(operation, "variables", ())) and operation.trainable


def _is_fixed(node: Any) -> bool:
    """Whether a call that does not train makes the same of an image in every step."""
    # A dropout layer has a variable too: the state of its generator.
    draws = bool(getattr(node.operation, "variables", ())) and draws_at_random(node.operation)
    return not draws and stays_still(node)


def _ancestors(tensors: list[Any], producer: dict[int, Any]) -> set[int]:
    found: set[int] = set()
    waiting = [producer[id(tensor)] for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found.add(id(node))
            waiting += [producer[id(tensor)] for tensor in node.input_tensors]
    return found


def _cheapest(boundary: list[Any], fixed: list[Any], most_macs: float) -> list[Any]:
    """Returns the boundary, or an earlier single tensor that all of it is computed from, if that holds less.

    A tensor is such a bottleneck if, once everything up to it has been computed, it alone is still needed.
    """
    first = next(index for index, node in enumerate(fixed) if _has_weights(node))
    choices = [(_size(boundary), 0, boundary)]
    for index, tensor in bottlenecks(fixed, boundary):
        later_macs = sum(map(macs_of, fixed[index + 1 :]))
        if index >= first and later_macs <= most_macs:
            choices.append((_size([tensor]), later_macs, [tensor]))
    return min(choices, key=lambda choice: choice[:2])[2]


def _has_weights(node: Any) -> bool:
    return bool(getattr(node.operation, "weights", ()))


def _size(tensors: Any) -> int:
    return sum(math.prod(tensor.shape[1:]) for tensor in tensors)
