"""Cuts a model into stretches whose gradients travel one after the other, those of the last layers first."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras

from tl_distributed.models.calls import bottlenecks, calls_in_order, macs_of


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a functional model that hands on a single tensor, and shares no variable with the others.

    Attributes:
      nodes: Calls of layers, each after those that feed it.
      inputs: Keras's tensors that it takes: those of the model, or the output of the segment before.
      output: Keras's tensor that it hands on; of the last one the logits.
      trainable: Its Keras variables, in the model's order; not empty where there are several segments.
      non_trainable: Likewise; may be empty.
    """

    nodes: tuple[Any, ...]
    inputs: tuple[Any, ...]
    output: Any
    trainable: tuple[Any, ...]
    non_trainable: tuple[Any, ...]


def split_for_buckets(model: keras.Model, num_buckets: int) -> list[Segment]:
    """Returns the segments of a model in its own order: at most as many as asked for.

    Cut is where a single tensor leads on (not right behind a kernel, with which XLA fuses what follows), and so that
    all gradients have been sent the soonest, if sending them takes as long as the backward pass: where one of the two
    takes much longer, it matters little where the cuts are.

    Args:
      model: Functional, of static image size and one output, its layers frozen as they will train.
      num_buckets: 1 or more.
    """
    nodes = calls_in_order(model)
    calls = _calls_of_variables(nodes)
    elements = [0] * len(nodes)
    for variable in model.trainable_variables:
        if id(variable) in calls:
            elements[calls[id(variable)][0]] += math.prod(variable.shape)
    first = next((index for index, count in enumerate(elements) if count), 0)
    macs = [macs_of(node) if index >= first else 0 for index, node in enumerate(nodes)]
    ends = {
        index + 1: tensor
        for index, tensor in bottlenecks(nodes, model.outputs)
        if not macs_of(nodes[index]) and not any(called[0] <= index < called[-1] for called in calls.values())
    }
    cuts = _soonest_sent(list(ends), macs if any(macs) else elements, elements, num_buckets)
    edges = list(itertools.pairwise((0, *cuts, len(nodes))))
    # What no call has comes last, with the output.
    places = {key: called[0] for key, called in calls.items()}

    def variables_within(variables: Sequence[Any], start: int, end: int) -> tuple[Any, ...]:
        return tuple(one for one in variables if start <= places.get(id(one), len(nodes) - 1) < end)

    return [
        Segment(
            tuple(nodes[start:end]),
            (ends[start],) if start else tuple(model.inputs),
            ends.get(end, model.outputs[0]),
            variables_within(model.trainable_variables, start, end),
            variables_within(model.non_trainable_variables, start, end),
        )
        for start, end in edges
    ]


def _calls_of_variables(nodes: Sequence[Any]) -> dict[int, list[int]]:
    """Returns the indices of the nodes that have a variable, ascending, by its `id`."""
    calls: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for variable in getattr(node.operation, "variables", ()):
            calls.setdefault(id(variable), []).append(index)
    return calls


def _soonest_sent(
    places: Sequence[int], work: Sequence[float], size: Sequence[float], num_buckets: int
) -> tuple[int, ...]:
    """Returns the places of the cuts, ascending, with which the last bucket has been sent the soonest.

    A bucket is sent once the backward pass has come down to where its segment begins and the one before is through.

    Args:
      places: Indices of nodes before which may be cut.
      work: Of each node, in the backward pass.
      size: Of each node's gradients.
      num_buckets: The most.
    """
    work_from, size_from = _shares_from(work), _shares_from(size)

    @functools.cache
    def best(start: int, buckets: int) -> tuple[float, tuple[int, ...]]:
        """Returns when all from `start` on has been sent, and the cuts."""
        ways = [(work_from[start] + size_from[start], ())]
        for place in places if buckets > 1 else ():
            if place > start and size_from[start] > size_from[place] > 0:
                sent, cuts = best(place, buckets - 1)
                own = size_from[start] - size_from[place]
                ways.append((max(sent, work_from[start]) + own, (place, *cuts)))
        # Of equals the latest place, behind activation and pooling: less crosses it.
        return min(ways, key=lambda way: (way[0], len(way[1]), [-place for place in way[1]]))

    return best(0, num_buckets)[1]


def _shares_from(values: Sequence[float]) -> list[float]:
    """Returns for each index the share of the values from it on."""
    total = sum(values) or 1
    return [sum(values[index:]) / total for index in range(len(values) + 1)]
