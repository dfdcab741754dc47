"""Counts the multiply-accumulates of a model, the usual yardstick of what one image costs."""

import math
import types
from collections.abc import Callable
from typing import Any

from tl_distributed.models.replacing import replaced_methods


def count_macs(model: Any) -> int:
    """Returns the multiply-accumulates that one image costs in the forward pass.

    Counts convolutions (plain, grouped, depthwise, separable), dense and einsum-dense layers, and the two products of
    attention, nested and subclassed models included. Biases, normalisation, activations and pooling are left out, as
    published counts do, and so are products that a subclassed model calls by itself.

    Args:
      model: Built functional `keras.Model` of static image size, channels last.

    Raises:
      ValueError: The model's image size is not static.
    """
    graph = getattr(model, "_functional", model)  # a Sequential has its own
    return sum(operation_macs(node.operation, node) for depth in graph._nodes_by_depth.values() for node in depth)


def operation_macs(operation: Any, node: Any) -> int:
    """Returns what `count_macs` counts for one call in a functional model, of which plain operations have none."""
    import keras

    if not isinstance(operation, keras.layers.Layer) or not operation.weights:
        return 0
    if isinstance(operation, _kernel_layers()):
        return _macs_of_kernels(operation, node.outputs[0].shape)
    if not any(isinstance(layer, _counted_layers()) for layer in operation._flatten_layers()):
        return 0
    if hasattr(getattr(operation, "_functional", operation), "_nodes_by_depth"):
        return count_macs(operation)
    return _traced_macs(operation, node)


def _traced_macs(layer: Any, node: Any) -> int:
    """Counts the calls of layers inside a layer, of which a program is traced and not run."""
    import keras
    import tensorflow as tf

    macs: list[int] = []
    parts = [part for part in layer._flatten_layers() if isinstance(part, _counted_layers())]
    calls = {part: types.MethodType(_counting_call(part.call, macs), part) for part in parts}

    def one_image(value: Any) -> Any:
        is_tensor = isinstance(value, keras.KerasTensor)
        return tf.zeros((1, *value.shape[1:]), value.dtype) if is_tensor else value

    def call() -> None:
        arguments, named = keras.tree.map_structure(one_image, (node.arguments.args, node.arguments.kwargs))
        layer(*arguments, **named)

    with replaced_methods("call", calls):
        tf.function(call, autograph=False).get_concrete_function()
    return sum(macs)


def _counting_call(call: Callable[..., Any], macs: list[int]) -> Callable[..., Any]:
    import keras

    def counting(layer: Any, *arguments: Any, **named: Any) -> Any:
        outputs = call(*arguments, **named)
        if isinstance(layer, keras.layers.MultiHeadAttention):
            query, value = (*arguments[:2], *(named[name] for name in ("query", "value")[len(arguments) :]))
            queries, keys = query.shape[1], value.shape[1]
            macs.append(layer.num_heads * queries * keys * (layer.key_dim + layer.value_dim))
        elif isinstance(layer, keras.layers.EinsumDense):
            macs.append(_macs_of_einsum(layer, arguments[0].shape))
        else:
            macs.append(_macs_of_kernels(layer, outputs.shape))
        return outputs

    return counting


def _macs_of_einsum(layer: Any, shape: tuple[int, ...]) -> int:
    """Returns the product of the sizes of all letters of the equation, and of the axes of its dots, but the batch's."""
    inputs, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    before, dots, after = inputs.partition("...")
    end = len(shape) - len(after)
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    sizes |= {**dict(zip(before, shape, strict=False)), **dict(zip(after, shape[end:], strict=True))}
    axes = shape[len(before) : end] if dots else ()
    if before:
        del sizes[before[0]]
    else:
        axes = axes[1:]
    return math.prod(sizes.values()) * math.prod(axes)


def _macs_of_kernels(layer: Any, output_shape: tuple[int | None, ...]) -> int:
    import keras

    if isinstance(layer, keras.layers.SeparableConv2D):
        kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
    else:
        kernels = (layer.kernel,)
    # Each kernel element is used once at every position of the output.
    positions = output_shape[1:-1]
    if None in positions:
        raise ValueError(f"layer {layer.name}: the image size must be static to count its operations")
    return math.prod(positions) * sum(math.prod(kernel.shape) for kernel in kernels)


def _kernel_layers() -> tuple[type, ...]:
    from keras import layers

    return layers.SeparableConv2D, layers.Conv2D, layers.DepthwiseConv2D, layers.Dense


def _counted_layers() -> tuple[type, ...]:
    from keras import layers

    return *_kernel_layers(), layers.EinsumDense, layers.MultiHeadAttention
