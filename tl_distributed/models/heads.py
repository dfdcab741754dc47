"""Puts a classification head on a backbone, and tells the two apart again."""

from collections.abc import Sequence
from typing import Any

HEAD_PREFIX = "head_"


def build_classifier(
    backbone_model: Any, *, num_classes: int, pooling: str, head_units: Sequence[int], dropout: float
) -> Any:
    """Builds one flat model of the backbone's own layers and a new head.

    Pooling, then for each of `head_units` a Dense with ReLU and dropout, then the logits; without hidden
    units the dropout is on the pooled features.

    Args:
      backbone_model: `keras.Model` to features of rank 4, or of rank 2, which need no pooling.
      num_classes: Number of logits.
      pooling: "avg", "max" or "flatten".
      head_units: Width of each hidden layer of the head.
      dropout: Probability that a unit is dropped in training, in [0, 1).

    Returns:
      `keras.Model` from the backbone's input to `[batch, num_classes] float32` logits, whatever the
      precision policy. Its head's layers are named `head_*`.

    Raises:
      ValueError: An unknown pooling.
    """
    from keras import Model, layers

    x = _pooled(backbone_model.output, pooling)
    for index, units in enumerate(head_units, start=1):
        x = layers.Dense(units, activation="relu", name=f"{HEAD_PREFIX}dense_{index}")(x)
        x = _dropped(x, dropout, f"{HEAD_PREFIX}dropout_{index}")
    if not head_units:
        x = _dropped(x, dropout, f"{HEAD_PREFIX}dropout")
    # A softmax over bfloat16 or float16 logits loses the small differences that the loss is made of.
    logits = layers.Dense(num_classes, dtype="float32", name=f"{HEAD_PREFIX}logits")(x)
    return Model(backbone_model.input, logits, name=backbone_model.name)


def backbone_layers(classifier: Any) -> list[Any]:
    """Returns the layers below the head, in the model's order; of a bare backbone, all."""
    return [layer for layer in classifier.layers if not layer.name.startswith(HEAD_PREFIX)]


def head_layers(classifier: Any) -> list[Any]:
    """Returns the layers of the head, in the model's order."""
    return [layer for layer in classifier.layers if layer.name.startswith(HEAD_PREFIX)]


def _pooled(features: Any, pooling: str) -> Any:
    from keras import layers

    if len(features.shape) == 2:
        return features
    name = f"{HEAD_PREFIX}pooling"
    poolings = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D, "flatten": layers.Flatten}
    if pooling not in poolings:
        raise ValueError(f"pooling must be one of {', '.join(poolings)}, not {pooling!r}")
    return poolings[pooling](name=name)(features)


def _dropped(x: Any, rate: float, name: str) -> Any:
    from keras import layers

    return layers.Dropout(rate, name=name)(x) if rate > 0 else x
