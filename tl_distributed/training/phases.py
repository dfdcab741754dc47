"""The phases of a run: what trains, for how long, at which rate."""

import dataclasses
import math
from collections.abc import Sequence

from tl_distributed.data.order import steps_for_epochs
from tl_distributed.settings.config import Config
from tl_distributed.training.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one set of trainable layers and one optimizer.

    Attributes:
      name: `head` or `main`.
      freezing: What `freeze_for` takes: scratch, frozen, partial, norms, lora or full.
      epochs: Epochs that it lasts, unless stopped early; as many as `--min_steps` takes.
      total_steps: The same in steps.
      schedule: Rate by step within the phase.
    """

    name: str
    freezing: str
    epochs: int
    total_steps: int
    schedule: Schedule


def plan_phases(config: Config, *, num_examples: int) -> tuple[Phase, ...]:
    """Returns the phases of a resolved config: two for two_phase, else one.

    Args:
      config: Resolved, so that `transfer` is set.
      num_examples: Examples of the training split.
    """
    if config.transfer != "two_phase":
        pretrained = config.transfer in ("partial", "full")
        rate = config.finetune_learning_rate if pretrained else config.learning_rate
        return (_phase(config, "main", config.transfer, config.epochs, rate, num_examples),)
    partial = config.unfreeze_last_layers or config.unfreeze_from
    return (
        _phase(config, "head", "frozen", config.head_epochs, config.learning_rate, num_examples),
        _phase(
            config, "main", "partial" if partial else "full", config.epochs, config.finetune_learning_rate, num_examples
        ),
    )


def epochs_within(phases: Sequence[Phase], max_steps: int) -> list[float]:
    """Returns how many epochs each phase lasts in a run that ends after `max_steps`; 0 is no limit."""
    lengths, first_step, last_step = [], 0, max_steps or math.inf
    for phase in phases:
        steps = max(min(phase.total_steps, last_step - first_step), 0)
        lengths.append(phase.epochs * steps / phase.total_steps)
        first_step += phase.total_steps
    return lengths


def _phase(config: Config, name: str, freezing: str, epochs: int, peak: float, num_examples: int) -> Phase:
    sizes = {"num_examples": num_examples, "global_batch_size": config.global_batch_size}
    epochs = max(epochs, math.ceil(config.min_steps * config.global_batch_size / num_examples))
    total_steps = steps_for_epochs(epochs, **sizes)
    warmup_steps = min(steps_for_epochs(config.warmup_epochs, **sizes), total_steps)
    if freezing in ("partial", "full") and config.schedule != "constant":  # a constant rate can be prolonged
        warmup_steps = max(warmup_steps, round(config.finetune_warmup_fraction * total_steps))
    schedule = Schedule(kind=config.schedule, peak=peak, warmup_steps=warmup_steps, total_steps=total_steps)
    return Phase(name, freezing, epochs, total_steps, schedule)
