"""Counts the multiply-accumulates of a model, the usual yardstick of what one image costs."""

import math
from typing import Any


def count_macs(model: Any) -> int:
    """Returns the multiply-accumulates that one image costs in the forward pass.

    Counts convolutions (plain, grouped, depthwise, separable) and dense layers, nested models included.
    Biases, normalisation, activations and pooling are left out, as published counts do.

    Args:
      model: Built functional `keras.Model` of static image size, channels last, each layer called once.

    Raises:
      ValueError: The model's image size is not static.
    """
    import keras

    return sum(layer_macs(layer) for layer in model._flatten_layers() if isinstance(layer, keras.layers.Layer))


def layer_macs(layer: Any) -> int:
    """Returns what `count_macs` counts for one layer, without the layers inside it."""
    import keras

    if isinstance(layer, keras.layers.SeparableConv2D):
        kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
    elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)):
        kernels = (layer.kernel,)
    else:
        return 0
    # Each kernel element is used once at every position of the output.
    positions = layer.output.shape[1:-1]
    if None in positions:
        raise ValueError(f"layer {layer.name}: the image size must be static to count its operations")
    return math.prod(positions) * sum(math.prod(kernel.shape) for kernel in kernels)
