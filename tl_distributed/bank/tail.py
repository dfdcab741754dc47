"""The part of a classifier that trains, as a model from the tensors at the boundary to the logits."""

from collections.abc import Sequence
from typing import Any

import keras

from tl_distributed.models.calls import calls_in_order


def tensors_of_shapes(nodes: Sequence[Any]) -> dict[int, Any]:
    """Returns the tensors without a batch that depend on the images' size alone, by their `id`.

    Such are the angles of rotary positions, which DINOv3 computes from its images and takes in every block.

    Args:
      nodes: Of `calls_in_order`.
    """
    without_weights: set[int] = set()  # tensors that are made of the images alone
    found: dict[int, Any] = {}
    for node in nodes:
        if getattr(node.operation, "weights", ()) or not without_weights.issuperset(map(id, node.input_tensors)):
            continue
        without_weights.update(map(id, node.outputs))
        if not node.is_input and all(tensor.shape[:1] != (None,) for tensor in node.outputs):
            found.update((id(tensor), tensor) for tensor in node.outputs)
    return found


def model_from(
    classifier: keras.Model, boundary: Sequence[Any], of_shapes: dict[int, Any], *, name: str
) -> keras.Model:
    """Returns the model from inner tensors to the classifier's output.

    Keras notes the calls of such a model in the layers, which then have two outputs: `layer.output` raises. The
    model itself does not need these notes, so they are taken back.

    Args:
      classifier: Functional model of static image size.
      boundary: Tensors of it, with a batch.
      of_shapes: `tensors_of_shapes` of it: those that the model needs become constants of it.
      name: Of the model.
    """
    noted = [notes for layer in classifier.operations for notes in (layer._inbound_nodes, layer._outbound_nodes)]
    lengths = [len(notes) for notes in noted]
    nodes = _nodes_between(classifier, boundary, of_shapes)
    constants = {id(tensor): tensor for node in nodes for tensor in node.input_tensors if id(tensor) in of_shapes}
    first_layers = {id(tensor._keras_history.operation) for tensor in boundary}
    # Keras puts an input in the place of the layer that made it, in its later calls too.
    calls_again = any(id(node.operation) in first_layers for node in nodes)
    if constants or calls_again:
        values = _values(classifier, list(constants.values())) if constants else {}
        model = _called_again(classifier, nodes, boundary, values, name)
    else:
        model = keras.Model(list(boundary), classifier.output, name=name)
    for notes, length in zip(noted, lengths, strict=True):
        del notes[length:]
    return model


class Constant(keras.layers.Layer):
    """Returns a value, whatever it is called on. Of a graph it is a constant, and no capture as a tensor would be."""

    def __init__(self, value: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self._value = value

    def call(self, _: Any) -> Any:
        return keras.ops.convert_to_tensor(self._value, dtype=str(self._value.dtype))

    def compute_output_spec(self, _: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self._value.shape, dtype=str(self._value.dtype))


def _nodes_between(classifier: keras.Model, boundary: Sequence[Any], of_shapes: dict[int, Any]) -> list[Any]:
    """Returns what is called from the boundary on, in order."""
    wanted, ends = set(map(id, classifier.outputs)), {*map(id, boundary), *of_shapes}
    found = []
    for node in reversed(calls_in_order(classifier)):
        if any(id(tensor) in wanted and id(tensor) not in ends for tensor in node.outputs):
            found.append(node)
            wanted.update(map(id, node.input_tensors))
    return found[::-1]


def _values(classifier: keras.Model, tensors: list[Any]) -> dict[int, Any]:
    """Returns the values of tensors that depend on the images' size alone, by the tensor's `id`."""
    image = keras.ops.zeros((1, *classifier.input.shape[1:]), dtype=classifier.input.dtype)
    values = keras.tree.flatten(keras.Model(classifier.input, tensors)(image, training=False))
    return {id(tensor): value.numpy() for tensor, value in zip(tensors, values, strict=True)}


def _called_again(
    classifier: keras.Model, nodes: Sequence[Any], boundary: Sequence[Any], constants: dict[int, Any], name: str
) -> keras.Model:
    """Returns the model of `nodes` called on inputs in the place of the boundary, and on constants."""
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in boundary]
    made = {id(tensor): replaced for tensor, replaced in zip(boundary, inputs, strict=True)}
    made |= {key: Constant(value)(inputs[0]) for key, value in constants.items()}
    for node in nodes:
        arguments, named = node.arguments.fill_in(made)
        outputs = keras.tree.flatten(node.operation(*arguments, **named))
        made.update((id(tensor), output) for tensor, output in zip(node.outputs, outputs, strict=True))
    return keras.Model(inputs, made[id(classifier.output)], name=name)
