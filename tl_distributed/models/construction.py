"""Builds the network of a row of the backbone table (imports Keras; the table itself does not)."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tl_distributed.errors import DownloadError, UserError
from tl_distributed.models.backbones import Backbone
from tl_distributed.models.downloads import take_turns
from tl_distributed.models.own_networks import as_functional

# Keras downloads without a time limit: behind a firewall that drops packets it would hang for minutes.
_DOWNLOAD_STALL_SECONDS = 30.0
_IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
_IMAGENET_STDDEV_RGB = (0.229, 0.224, 0.225)


def construct(
    backbone: Backbone,
    build_function: Callable[[int], Any] | None,
    image_size: int,
    weights: str,
    normalize: Callable[[Any], Any] | None = None,
) -> Any:
    """Builds `backbone`; see `backbones.build_backbone`."""
    import keras

    if build_function is None:
        build_function = _own_build_functions().get(backbone.name)
    if build_function is not None:
        flag = f"--backbone={backbone.name}"
        model = as_functional(build_function(image_size), image_size, flag=flag, normalize=normalize)
    else:
        model = _from_applications(backbone, image_size, weights)
    _set_plain_names(model)
    _keep_inner_normalization_in_float32(model)
    return keras.Model(model.input, model.output, name=re.sub(r"\W+", "_", backbone.name))


def feature_model(backbone_model: Any, backbone: Backbone) -> Any:
    """Returns a `keras.Model` of the same layers that outputs each of `backbone.feature_layers`.

    Of a backbone that does not name them, they are the last outputs of rank 4 of each size.

    Raises:
      UserError: It has no outputs of rank 4.
    """
    import keras

    if not backbone.feature_layers:
        stages = {
            tuple(operation.output.shape[1:3]): operation.output
            for operation in backbone_model.operations
            if hasattr(operation.output, "shape") and len(operation.output.shape) == 4
        }
        stages.pop(tuple(backbone_model.input.shape[1:3]), None)  # of the image's own size
        if not stages:
            raise UserError(f"--backbone={backbone.name}: has no stages, of which the outputs are feature maps")
        return keras.Model(backbone_model.input, list(stages.values()))
    by_name = {operation.name: operation for operation in backbone_model.operations}
    return keras.Model(backbone_model.input, [by_name[name].output for name in backbone.feature_layers])


@contextmanager
def one_line_download_errors(backbone: Backbone) -> Iterator[None]:
    """Turns a failure to download the weights of `backbone` into one line that says what else can be done."""
    stall_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_STALL_SECONDS)
    try:
        yield
    except Exception as error:
        if not _is_download_failure(error):
            raise
        cause = " ".join(str(error).split()) or type(error).__name__
        if "open file" in cause:  # h5py; an interrupted download stays in Keras's cache, not always checked by hash
            cause += f": delete the damaged copy in {os.environ.get('KERAS_HOME', '~/.keras')}/models"
        raise DownloadError(
            f"--weights=imagenet: cannot download the weights of {backbone.name} ({cause}); without internet: "
            f"run python -m data_prep.fetch_weights --backbone={backbone.name} --output_dir=DIR on a machine "
            "that has it and train with --weights=DIR, or give --weights=FILE, or --weights=none",
            cause,
        ) from None
    finally:
        socket.setdefaulttimeout(stall_before)


def _is_download_failure(error: Exception) -> bool:
    # keras.utils.get_file raises bare Exception("URL fetch failure on ...") for what urllib reports, and
    # ValueError("Incomplete or corrupted file ...") for a wrong hash; timeouts and disks come as OSError.
    fetch = ("URL fetch failure", "Incomplete or corrupted file")
    return isinstance(error, OSError) or str(error).startswith(fetch)


def _own_build_functions() -> dict[str, Callable[[int], Any]]:
    from tl_distributed.models.baseline_cnn import build_baseline_cnn
    from tl_distributed.models.resnet20 import build_resnet20

    return {"baseline_cnn": build_baseline_cnn, "resnet20": build_resnet20}


def _from_applications(backbone: Backbone, image_size: int, weights: str) -> Any:
    import keras

    constructor = getattr(keras.applications, backbone.constructor)
    arguments = {"include_top": False, "input_shape": (image_size, image_size, 3)}
    if weights == "imagenet":
        take_turns()
        with one_line_download_errors(backbone):
            return constructor(weights="imagenet", **arguments)
    model = constructor(weights=None, **arguments)
    return _with_imagenet_normalization(model) if backbone.family == "efficientnet" else model


def _with_imagenet_normalization(model: Any) -> Any:
    """Gives a randomly initialised EfficientNet v1 the input layers of its ImageNet version.

    Only with `weights="imagenet"` does Keras add a second rescaling (tensorflow issue 49930: the stored
    "variance" is the deviation, so its square root is divided by twice), and otherwise it leaves the
    normalisation at mean 0 and variance 1. Weights from a file need the very same network, and training
    from scratch the same pixels, so here the two are always alike.
    """
    import keras

    def call(layer, *arguments, **keywords):
        outputs = layer(*arguments, **keywords)
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt_mean.assign(_IMAGENET_MEAN_RGB)
            layer.adapt_variance.assign(_IMAGENET_STDDEV_RGB)
            layer.finalize_state()
            outputs = keras.layers.Rescaling([deviation**-0.5 for deviation in _IMAGENET_STDDEV_RGB])(outputs)
        return outputs

    return keras.models.clone_model(model, call_function=call)


def _set_plain_names(model: Any) -> None:
    """Renames layers that Keras named by a process-wide count (`conv2d_97`) as a fresh process would.

    Without it a layer of the second model of a process could not be found by its known name.
    """
    groups: dict[str, list[tuple[int, Any]]] = {}
    model.layers[0].name = "input_layer"
    for operation in model.operations:
        prefix = snake_case(type(operation).__name__)
        match = re.fullmatch(rf"{prefix}(?:_(\d+))?", operation.name)
        if match:
            groups.setdefault(prefix, []).append((int(match.group(1) or 0), operation))
    for prefix, members in groups.items():
        first = min(index for index, _ in members)
        for index, operation in members:
            operation.name = f"{prefix}_{index - first}" if index > first else prefix


def snake_case(class_name: str) -> str:
    """Keras's way from a class's name to the automatic name of a layer: `SeparableConv2D`, `separable_conv2d`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _keep_inner_normalization_in_float32(model: Any) -> None:
    """Lets models that normalise inside do it in float32 under a mixed-precision policy.

    bfloat16 has 8 significant bits: a pixel of 254.5 would become 254 or 255 before its mean is taken off,
    and the mean itself, 123.675 for red, becomes 123.5.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            layer.dtype_policy = keras.DTypePolicy("float32")
            if isinstance(layer, keras.layers.Normalization):  # it has rounded its statistics already
                layer.finalize_state() if layer.weights else layer.build(layer.get_build_config()["input_shape"])
