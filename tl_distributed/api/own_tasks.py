"""Tasks and augmentations that a program gives to `train`: flags where they are built in, else kept under a name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tl_distributed.api.own_models import name_of
from tl_distributed.errors import UserError
from tl_distributed.models.plugins import give, source_of_function

if TYPE_CHECKING:
    from tl_distributed.training.tasks import Task


def flags_of_task(flags: dict[str, Any], task: "Task | type[Task] | None") -> dict[str, Any]:
    """Returns the flags with those that say what `task` does.

    A built-in one is what its flags are; one of one's own is kept, and its class's source and fields are what tells it
    from another when a run goes on.

    Raises:
      UserError: Not a task, or a flag beside it that it says itself.
    """
    if task is None:
        return flags
    from tl_distributed.training.tasks import Classification, MultiLabel, Task

    task = task() if isinstance(task, type) and issubclass(task, Task) else task
    if not isinstance(task, Task):
        raise UserError(f"task takes a tl.Task, e.g. tl.Classification(), not {type(task).__name__}")
    if type(task) not in (Classification, MultiLabel):
        kind = type(task)
        content = source_of_function(kind) + repr(sorted(vars(task).items())).encode()
        own = {"task": give(lambda: task, name_of(kind), content)}
    else:
        if getattr(task, "weight_of_class", None) is not None:
            raise UserError("weight_of_class is what a run finds; give class_weights")
        focal = task.focal_gamma is not None
        own = {
            "task": task.name,
            "label_smoothing": task.label_smoothing,
            "loss": "focal" if focal else "cross_entropy",
        }
        own |= {"focal_gamma": task.focal_gamma} if focal else {}
        own |= {"class_weights": task.class_weights} if isinstance(task, Classification) else {}
    for name in own:
        if name in flags:
            raise UserError(f"task says {name} itself; drop {name}={flags[name]!r}")
    return {**flags, **own}


def flags_of_augmentation(flags: dict[str, Any], augmentation: str | Callable[..., Any] | None) -> dict[str, Any]:
    """Returns the flags with the one that names the augmentation; a function is kept.

    Raises:
      UserError: Neither a name nor a function.
    """
    if augmentation is None:
        return flags
    if not isinstance(augmentation, str):
        if not callable(augmentation):
            raise UserError(f"augmentation takes a function or MODULE:FUNCTION, not {type(augmentation).__name__}")
        augmentation = give(augmentation, name_of(augmentation), source_of_function(augmentation))
    return {**flags, "augmentation": augmentation}
