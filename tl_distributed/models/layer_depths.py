"""How deep each variable lies, and the learning rate that layer-wise decay leaves it.

Lower layers hold what any image task needs, so fine-tuning moves them less: the rate of a block is the rate of
the block above times a factor (Howard & Ruder 2018, section 3.2; for vision Clark et al. 2020, Bao et al. 2022).
"""

import re
from typing import Any

from tl_distributed.models.heads import backbone_layers

# `block_13_expand`, `conv2_block1_1_conv`, `block1a_dwconv`, `convnext_tiny_stage_0_block_0_...`, `expanded_conv_1_...`
_BLOCK_NAME = re.compile(r"^(.*?block_?\d+[a-z]?|expanded_conv(?:_\d+)?)(?:_|$)")


def backbone_blocks(classifier: Any) -> list[list[Any]]:
    """Returns the backbone's layers as blocks, from the image to the features.

    A block is what lies between two layers through which all paths lead: a residual block, an Inception module,
    the layers that feed one concatenation, or, where the net is a plain chain, one kernel and the normalisation
    behind it. Neighbours that the net itself names as one block (`block_13_expand`, `block_13_project`) are joined.
    NASNet's cells are all linked to the cell before the last, so that it is one block above its stem.

    Args:
      classifier: Model of `heads.build_classifier`.
    """
    blocks: list[list[Any]] = []
    name = None
    for segment in _segments(classifier):
        kernels = [layer for layer in segment if any(len(weight.shape) > 1 for weight in layer.weights)]
        match = _BLOCK_NAME.match(kernels[-1].name) if kernels else None
        joined = not kernels or (match is not None and match[1] == name)
        if kernels:
            name = match[1] if match else None
        if joined and blocks:
            blocks[-1] += segment
        else:
            blocks.append(segment)
    return blocks


def rate_multipliers(classifier: Any, layer_decay: float) -> dict[int, float]:
    """Returns what the learning rate of each of `classifier.trainable_variables` is multiplied by, by its `id`.

    1 in the head, `layer_decay` in the backbone's last block, its square in the one before, and so on.

    Args:
      classifier: Model of `heads.build_classifier`, frozen as it will train.
      layer_decay: Factor from block to block, in (0, 1].
    """
    if layer_decay == 1:
        return {id(variable): 1.0 for variable in classifier.trainable_variables}
    blocks = backbone_blocks(classifier)
    multipliers = {
        id(variable): layer_decay ** (len(blocks) - index)
        for index, block in enumerate(blocks)
        for layer in block
        for variable in layer.variables
    }
    return {id(variable): multipliers.get(id(variable), 1.0) for variable in classifier.trainable_variables}


def _segments(classifier: Any) -> list[list[Any]]:
    """Cuts the backbone's layers where no connection jumps over the cut."""
    # Operations and not layers: ConvNeXt adds its residuals by `+`, which makes no layer.
    operations = classifier.operations
    order = {id(operation): index for index, operation in enumerate(operations)}
    last_use = [0] * len(operations)
    of_image: set[int] = set()  # operations without weights on the image alone
    for index, operation in enumerate(operations):
        inputs = operation.input if isinstance(operation.input, (list, tuple)) else [operation.input]
        producers = [order[id(tensor._keras_history.operation)] for tensor in inputs]
        if of_image.issuperset(producer for producer in producers if producer != index) and not _weights(operation):
            of_image.add(index)
        # Positions that are turned in every block (DINOv3's) join nothing.
        for producer in producers:
            if producer not in of_image:
                last_use[producer] = max(last_use[producer], index)
    in_backbone = {id(layer) for layer in backbone_layers(classifier)}
    segments: list[list[Any]] = [[]]
    reach = 0  # the last operation that what came before this one leads to
    for index, operation in enumerate(operations):
        if id(operation) in in_backbone:
            segments[-1].append(operation)
        if reach <= index:
            segments.append([])
        reach = max(reach, last_use[index])
    return [segment for segment in segments if any(layer.weights for layer in segment)]


def _weights(operation: Any) -> list[Any]:
    return getattr(operation, "weights", [])  # of layers
