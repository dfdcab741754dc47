"""In which precision the layers of a network of one's own compute: in the run's, or, which is said, in another."""

from collections import Counter
from typing import Any


def main_policy(model: Any) -> str:
    """Returns the dtype policy of most layers that have weights, e.g. "float32"; of none Keras's own."""
    import keras

    counts = Counter(layer.dtype_policy.name for layer in _layers_with_weights(model))
    return counts.most_common(1)[0][0] if counts else keras.config.dtype_policy().name


def with_policy(config: Any, before: str, after: str) -> Any:
    """Returns the config of a layer or model with one dtype policy in the place of another, in what is inside too."""
    if before == after:
        return config
    if isinstance(config, list | tuple):
        return type(config)(with_policy(value, before, after) for value in config)
    if not isinstance(config, dict):
        return config
    changed = {key: with_policy(value, before, after) for key, value in config.items()}
    if config.get("class_name") == "DTypePolicy" and config.get("config") == {"name": before}:
        changed["config"] = {"name": after}
    return changed


def of_other_precision(model: Any) -> str:
    """Returns what to say of layers that compute in another precision than the run, or nothing."""
    import keras

    layers, policy = _layers_with_weights(model), keras.config.dtype_policy()
    others = [layer for layer in layers if layer.compute_dtype != policy.compute_dtype]
    if not others:
        return ""
    return (
        f"{len(others)} of its {len(layers)} layers with weights, {others[0].name} first, compute in "
        f"{others[0].compute_dtype} as they were made, not in the {policy.compute_dtype} of --precision={policy.name}"
    )


def _layers_with_weights(model: Any) -> list[Any]:
    """Returns the layers with weights of their own that may train."""
    return [layer for layer in model._flatten_layers() if layer._trainable_variables]
