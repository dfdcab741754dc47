"""Puts a classification head on a backbone, and tells the two apart again."""

from collections.abc import Sequence
from typing import Any

from tl_distributed.errors import UserError

HEAD_PREFIX = "head_"
_POOLINGS = ("avg", "max", "flatten", "cls")


def build_classifier(
    backbone_model: Any, *, num_classes: int, pooling: str, head_units: Sequence[int], dropout: float
) -> Any:
    """Builds one flat model of the backbone's own layers and a new head.

    Pooling, then for each of `head_units` a Dense with ReLU and dropout, then the logits; without hidden
    units the dropout is on the pooled features.

    Args:
      backbone_model: `keras.Model` to features of rank 4, of rank 3 (tokens), or of rank 2, which need no pooling.
      num_classes: Number of logits.
      pooling: "avg" or "max" over places or all tokens, "flatten", or "cls", the first token.
      head_units: Width of each hidden layer of the head.
      dropout: Probability that a unit is dropped in training, in [0, 1).

    Returns:
      `keras.Model` from the backbone's input to `[batch, num_classes] float32` logits, whatever the
      precision policy. Its head's layers are named `head_*`.

    Raises:
      ValueError: An unknown pooling.
      UserError: A pooling of tokens for a feature map, or a layer of the backbone that is called as the head's are.
    """
    from keras import Model, layers

    taken = head_layers(backbone_model)
    if taken:  # it would train where the backbone is frozen
        raise UserError(
            f"the backbone's layer {taken[0].name} would be taken for one of the head, which are called "
            f"{HEAD_PREFIX}*; give it another name"
        )
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

    rank = len(features.shape)
    if rank == 2:
        return features
    name = f"{HEAD_PREFIX}pooling"
    if pooling not in _POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(_POOLINGS)}, not {pooling!r}")
    if pooling == "flatten":
        return layers.Flatten(name=name)(features)
    if pooling == "cls":
        if rank != 3:
            raise UserError("--pooling=cls takes the first of several tokens, and the backbone returns a feature map")
        # By layers, which every format of a saved model knows, and not by an index.
        first = layers.Cropping1D((0, features.shape[1] - 1), name=f"{HEAD_PREFIX}first_token")(features)
        return layers.Flatten(name=name)(first)
    kinds = {
        ("avg", 3): layers.GlobalAveragePooling1D, ("max", 3): layers.GlobalMaxPooling1D,
        ("avg", 4): layers.GlobalAveragePooling2D, ("max", 4): layers.GlobalMaxPooling2D,
    }  # fmt: skip
    return kinds[pooling, rank](name=name)(features)


def _dropped(x: Any, rate: float, name: str) -> Any:
    from keras import layers

    return layers.Dropout(rate, name=name)(x) if rate > 0 else x
