"""Scales pixels as each backbone was trained: the modes of `keras.applications`' `preprocess_input`."""

import tensorflow as tf

# Keras's figures, so that its ImageNet weights see what they were trained on.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in [0, 1]
_IMAGENET_STANDARD_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, of pixels in [0, 255]
NORMALIZATION_MODES = ("tf", "torch", "caffe", "internal")


def normalize(images: tf.Tensor, mode: str) -> tf.Tensor:
    """Scales a batch for its backbone.

    Args:
      images: `[batch, height, width, 3] float32` RGB in [0, 255].
      mode: "tf", to [-1, 1]; "torch", ImageNet's mean and standard deviation of pixels in [0, 1]; "caffe",
        BGR less ImageNet's mean, in [0, 255]; "internal", unchanged, for models that scale by themselves.

    Returns:
      float32, of the same shape.

    Raises:
      ValueError: Another mode.
    """
    if mode == "tf":
        return images / 127.5 - 1.0
    if mode == "torch":
        deviation = tf.constant(_IMAGENET_STANDARD_DEVIATION) * 255.0
        return (images - tf.constant(_IMAGENET_MEAN) * 255.0) / deviation
    if mode == "caffe":
        return images[..., ::-1] - tf.constant(_CAFFE_MEAN)
    if mode == "internal":
        return images
    raise ValueError(f"normalization mode {mode!r}: takes one of {', '.join(NORMALIZATION_MODES)}")
