"""A functional model as the list of its calls of layers: where it can be cut, and running a part of it."""

from collections.abc import Iterator, Sequence
from typing import Any

from tl_distributed.models.flops import operation_macs


def calls_in_order(model: Any) -> list[Any]:
    """Returns the nodes of a functional model's graph, its inputs and calls of layers, each after those that feed it.

    All inputs come first: a later one would be needed by what follows a bottleneck without leading through it.
    """
    by_depth = model._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return sorted(nodes, key=lambda node: not node.is_input)


def bottlenecks(nodes: Sequence[Any], needed: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Yields (index, tensor) where the one tensor alone is still needed once the nodes up to the index have been run.

    Args:
      nodes: In an order in which they can be run.
      needed: Tensors that are needed after the last one.
    """
    last_use = {id(tensor): len(nodes) for tensor in needed}
    for index, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last_use[id(tensor)] = max(index, last_use.get(id(tensor), 0))
    live: dict[int, Any] = {}
    for index, node in enumerate(nodes):
        live.update((id(tensor), tensor) for tensor in node.outputs if id(tensor) in last_use)
        live = {key: tensor for key, tensor in live.items() if last_use[key] > index}
        if len(live) == 1:
            yield index, next(iter(live.values()))


def macs_of(node: Any) -> int:
    """Returns the multiply-accumulates of an image in one call, of which plain operations are taken to have none."""
    return operation_macs(node.operation, node)


def run_in_training(nodes: Sequence[Any], values: dict[int, Any]) -> None:
    """Runs nodes as the model itself does in training, and adds what they return to `values`.

    Args:
      nodes: In an order in which they can be run; those of the model's inputs do nothing.
      values: Of the model's tensors by their `id`: what the nodes take from outside.
    """
    import keras

    for node in nodes:
        if node.is_input:
            continue
        arguments, named = node.arguments.fill_in(values)
        # As Keras does it: a layer whose own call does not take it hands it on to those inside.
        if "training" in getattr(node.operation, "_call_context_args", ()):
            named["training"] = True
        outputs = keras.tree.flatten(node.operation(*arguments, **named))
        values.update((id(tensor), value) for tensor, value in zip(node.outputs, outputs, strict=True))
