"""Whether a frozen layer of one's own makes the same of an image in every step, as a bank of its output takes it to.

`trainable=False` keeps updates from a layer's weights, and no more: in Keras's `fit` a frozen layer that counts, keeps
a running mean or draws noise in its call does so in every step.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.models.plugins import KNOWN_PACKAGES

# Of Keras, but with code of one's own, or with state that it sets though it is frozen.
_TO_TRY = (keras.layers.Lambda, keras.layers.SpectralNormalization)
_IMAGES = 2
_TOLERANCE = 1e-3  # of the largest value; kernels that are chosen anew in each call differ by less


def stays_still(node: Any) -> bool:
    """Tries a call of a layer out on noise: whether it sets no state in training and computes what it does elsewhere.

    Keras's own layers are known to, once they are frozen by `freezing.freeze_for`. What cannot be tried does not.

    Args:
      node: Of a functional model: a call of a frozen layer, or of one without weights.
    """
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer) or not any(map(_is_to_be_tried, layer._flatten_layers())):
        return True
    arguments, named = keras.tree.map_structure(_noise, (node.arguments.args, node.arguments.kwargs))

    def call(training: bool) -> tuple[list[Any], bool]:
        with keras.StatelessScope() as scope:
            outputs = keras.tree.flatten(layer(*arguments, **{**named, "training": training}))
            return outputs, any(scope.get_current_value(variable) is not None for variable in layer.variables)

    try:
        # Traced first: a variable that is none of the layer's weights is not to be set by a trial.
        program = tf.function(lambda: call(True)[0], autograph=False).get_concrete_function()
        if any(operation.type.startswith("Assign") for operation in program.graph.get_operations()):
            return False
        trained, sets_state = call(True)
        return not sets_state and all(map(_are_close, trained, call(False)[0]))
    except Exception:  # the user's own code, which may need what only a step has
        return False


def _is_to_be_tried(layer: Any) -> bool:
    is_known = all(kind.__module__.partition(".")[0] in KNOWN_PACKAGES for kind in type(layer).__mro__)
    return not is_known or isinstance(layer, _TO_TRY)


def _noise(value: Any) -> Any:
    if not isinstance(value, keras.KerasTensor):
        return value
    shape = tuple(_IMAGES if side is None else side for side in value.shape)
    return tf.cast(np.random.default_rng(0).normal(1.0, 3.0, shape), value.dtype)


def _are_close(one: Any, other: Any) -> bool:
    one, other = (np.asarray(value, np.float64) for value in (one, other))
    return np.allclose(one, other, rtol=0, atol=_TOLERANCE * np.abs(other).max(initial=0), equal_nan=True)
