"""Rewrites a model so that the older `.h5` format, which knows only layers of `keras.layers`, can hold it."""

from typing import Any


def with_stock_layers(model: Any) -> Any:
    """Copies `model`, replacing what `.h5` cannot hold by layers of `keras.layers` that compute the same.

    MobileNetV3 adds and multiplies constants and ConvNeXt adds tensors without a layer; ConvNeXt's
    LayerScale and InceptionResNetV2's CustomScaleLayer are classes outside of `keras.layers`. A plain
    `keras.models.load_model` refuses each of them in an `.h5`, and forgets the statistics of EfficientNet's
    Normalization.

    Args:
      model: Functional `keras.Model` in float32, as `packaging.package_model` makes; nested models are
        rewritten too.

    Returns:
      A `keras.Model` of the same inputs and outputs, with its own copy of the weights.
    """
    import keras
    import numpy as np

    copy = keras.models.clone_model(model, clone_function=_stock_layer, call_function=_call_with_layers, recursive=True)
    weights = {path: layer.get_weights() for path, layer in _leaf_layers(model, "")}
    for path, layer in _leaf_layers(copy, ""):
        if layer.weights:
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([np.reshape(*pair) for pair in zip(weights[path], shapes, strict=True)])
    return copy


def _stock_layer(layer: Any) -> Any:
    import numpy as np
    from keras import layers

    if _is_of_applications(layer, "LayerScale"):  # one factor a channel
        return layers.DepthwiseConv2D(1, use_bias=False, name=layer.name, dtype=layer.dtype_policy)
    if type(layer) is layers.Conv2D and layer.groups == layer.filters > 1 and layer.kernel.shape[2] == 1:
        return _depthwise(layer)
    if isinstance(layer, layers.Normalization):
        # Opening an .h5 restores statistics that are weights, but the layer goes on with mean 0 and variance 1; those
        # that were given are no constants to tf2onnx, but inputs that nobody feeds.
        given = (layer.adapt_mean, layer.adapt_variance) if layer.weights else (layer.input_mean, layer.input_variance)
        mean, variance = (np.array(values, np.float32) for values in given)
        deviation = variance**0.5
        offset = -mean / deviation
        return layers.Rescaling((1 / deviation).tolist(), offset=offset.tolist(), name=layer.name, dtype="float32")
    return type(layer).from_config(layer.get_config())


def _is_of_applications(layer: Any, name: str) -> bool:
    """Whether a layer is of a class of Keras's networks, and not of one's own of the same name."""
    return type(layer).__name__ == name and ".applications." in type(layer).__module__


def _depthwise(layer: Any) -> Any:
    """Returns what ConvNeXt writes as a convolution in as many groups as channels: tf2onnx cannot convert that."""
    from keras import layers

    config = layer.get_config()
    taken = ("name", "strides", "padding", "data_format", "dilation_rate", "activation", "use_bias", "dtype")
    return layers.DepthwiseConv2D(layer.kernel_size, **{name: config[name] for name in taken})


def _call_with_layers(operation: Any, *arguments: Any, **keywords: Any) -> Any:
    from keras import layers

    kind = type(operation).__name__
    if _is_of_applications(operation, "CustomScaleLayer"):
        shortcut, residual = arguments[0]
        scaled = layers.Rescaling(operation.scale, name=f"{operation.name}_scale", dtype="float32")(residual)
        return layers.Add(name=operation.name, dtype="float32")([shortcut, scaled])
    if isinstance(operation, layers.Layer) or kind not in ("Add", "Multiply"):
        return operation(*arguments, **keywords)
    tensors = [argument for argument in arguments if hasattr(argument, "shape")]
    if len(tensors) == 2:
        merge = layers.Add if kind == "Add" else layers.Multiply
        return merge(name=operation.name, dtype="float32")(tensors)
    (constant,) = (argument for argument in arguments if not hasattr(argument, "shape"))
    scale, offset = (1.0, constant) if kind == "Add" else (constant, 0.0)
    return layers.Rescaling(scale, offset=offset, name=operation.name, dtype="float32")(tensors[0])


def _leaf_layers(model: Any, parent: str) -> Any:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaf_layers(layer, f"{parent}{layer.name}/")
        else:
            yield f"{parent}{layer.name}", layer
