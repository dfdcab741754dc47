"""What a step cannot keep of the state of a layer of one's own: refused in one line, and not lost."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.errors import UserError


def refuse_weights_of_other_types(model: keras.Model) -> None:
    """Raises `UserError` for weights that may train and are not float32: gradients are one vector of it."""
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.dtype != "float32":
                raise UserError(
                    f"layer {layer.name}: its {variable.name} is {variable.dtype}; weights that train are float32 "
                    "here, whatever a layer computes in (dtype policies float32 and mixed_bfloat16)"
                )


def refuse_weights_set_in_a_call(trainable: Sequence[Any], before: Sequence[Any], after: Iterable[Any]) -> None:
    """Raises `UserError` for a weight that trains and that a layer gives a value itself, as spectral norms do.

    Args:
      trainable: Keras's variables.
      before: Their values.
      after: Their values after the layers were called.
    """
    for variable, old, new in zip(trainable, before, after, strict=True):
        if new is not old:
            raise UserError(
                f"weight {variable.path}: its layer sets it in its own call (as SpectralNormalization does), and the "
                "step's update alone does so here; use a layer that computes with another value than its weight's"
            )


def refuse_state_without_mean(changed: Sequence[Any]) -> None:
    """Raises `UserError` for state that layers change and that has no mean over replicas in one float32 vector."""
    for variable in changed:
        if variable.dtype != "float32":
            raise UserError(
                f"variable {variable.path}: its layer changes it in training, it is {variable.dtype}, and replicas "
                "keep the mean of theirs; make it float32, or train on one device (--strategy=one_device)"
            )


def refuse_captured_variables(function: Any) -> None:
    """Raises `UserError` for variables that are no weights of a layer's: replicas have no copies that they hand over.

    Args:
      function: A traced program of all replicas.
    """
    captured = {id(tensor) for tensor in function.captured_inputs if tensor.dtype == tf.resource}
    if captured:
        named = sorted(one.name for one in function.graph.variables if id(one.handle) in captured)
        raise UserError(
            f"variable {', '.join(named) or 'of a layer'}: a layer reads or changes it, and it is none of the layer's "
            "weights (a tf.Variable, a metric's), so replicas have none of their own; make it by add_weight, or train "
            "on one device (--strategy=one_device)"
        )
