"""The plain convolutional net that every transfer-learning result is compared with."""

from typing import Any


def build_baseline_cnn(image_size: int) -> Any:
    """Builds Conv 32, pool, Conv 64, pool, Flatten, Dense 128; the head adds the last Dense.

    Args:
      image_size: Image side in pixels, at least 8.

    Returns:
      `keras.Model` from `[batch, image_size, image_size, 3] float32` to `[batch, 128]`.
    """
    from keras import Input, Model, layers

    inputs = Input((image_size, image_size, 3), name="image")
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    return Model(inputs, x, name="baseline_cnn")
