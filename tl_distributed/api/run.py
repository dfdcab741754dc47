"""Training from Python, and what a run left."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tl_distributed.api.calls import api_call, kept_path, quiet_tensorflow
from tl_distributed.api.keywords import checked, settings_of
from tl_distributed.api.model import Model
from tl_distributed.api.own_models import flags_of
from tl_distributed.api.own_tasks import flags_of_augmentation, flags_of_task
from tl_distributed.errors import UserError
from tl_distributed.settings.config import Config

if TYPE_CHECKING:
    import keras

    from tl_distributed.training.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
      workdir: Its folder, from the root.
      results: The content of its `results.json`: `test_accuracy`, `val_accuracy` (shares in [0, 1]), `seconds` and so
        on; see docs/reference/files.md. Of several workers only the first one saves it; the others have it too.
    """

    workdir: str
    results: dict[str, Any] = dataclasses.field(repr=False)

    def __post_init__(self):
        object.__setattr__(self, "workdir", kept_path(self.workdir))

    @functools.cached_property
    def model(self) -> Model:
        """The model of the best epoch, opened from the run's `model.keras`.

        Raises:
          UserError: The file is not there, or is no model.
        """
        return Model(self.workdir)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, each with `step`, `epoch` and `seconds`, and either `loss` and `accuracy` of
        training since the row before, or `val_loss` and `val_accuracy` (of other
        tasks than classification their own metrics).

        Raises:
          UserError: The file is not there, or damaged.
        """
        with api_call():
            from tl_distributed.reporting.metrics_log import read_metrics

            return read_metrics(f"{self.workdir}/metrics.jsonl")

    @property
    def config(self) -> dict[str, Any]:
        """The content of the run's `config.json`: settings, versions, devices, data set."""
        with api_call():
            return _read(self.workdir, "config.json")


def train(
    config: Config | None = None,
    *,
    model: "keras.Model | Callable[[int], keras.Model] | None" = None,
    normalization: str | Callable[[Any], Any] | None = None,
    task: "Task | type[Task] | str | None" = None,
    augmentation: str | Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
    **flags: Any,
) -> Run:
    """Trains as `python -m tl_distributed.train` does, or goes on where a run in the same workdir stopped.

    May be called again in the same process, with other settings too, but for the devices: a process claims them once
    (`virtual_devices`, `gpu_memory_limit_mib`, `deterministic`).

    Args:
      config: All settings, instead of `flags` or with some of them changed by `flags`.
      model: A network of one's own in the place of `backbone`: a functional or subclassed `keras.Model`, of which the
        run trains a copy, or a function of the image side in pixels that builds one, in the run's precision. It takes
        images `[batch, side, side, 3] float32` and returns features of rank 2, 3 (tokens, see `pooling`) or 4, or with
        `head="own"` logits. With `pretrained=True` its weights are kept; a model's are drawn anew otherwise.
      normalization: What such a network expects of an image: "tf" [-1, 1], "torch" or "caffe" (ImageNet's mean),
        "internal" [0, 255], or a function of a Keras tensor in [0, 255], which becomes a part of the network.
      task: What is learnt: `tl.Classification(label_smoothing=, class_weights=, focal_gamma=)`, `tl.MultiLabel(...)`,
        or a subclass of `tl.Task` of one's own, as a class or as one of it; or the text of the flag `--task`.
      augmentation: A function of one's own, or MODULE:FUNCTION: images `[batch, side, side, 3] float32` in [0, 255],
        targets `[batch, num_classes] float32` and uniforms `[batch, 16] float32` in [0, 1) to images and targets, by
        TensorFlow's or Keras's operations; see docs/howto/own_task.md.
      **flags: The flags of the command, e.g. `data_dir="data/photos", backbone="mobilenet_v2", epochs=5`. A list is a
        tuple or list, a path text or `os.PathLike`; `None` is the default. `recipe="NAME"` fills in a recipe's flags,
        over which the others win.

    Returns:
      The run, trained, evaluated and saved.

    Raises:
      UserError: Whatever the user can mend, in the one line that the command prints.
      Stopped: A signal (Ctrl-C, *Interrupt* in a notebook, SIGTERM) stopped the run after a checkpoint; the same call
        goes on.
    """
    if isinstance(task, str):
        flags, task = {**flags, "task": task}, None
    flags = flags_of_augmentation(flags_of_task(flags, task), augmentation)
    return train_with(_config(config, flags_of(flags, model, normalization)))


def train_with(config: Config) -> Run:
    """Trains with settings as they are; command and API alike end here.

    Raises:
      UserError: Combinations that cannot be meant, and whatever else `train` raises.
      Stopped: As `train`.
    """
    if config.plugin_modules():
        quiet_tensorflow()  # before they import it themselves
    config.validate()
    with api_call():
        from tl_distributed.training.run import train_and_evaluate

        results = train_and_evaluate(config)
    return Run(results["workdir"], results)


def load(workdir: str | os.PathLike) -> Run:
    """Opens the run in a folder.

    Raises:
      UserError: No run there, or one that has not ended.
    """
    folder = kept_path(workdir).rstrip("/")
    with api_call():
        return Run(folder, _read(folder, "results.json"))


def _config(config: Config | None, flags: dict[str, Any]) -> Config:
    if config is None:
        return settings_of(Config, flags)
    if not isinstance(config, Config):
        raise UserError(f"train takes a tl.Config, or flags by name, not {type(config).__name__}")
    if "recipe" in flags:
        raise UserError("--recipe fills in flags that are not given, and a tl.Config gives all; drop one of them")
    unknown = sorted(set(flags) - {field.name for field in dataclasses.fields(config)})
    if unknown:
        settings_of(Config, {unknown[0]: ""})  # says what it is mistaken for
    return checked(dataclasses.replace(config, **flags))


def _read(folder: str, name: str) -> dict[str, Any]:
    from tl_distributed.files import path_exists, read_json

    if not path_exists(f"{folder}/config.json"):
        raise UserError(f"{folder}: no run there; name the workdir of one")
    content = read_json(f"{folder}/{name}")
    if content is None:
        raise UserError(f"{folder}: the run there has not ended; train it to the end by the same call")
    return content
