"""The two networks that are compared: a run's best model, and what it started from."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.files import path_exists
from tl_distributed.inference.kept_head import head_of_classes
from tl_distributed.inference.saved import load_keras
from tl_distributed.models.build import build_model
from tl_distributed.models.plugins import import_plugins
from tl_distributed.models.settings import ModelSettings
from tl_distributed.settings.config import Config


@dataclasses.dataclass(frozen=True)
class Network:
    """A classifier and what stands before it.

    Attributes:
      description: What it is, for a heading.
      prepare: `[batch, height, width, 3] uint8` to what the classifier takes; resizes and normalises.
      classifier: Flat model of `heads.build_classifier`, float32, to logits.
      image_shape: (height, width, 3) that `prepare` takes.
      has_new_head: Whether the weights of its head are random, as far as that is known.
    """

    description: str
    prepare: Callable[[tf.Tensor], tf.Tensor]
    classifier: keras.Model
    image_shape: tuple[int, int, int]
    has_new_head: bool = False


def read_run_config(workdir: str, plugins: Sequence[str] = ()) -> Config:
    """Returns the resolved config of a run.

    Args:
      workdir: Its folder.
      plugins: Modules of `--plugin`, which the user trusts; no other module that the file names is imported.

    Raises:
      UserError: Not the folder of a run, one of another version of this program, or of a module that is not trusted.
    """
    path = f"{workdir}/config.json"
    if not path_exists(path):
        raise UserError(f"--workdir={workdir}: no config.json there; name the folder of a run")
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    try:
        saved = {"reset_head": True, **json.loads(text)["config"]}  # before there was this flag, every head was new
        config = Config(**{name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})
        named = config.part(ModelSettings).plugin_modules()  # those of task and augmentation are of no network
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the config of a run of this version ({error})") from None
    unknown = next((name for name in named if name not in plugins), None)
    if unknown:
        raise UserError(
            f"--workdir={workdir}: its network is built by the module {unknown}; if you trust it, --plugin={unknown} "
            "imports it"
        )
    import_plugins(plugins)
    return config


def open_after(workdir: str) -> Network:
    """Opens the best model of a finished run.

    Raises:
      UserError: The run has not finished, or its model cannot be opened.
    """
    path = f"{workdir}/model.keras"
    if not path_exists(path):
        raise UserError(f"--workdir={workdir}: no model.keras there; the run has not finished")
    return _open_packaged(path, shown_as=f"--workdir={workdir}", description="after training")


def open_before(before: str, config: Config, after: Network, class_names: Sequence[str] = ()) -> Network:
    """Opens or builds what the run is compared with.

    Args:
      before: Workdir or .keras model of a run, or other weights as `train --weights` takes them; if empty, the
        weights that the run started from, its head's random ones included.
      config: The run's.
      after: The run's own network.
      class_names: Of the data set, by which the run kept the head that it started from, or did not.

    Raises:
      UserError: Weights that cannot be had, or of another network.
    """
    path = f"{before.rstrip('/')}/model.keras"
    if before.endswith(".keras") or (before and tf.io.gfile.exists(path)):
        file = before if before.endswith(".keras") else path
        if not path_exists(file):
            raise UserError(f"--before={before}: no such file")
        return _open_packaged(file, shown_as=f"--before={before}", description=f"before: {_short(before)}")
    config = dataclasses.replace(config, weights=before or config.weights)
    keras.utils.set_random_seed(config.seed)  # as the run did, so that random weights are the very same
    try:
        classifier = build_model(
            config.part(ModelSettings), config.backbone_row(), image_size=config.image_size,
            num_classes=after.classifier.output.shape[-1], load_weights=True,
            why_new_head=head_of_classes(class_names),
        )  # fmt: skip
    except UserError as error:
        if before:
            raise UserError(str(error).replace("--weights=", "--before=")) from None
        raise UserError(f"--before=PATH must name what the run started from, which is not found: {error}") from None
    has_new_head = config.weights in ("imagenet", "none", "own")  # a file may have brought one for the same classes
    return Network(f"before: {_weights_in_words(config)}", after.prepare, classifier, after.image_shape, has_new_head)


def _weights_in_words(config: Config) -> str:
    if config.weights == "none":
        return f"random weights of seed {config.seed}"
    if config.weights == "own":
        return f"the weights that {config.backbone} brings"
    return "ImageNet weights" if config.weights == "imagenet" else f"weights of {_short(config.weights)}"


def _short(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


def _open_packaged(path: str, *, shown_as: str, description: str) -> Network:
    """Takes a model of `packaging.package_model` apart into its classifier and the layers before it."""
    try:
        packaged = load_keras(path)
    except UserError as error:
        raise UserError(f"{shown_as}: {error}") from None
    layers = getattr(packaged, "layers", [])
    places = [place for place, layer in enumerate(layers) if isinstance(layer, keras.Model)]
    if len(places) != 1 or len(packaged.inputs) != 1 or packaged.input.dtype != "uint8":
        raise UserError(f"{shown_as}: {path} is no model of a run; takes the model.keras that a run leaves")
    (place,) = places

    def prepare(images: tf.Tensor) -> tf.Tensor:
        for layer in layers[1:place]:
            images = layer(images, training=False)
        return images

    return Network(description, prepare, layers[place], tuple(packaged.input_shape[1:]))
