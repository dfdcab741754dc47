"""Which task a run has: by its settings and its data set."""

import dataclasses
import inspect
from collections.abc import Sequence

from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.models.plugins import function_of, is_own
from tl_distributed.settings.config import Config
from tl_distributed.training.tasks import Classification, MultiLabel, Task


def choose_task(config: Config, info: DatasetInfo, *, weight_of_class: Sequence[float] | None = None) -> Task:
    """Returns what a run learns.

    Args:
      config: Validated.
      info: The data set's manifest.
      weight_of_class: Of `class_weights.resolve_class_weights`.

    Raises:
      UserError: A task that the data set has no labels for, or none that its module names.
    """
    name = config.task
    if name == "auto":
        name = "multi_label" if info.is_multi_label else "classification"
    gamma = config.focal_gamma if config.loss == "focal" else None
    if name == "classification":
        weights = None if weight_of_class is None else tuple(weight_of_class)
        task: Task = Classification(
            label_smoothing=config.label_smoothing, class_weights=config.class_weights, focal_gamma=gamma,
            weight_of_class=weights,
        )  # fmt: skip
    elif name == "multi_label":
        if config.class_weights != "none":
            raise UserError(f"--class_weights={config.class_weights} has no effect with multi_label; drop it")
        task = MultiLabel(label_smoothing=config.label_smoothing, focal_gamma=gamma)
    else:
        task = own_task(name)
    if info.is_multi_label and not task.takes_several_labels:
        raise UserError(
            f"--task={name}: takes one label a picture, and those of --data_dir={config.data_dir} have any number; use "
            "--task=multi_label, or build the data set without --multi_label"
        )
    return task


def own_task(text: str) -> Task:
    """Returns the task of one's own that `--task` names.

    Raises:
      UserError: No such class, or one that is no `Task`.
    """
    make = function_of("task", text)
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(f"--task={text}: is called without arguments, and {error}") from None
    made = make()
    if not isinstance(made, Task):
        raise UserError(f"--task={text}: takes a class, or a function that returns one, of tl_distributed.Task")
    if made.activation not in ("softmax", "sigmoid", "linear"):
        raise UserError(f"--task={text}: its activation is {made.activation!r}; takes softmax, sigmoid or linear")
    return made


def resolved_by_task(config: Config, task: Task, num_classes: int) -> Config:
    """Returns the config with `task` and `select_by` filled in.

    Raises:
      UserError: A metric in `select_by` that the task has not.
    """
    measure = f"val_{task.chosen_by}" if config.select_by == "auto" else config.select_by
    names = task.names_to_choose_by(num_classes)
    if measure.removeprefix("val_") not in names:
        known = ", ".join(f"val_{name}" for name in names)
        raise UserError(f"--select_by={measure}: task {task.name} has {known}")
    name = config.task if is_own(config.task) else task.name
    return dataclasses.replace(config, task=name, select_by=measure)
