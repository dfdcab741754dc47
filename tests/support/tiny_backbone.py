"""A backbone small enough that every configuration of the engine compiles in a second or two."""

from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.models.build import register_backbone


def _build(image_size: int, *, norm: bool):
    import keras
    from keras import layers

    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=not norm, name="conv1")(inputs)
    if norm:
        x = layers.BatchNormalization(momentum=0.8, name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=not norm, name="conv2")(x)
    if norm:
        x = layers.BatchNormalization(momentum=0.8, name="bn2")(x)
    x = layers.ReLU(name="relu2")(x)
    return keras.Model(inputs, x, name="tiny_norm" if norm else "tiny")


def register_tiny_backbones() -> None:
    """Adds `tiny` (no BatchNorm) and `tiny_norm` (with it) to the table, once a process."""
    for name, norm in (("tiny", False), ("tiny_norm", True)):
        if name not in BACKBONES:
            row = Backbone(
                name=name, family="", constructor="", default_size=16, minimum_size=8, normalization="tf",
                gmacs=0.0001, has_imagenet_weights=False, feature_layers=("relu2",),
            )  # fmt: skip
            register_backbone(row, lambda size, norm=norm: _build(size, norm=norm))
