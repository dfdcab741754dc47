"""Low-rank updates of a frozen backbone: LoRA (Hu et al., arXiv:2106.09685), by Keras's own `enable_lora`.

A kernel, seen as a matrix of inputs times outputs, becomes kernel + A B, of which the kernel stays and A
`[inputs, rank]` and B `[rank, outputs]` train. B begins as zeros, so that the first step sees the network as it was.
A layer's `kernel` is then that sum: whatever takes it (folded BatchNorm, products in the place of 1x1 convolutions)
does as before.
"""

from collections import Counter
from typing import Any

import numpy as np

from tl_distributed.errors import UserError
from tl_distributed.models.heads import backbone_layers

_NAMES = ("lora_kernel_a", "lora_kernel_b")
_SETTINGS = ("lora_rank", "lora_alpha")  # of a layer's config


def enable_lora(classifier: Any, rank: int) -> str:
    """Gives every Dense, EinsumDense and convolution of the backbone that can have it an update of a rank.

    Call it under the strategy's scope, once.

    Args:
      classifier: Model of `build.build_model`.
      rank: Of the updates, 1 or more; of a smaller kernel its own.

    Returns:
      A line that says which layers have one, and which kernels stay as they are.

    Raises:
      UserError: No layer can have one.
    """
    given, without = Counter(), Counter()
    for part in _parts(classifier):
        if can_have_lora(part):
            part.enable_lora(min(rank, int(np.prod(part.kernel.shape[:-1])), int(part.kernel.shape[-1])))
            given[type(part).__name__] += 1
        elif any(len(variable.shape) > 1 for variable in part._trainable_variables):
            without[("grouped " if getattr(part, "groups", 1) > 1 else "") + type(part).__name__] += 1
    if not given:
        raise UserError(
            "--transfer=lora: the backbone has no Dense, EinsumDense or convolution that can have it; use norms or full"
        )
    line = f"LoRA: updates of rank {rank} in {_listed(given)}"
    return line + (f"; {_listed(without)} cannot have them and stay frozen." if without else ".")


def can_have_lora(layer: Any) -> bool:
    """Whether Keras can give a layer a low-rank update; not a depthwise or separable convolution, or a grouped one."""
    from keras import layers

    kinds = (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
    if not isinstance(layer, kinds) or not layer.built or layer.lora_enabled:
        return False
    return getattr(layer, "groups", 1) == 1 and layer.kernel_constraint is None


def has_lora(layer: Any) -> bool:
    """Whether a layer itself has a low-rank update."""
    return bool(getattr(layer, "lora_enabled", False))


def is_of_lora(variable: Any) -> bool:
    """Whether a variable of Keras's is a part of an update."""
    return variable.name in _NAMES


def merged_weights(model: Any) -> list[np.ndarray]:
    """Returns what `set_weights` takes of an equal model without updates: they are in the kernels."""
    merged, left_out = {}, set()
    for layer in model._flatten_layers():
        if has_lora(layer):
            merged[id(layer._kernel)] = _merged_kernel(layer)
            left_out |= {id(variable) for variable in layer._trainable_variables if is_of_lora(variable)}
    return [
        merged.get(id(variable), np.asarray(variable)) for variable in model.weights if id(variable) not in left_out
    ]


def without_lora(config: Any) -> Any:
    """Returns the config of a model whose layers have no updates."""
    if isinstance(config, dict):
        return {key: without_lora(value) for key, value in config.items() if key not in _SETTINGS}
    if isinstance(config, list | tuple):
        return type(config)(without_lora(value) for value in config)
    return config


def _merged_kernel(layer: Any) -> np.ndarray:
    """Returns it in float32, whatever the layer computes in."""
    first, second = (np.asarray(getattr(layer, name), np.float32) for name in _NAMES)
    return np.asarray(layer._kernel, np.float32) + layer.lora_alpha / layer.lora_rank * (first @ second)


def _parts(classifier: Any) -> list[Any]:
    parts = {id(part): part for layer in backbone_layers(classifier) for part in layer._flatten_layers()}
    return list(parts.values())


def _listed(counts: Counter[str]) -> str:
    return " and ".join(f"{count} {name}" for name, count in counts.items())
