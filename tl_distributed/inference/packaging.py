"""Turns a trained classifier into a model that anybody can open: raw pixels in, probabilities out, stock Keras only."""

from typing import Any

from tl_distributed.models.lora import merged_weights, without_lora

# Keras's own constants (`keras.applications.imagenet_utils`), on pixels in [0, 255].
_TORCH_MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_TORCH_VARIANCE_RGB = ((0.229 * 255) ** 2, (0.224 * 255) ** 2, (0.225 * 255) ** 2)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def package_model(
    classifier: Any, *, normalization: str, native_shape: tuple[int, int, int], image_size: int,
    activation: str = "softmax",
) -> Any:  # fmt: skip
    """Wraps `classifier` with its resizing, normalisation and softmax, in float32.

    `keras.models.load_model` opens the saved model without this package and without custom objects;
    SavedModel and TFLite (built-in operations only) can be made of it. For `.h5` pass it through
    `stock_layers.with_stock_layers` first.

    Args:
      classifier: Model of `heads.build_classifier`, of any precision policy. It is copied, not changed.
      normalization: "tf", "torch", "caffe" or "internal", as in the backbone table.
      native_shape: (height, width, 3) of the pixels that come in.
      image_size: Image side in pixels that `classifier` takes.
      activation: What its outputs go through: softmax, sigmoid (any number of labels), or linear.

    Returns:
      `keras.Model` from `[batch, height, width, 3] uint8` to `[batch, num_classes] float32` probabilities.
    """
    import keras
    from keras import layers

    pixels = layers.Input(native_shape, dtype="uint8", name="pixels")
    # Resizing of integers would round its result to integers.
    x = layers.Rescaling(1.0, dtype="float32", name="pixels_to_float32")(pixels)
    x = _resized(x, native_shape, image_size)
    x = _normalized(x, normalization)
    logits = _float32_copy(classifier)(x)
    if activation == "softmax":
        last = layers.Softmax(dtype="float32", name="probabilities")
    else:
        name = "outputs" if activation == "linear" else "probabilities"
        last = layers.Activation(activation, dtype="float32", name=name)
    return keras.Model(pixels, last(logits), name=f"{classifier.name}_packaged")


def calibrate_model(packaged: Any, temperature: float) -> Any:
    """Returns a packaged model whose probabilities are softmax(logits / temperature); the weights are shared.

    Args:
      packaged: Of `package_model`, or what Keras loads of it.
      temperature: Above 0; of `reporting.calibration.fit_temperature`.
    """
    import keras
    from keras import layers

    logits = packaged.get_layer("probabilities").input
    # A layer of its own: all formats have it, and whoever opens the model sees that it is calibrated.
    x = layers.Rescaling(1.0 / temperature, dtype="float32", name="temperature")(logits)
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(packaged.input, probabilities, name=f"{packaged.name}_calibrated")


def _resized(x: Any, native_shape: tuple[int, int, int], image_size: int) -> Any:
    """Resizes bilinearly, with antialiasing where the image shrinks, as `tf.image.resize(antialias=True)`."""
    from keras import layers

    height, width, channels = native_shape
    if height == width == image_size:
        return x
    if max(height, width) > image_size:
        # TFLite has no antialiased resizing, but it multiplies matrices.
        x = _shrunk(x, "bhwc,hH->bHwc", height, (image_size, width, channels), "resize_rows")
        return _shrunk(x, "bhwc,wW->bhWc", width, (image_size, image_size, channels), "resize_columns")
    resize = layers.Resizing(image_size, image_size, interpolation="bilinear", dtype="float32", name="resize")
    # Its `training` is True unless told otherwise, and every layer after it would take that over: a plain
    # `model(images)`, and the SavedModel, would run BatchNorm and dropout as in training.
    return resize(x, training=False)


def _shrunk(x: Any, equation: str, old_size: int, output_shape: tuple[int, int, int], name: str) -> Any:
    """Resizes one axis by a fixed matrix product."""
    import numpy as np
    import tensorflow as tf
    from keras import layers

    new_size = output_shape[0]
    # Resizing is linear in the pixels, so what becomes of the unit vectors is its matrix.
    units = np.eye(old_size, dtype=np.float32)[..., np.newaxis]
    matrix = tf.image.resize(units, (new_size, old_size), antialias=True)[..., 0]
    layer = layers.EinsumDense(equation, output_shape, dtype="float32", trainable=False, name=name)
    resized = layer(x)
    layer.kernel.assign(tf.transpose(matrix))
    return resized


def _normalized(x: Any, normalization: str) -> Any:
    from keras import layers

    if normalization == "internal":
        return x
    if normalization == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalize")(x)
    if normalization == "torch":
        return layers.Normalization(
            mean=_TORCH_MEAN_RGB, variance=_TORCH_VARIANCE_RGB, dtype="float32", name="normalize"
        )(x)
    if normalization != "caffe":
        raise ValueError(f"unknown normalization {normalization!r}")
    # A 1x1 convolution reverses the channels: older formats know no operation outside of a layer.
    layer = layers.Conv2D(3, 1, dtype="float32", trainable=False, name="normalize")
    normalized = layer(x)
    layer.kernel.assign([[[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]])
    layer.bias.assign([-mean for mean in _CAFFE_MEAN_BGR])
    return normalized


def _float32_copy(classifier: Any) -> Any:
    """Copies a model with every layer's precision policy set to float32; its weights are float32 already.

    Low-rank updates are merged into the kernels.
    """
    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for what a model of one's own makes when it is called
    try:
        copy = type(classifier).from_config(_in_float32(without_lora(classifier.get_config())))
    finally:
        keras.config.set_dtype_policy(policy)
    copy.set_weights(merged_weights(classifier))
    for layer in copy.layers:
        if hasattr(layer, "finalize_state"):  # Normalization computes from a copy of its weights
            layer.finalize_state()
    copy.trainable = True  # whoever opens it decides anew what to freeze
    return copy


def _in_float32(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {key: _in_float32(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(value) for value in config)
    return config
