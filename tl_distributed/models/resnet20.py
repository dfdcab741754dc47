"""A small residual net for images of about 32 pixels, quick enough to train on a CPU."""

from typing import Any

_STAGE_FILTERS = (16, 32, 64)
_BLOCKS_PER_STAGE = 3
_MOMENTUM = 0.9  # the paper's; with Keras's 0.99 the moving statistics lag behind in short runs


def build_resnet20(image_size: int) -> Any:
    """Builds ResNet-20 of He et al. 2015 (arXiv:1512.03385), section 4.2, up to its global pooling.

    Where a stage halves the size, the shortcut is a 1x1 convolution with BatchNorm (the paper's option B)
    instead of subsampling and zero-padding, which has no stock Keras layer.

    Args:
      image_size: Image side in pixels, at least 8.

    Returns:
      `keras.Model` from `[batch, image_size, image_size, 3] float32` to
      `[batch, image_size / 4, image_size / 4, 64]`, rounded up.
    """
    from keras import Input, Model, layers

    inputs = Input((image_size, image_size, 3), name="image")
    x = _conv_norm(inputs, _STAGE_FILTERS[0], 3, strides=1, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate(_STAGE_FILTERS, start=1):
        for block in range(1, _BLOCKS_PER_STAGE + 1):
            halves = stage > 1 and block == 1
            x = _residual_block(x, filters, halves=halves, name=f"stage{stage}_block{block}")
    return Model(inputs, x, name="resnet20")


def _residual_block(inputs: Any, filters: int, *, halves: bool, name: str) -> Any:
    from keras import layers

    strides = 2 if halves else 1
    x = _conv_norm(inputs, filters, 3, strides=strides, name=f"{name}_1")
    x = layers.ReLU(name=f"{name}_1_relu")(x)
    x = _conv_norm(x, filters, 3, strides=1, name=f"{name}_2")
    shortcut = _conv_norm(inputs, filters, 1, strides=2, name=f"{name}_shortcut") if halves else inputs
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_out")(x)


def _conv_norm(inputs: Any, filters: int, kernel_size: int, *, strides: int, name: str) -> Any:
    from keras import layers

    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(inputs)
    return layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn")(x)
