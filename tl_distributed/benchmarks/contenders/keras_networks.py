"""The network of our table between stock layers, for Keras 3 and for tf-keras, which the argument `keras` is."""

from types import ModuleType
from typing import Any

from tl_distributed.benchmarks.not_measured import NotMeasured
from tl_distributed.benchmarks.random_images import NUM_CLASSES
from tl_distributed.models.backbones import Backbone, get_backbone

PADDING = 4
_DROPOUT = 0.2


def best_model(keras: ModuleType, settings: dict[str, Any], *, on_gpu: bool) -> Any:
    """Returns the network; on a GPU it resizes, so that uint8 of the stored size travels."""
    size = settings["image_size"]
    if not on_gpu:
        return _classifier(keras, settings, keras.Input((size, size, 3)), lambda x: x)
    native = settings["native_size"]
    inputs = keras.Input((native, native, 3), dtype="uint8")
    return _classifier(keras, settings, inputs, keras.layers.Resizing(size, size))


def tutorial_model(keras: ModuleType, settings: dict[str, Any]) -> Any:
    """Returns augmentation layers (where they are not in the dataset), scaling and the network in one model."""
    augmentation = (lambda x: x) if settings["augment_in_map"] else tutorial_augmentation(keras, settings)
    return _classifier(keras, settings, keras.Input((settings["image_size"],) * 2 + (3,)), augmentation)


def tutorial_augmentation(keras: ModuleType, settings: dict[str, Any]) -> Any:
    """Returns Keras's own layers for what `--augment` asks for."""
    if settings["augment"] == "none":
        return lambda x: x
    shift = PADDING / settings["native_size"]
    return keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomTranslation(shift, shift)])


def _classifier(keras: ModuleType, settings: dict[str, Any], inputs: Any, before: Any) -> Any:
    backbone = get_backbone(settings["backbone"])
    network = _network(keras, backbone, settings["image_size"])
    x = network(_scaled(keras, before(inputs), backbone))
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, dtype="float32")(keras.layers.Dropout(_DROPOUT)(x)))


def _network(keras: ModuleType, backbone: Backbone, image_size: int) -> Any:
    if hasattr(keras, "ops"):
        from tl_distributed.models.build import build_backbone

        return build_backbone(backbone, image_size=image_size, weights="none")
    if not hasattr(keras.applications, backbone.constructor or "no constructor"):
        raise NotMeasured(f"tf_keras.applications has no {backbone.name}")
    constructor = getattr(keras.applications, backbone.constructor)
    return constructor(include_top=False, weights=None, input_shape=(image_size, image_size, 3))


def _scaled(keras: ModuleType, x: Any, backbone: Backbone) -> Any:
    if backbone.normalization == "internal":
        return x
    if backbone.normalization == "tf":
        return keras.layers.Rescaling(1 / 127.5, -1.0)(x)
    return getattr(keras.applications, backbone.family).preprocess_input(_float32(keras, x))


def _float32(keras: ModuleType, x: Any) -> Any:
    if hasattr(keras, "ops"):
        return keras.ops.cast(x, "float32")
    import tensorflow as tf

    return tf.cast(x, "float32")
