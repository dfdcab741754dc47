"""What a run says of itself at the start, and of each phase."""

import logging
from collections.abc import Sequence

import keras

from tl_distributed.data.records import DatasetInfo
from tl_distributed.models.batch_norm import initial_share_after
from tl_distributed.models.freezing import parameter_counts
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.config import Config
from tl_distributed.training.phases import Phase
from tl_distributed.training.workdir import layout_change

_LOG = logging.getLogger(__name__)
_FEW_STEPS = 30  # of a phase, below which to warn
_STALE_STATISTICS = 0.05  # share of BatchNorm's initial statistics at the end of a phase from which on to warn


def log_start(
    config: Config,
    info: DatasetInfo,
    phases: Sequence[Phase],
    runtime: Runtime,
    *,
    examples: dict[str, int],
    resumed_at: int | None,
) -> None:
    """Says what is trained, on what and how.

    Args:
      config: Resolved.
      info: The data set.
      phases: Of the run.
      runtime: Its devices, precision and compiler.
      examples: How many there are of each split.
      resumed_at: Step from which an earlier start is gone on with.
    """
    steps_per_epoch = examples["train"] / config.global_batch_size
    lines = [
        f"Run {config.workdir}: {config.backbone} at {config.image_size} px, weights {config.weights}, "
        f"transfer {config.transfer}.",
        f"Data {config.shard_dir}: {info.num_classes} classes, "
        + ", ".join(f"{count} {name}" for name, count in examples.items())
        + f" {_images_in_words(config, info)}, {config.input_mode} mode.",
        f"Devices: {', '.join(runtime.devices)}; {type(runtime.strategy).__name__}; "
        f"{runtime.workers.count} workers; precision {runtime.precision}; "
        f"XLA {'on' if runtime.use_xla else 'off'} ({runtime.xla_reason}).",
        f"Batch: {config.global_batch_size} in all, {config.global_batch_size // runtime.num_replicas} for each of "
        f"{runtime.num_replicas} replicas; {steps_per_epoch:g} steps an epoch"
        + ("." if steps_per_epoch.is_integer() else "; a batch that ends an epoch is filled from the next one."),
        "Phases: "
        + ", then ".join(
            f"{phase.name} ({phase.freezing}) {phase.epochs} epochs = {phase.total_steps} steps at "
            f"{phase.schedule.peak:g}, {phase.schedule.kind}"
            for phase in phases
        )
        + ".",
    ]
    if runtime.use_xla and "GPU" in runtime.devices[0]:
        lines.append(
            "The first step waits for XLA, which compiles it and times kernels for it: minutes on a GPU, without a "
            "sign of life. XLA_FLAGS=--xla_gpu_per_fusion_autotune_cache_dir=FOLDER asks it to keep what it has timed."
        )
    if resumed_at is not None:
        change = layout_change(config.workdir, runtime)
        lines.append(f"Goes on from step {resumed_at}. {change}".rstrip())
    for line in lines:
        _LOG.info("%s", line)
    _warn_of_few_steps(config, phases, examples["train"])
    _warn_of_flags_without_effect(config, phases)


def log_phase(phase: Phase, model: keras.Model, layer_decay: float) -> None:
    """Says what a phase trains, at which rates, and warns of BatchNorm statistics that cannot follow."""
    trainable, frozen = parameter_counts(model)
    _LOG.info("Phase %s: %s parameters train, %s are frozen.", phase.name, f"{trainable:,}", f"{frozen:,}")
    multipliers = set(rate_multipliers(model, layer_decay).values())
    if len(multipliers) > 1:
        _LOG.info(
            "Layer-wise decay: %d rates, from %.3g of the peak in the lowest block to all of it in the head.",
            len(multipliers), min(multipliers),
        )  # fmt: skip
    stale = initial_share_after(model, phase.total_steps)
    if stale > _STALE_STATISTICS:
        _LOG.warning(
            "BatchNorm's moving statistics will still be %.0f %% their initial value after the phase's %d steps, "
            "and validation worse than the model is; --batch_norm_momentum=0.9 lets them follow%s.",
            100 * stale, phase.total_steps,
            "" if phase.freezing in ("scratch", "norms") else ", --batch_norm=frozen leaves them as they are",
        )  # fmt: skip


def _warn_of_few_steps(config: Config, phases: Sequence[Phase], num_examples: int) -> None:
    few = [phase for phase in phases if phase.total_steps < _FEW_STEPS]
    if few and not config.max_steps:
        _LOG.warning(
            "%s, since %s images make %.3g batches of %d an epoch: too few to learn from. "
            "--min_steps=300 lets each phase last longer, a smaller --global_batch_size makes more of the images.",
            ", ".join(f"Phase {phase.name} has {phase.total_steps} steps" for phase in few), f"{num_examples:,}",
            num_examples / config.global_batch_size, config.global_batch_size,
        )  # fmt: skip


def _warn_of_flags_without_effect(config: Config, phases: Sequence[Phase]) -> None:
    """Says which flags, given other than by default, no phase goes by; a recipe or a study may give them to all."""
    transfer = f"--transfer={config.transfer}"
    pretrained = [phase.freezing in ("partial", "full") for phase in phases]
    idle = {
        "learning_rate": all(pretrained) and f"{transfer}, of which --finetune_learning_rate is the rate",
        "finetune_learning_rate": not any(pretrained) and f"{transfer}, of which --learning_rate is the rate",
        "finetune_warmup_fraction": not any(pretrained) and transfer,
        "head_epochs": config.transfer != "two_phase" and transfer,
        "momentum": config.optimizer != "sgd" and f"--optimizer={config.optimizer}",
    }
    for name, reason in idle.items():
        value = getattr(config, name)
        if reason and phases and value != Config.__dataclass_fields__[name].default:
            _LOG.warning("--%s=%s has no effect with %s.", name, f"{value:g}", reason)


def _images_in_words(config: Config, info: DatasetInfo) -> str:
    return info.images_in_words() + (f", --fit={config.fit}" if info.storage != "pixels" else "")
