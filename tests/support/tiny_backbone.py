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


def _build_depthwise(image_size: int):
    """Depthwise convolutions as MobileNet writes them and as ConvNeXt does, squeeze and excitation, hard swish."""
    import keras
    from keras import layers

    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="conv1")(inputs)
    x = layers.BatchNormalization(momentum=0.8, name="bn1")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=0.8, name="bn2")(x)
    x = layers.Activation("hard_swish", name="swish")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid", name="excite")(gate)
    x = layers.Multiply(name="gated")([x, gate])
    x = layers.Conv2D(8, 3, padding="same", groups=8, name="grouped")(x)
    x = layers.Conv2D(16, 1, strides=2, name="conv2")(x)
    return keras.Model(inputs, layers.ReLU(max_value=6.0, name="relu2")(x), name="tiny_depthwise")


def _build_positions(image_size: int):
    """Tokens with learnt positions by an Embedding, as vision transformers have them."""
    import keras
    from keras import layers, ops

    class Positions(layers.Layer):
        def build(self, shape):
            self.table = layers.Embedding(*shape[1:], name="table")
            self.table.build(shape[1])

        def call(self, tokens):
            return tokens + self.table(ops.arange(tokens.shape[1]))

    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(8, 4, strides=4, name="conv2")(inputs)
    x = Positions(name="positions")(layers.Reshape((-1, 8))(x))
    return keras.Model(inputs, layers.Dense(8, activation="relu", name="relu2")(x), name="tiny_positions")


def register_tiny_backbones() -> None:
    """Adds `tiny` (no BatchNorm), `tiny_norm` (with it), `tiny_depthwise` and `tiny_positions` to the table, once."""
    builders = {
        "tiny": lambda size: _build(size, norm=False), "tiny_norm": lambda size: _build(size, norm=True),
        "tiny_depthwise": _build_depthwise, "tiny_positions": _build_positions,
    }  # fmt: skip
    for name, build in builders.items():
        if name not in BACKBONES:
            row = Backbone(
                name=name, family="", constructor="", default_size=16, minimum_size=8, normalization="tf",
                gmacs=0.0001, has_imagenet_weights=False, feature_layers=("relu2",),
            )  # fmt: skip
            register_backbone(row, build)
