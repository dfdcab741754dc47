"""Which layers of a functional model directly follow one another."""

from collections.abc import Callable
from typing import Any

import keras


def pairs_of_layers(
    model: keras.Model, is_first: Callable[[Any], bool], is_second: Callable[[Any], bool]
) -> list[tuple[Any, Any]]:
    """Returns each pair of layers of which the second alone takes what the first puts out, nested models' too.

    Not of layers that are called several times, or that add something of their outputs to the loss: called as one with
    another, a layer has no output of its own.

    Args:
      model: Whose graphs are asked: layers within layers of other kinds have none.
      is_first: Whether a layer may be the first of a pair.
      is_second: Whether a layer may be the second.
    """
    graphs = [getattr(layer, "_functional", layer) for layer in model._flatten_layers()]  # a Sequential has its own
    graphs = [graph for graph in graphs if hasattr(graph, "_nodes_by_depth")]
    nodes = [node for graph in graphs for level in graph._nodes_by_depth.values() for node in level]
    calls: dict[int, int] = {}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
    pairs = []
    for graph in graphs:
        takers: dict[int, list[Any]] = {id(tensor): [None] for tensor in graph.outputs}
        own = [node for level in graph._nodes_by_depth.values() for node in level]
        for node in own:
            for tensor in node.input_tensors:
                takers.setdefault(id(tensor), []).append(node)
        for node in own:
            following = takers.get(id(node.outputs[0]), [None])
            if len(following) > 1 or following[0] is None:
                continue
            first, second = node.operation, following[0].operation
            is_penalised = any(getattr(one, "activity_regularizer", None) is not None for one in (first, second))
            if is_penalised or not calls[id(first)] == calls[id(second)] == 1:
                continue
            if is_first(first) and is_second(second):
                pairs.append((first, second))
    return pairs
