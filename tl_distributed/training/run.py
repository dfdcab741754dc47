"""A whole run: from a config to a trained, evaluated, saved model."""

import contextlib
import dataclasses
import logging
from typing import Any

from tl_distributed.data.settings import DataSettings
from tl_distributed.data.subset import subset_counts
from tl_distributed.errors import UserError, full_disk_to_mend
from tl_distributed.runtime.join import join_workers, shared_flags
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.config import Config
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.class_weights import resolve_class_weights
from tl_distributed.training.input import fit_of_run, open_splits, read_data_set
from tl_distributed.training.phases import plan_phases
from tl_distributed.training.position import Position
from tl_distributed.training.run_phases import Run, RunPhases
from tl_distributed.training.start import start_devices, start_model
from tl_distributed.training.task_choice import choose_task, resolved_by_task
from tl_distributed.training.trained_part import choose_banks
from tl_distributed.training.workdir import finished_results, open_workdir
from tl_distributed.training.workdir_lock import locked_workdir

_LOG = logging.getLogger(__name__)


def train_and_evaluate(config: Config) -> dict[str, Any]:
    """Runs, or goes on with, the training that `config` describes.

    Args:
      config: Validated; resolved here against the data set.

    Returns:
      The content of `results.json`.

    Raises:
      UserError: Whatever the user can mend: data set, weights, workdir, divergence, memory, a full disk; another run
        in the workdir.
      SystemExit: 128 + the signal's number, after a checkpoint, when a signal asked the run to stop.
    """
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(join_workers(config.part(RuntimeSettings), shared_flags(config)))
        sources = {f"a source of {name} of SHA-256": digest for name, digest in config.plugin_sources().items()}
        workers.require_same(sources, "give all workers the same modules")
        info = read_data_set(config.part(DataSettings), workers)
        if "val" not in info.splits:
            _refuse_what_validation_decides(config)
        if info.is_multi_label and config.images_per_class:
            raise UserError(
                f"--images_per_class={config.images_per_class}: pictures of --data_dir={config.data_dir} have any "
                "number of labels, so there are no so many of a class; drop it"
            )
        fit = fit_of_run(config.fit, info)
        config = dataclasses.replace(config.resolved(native_size=max(info.image_shape[:2])), fit=fit)
        backbone = config.backbone_row()
        stack.enter_context(locked_workdir(config.workdir, workers))
        checkpoints = Checkpoints(config.workdir, keep=config.keep_checkpoints, workers=workers)
        position = checkpoints.latest_position()
        counts = subset_counts(info.splits["train"].counts_per_class, config.images_per_class)
        weights = resolve_class_weights(config.class_weights, info.class_names, counts, workers)
        task = choose_task(config, info, weight_of_class=weights)
        config = resolved_by_task(config, task, info.num_classes)
        config = open_workdir(config, info, position, class_weights=weights)
        results = workers.from_chief("results", finished_results(config, position))
        if results is not None:
            _LOG.info("%s has finished already; choose another --workdir to train again.", config.workdir)
            return results
        runtime = start_devices(config, backbone, workers)
        with full_disk_to_mend(config.workdir):
            splits = open_splits(config.part(DataSettings), info, runtime, seed=config.seed)
            # Resolved here and not before, since it goes by free memory; a resumed run keeps what it began with.
            config = dataclasses.replace(config, input_mode=splits["train"].mode)
            # A checkpoint holds every weight: a resumed run does without the pretrained file.
            model = start_model(
                config, backbone, runtime, num_classes=info.num_classes, load_weights=position is None,
                class_names=info.class_names,
            )  # fmt: skip
            phases = plan_phases(config, num_examples=splits["train"].num_examples)
            num_examples = {name: split.num_examples for name, split in splits.items()}
            config, cuts = choose_banks(config, model, phases, num_examples, workers)
            run = Run(
                config=config, info=info, backbone=backbone, runtime=runtime, splits=splits, model=model,
                phases=phases, cuts=cuts, checkpoints=checkpoints, resumed=position is not None,
                class_weights=weights, task=task,
            )  # fmt: skip
            return RunPhases(run).execute(position or Position())


def _refuse_what_validation_decides(config: Config) -> None:
    asked = [
        f"--{name}={getattr(config, name)}"
        for name in ("early_stopping_epochs", "select_by")
        if getattr(config, name) != Config.__dataclass_fields__[name].default
    ]
    if asked:
        raise UserError(
            f"{asked[0]} goes by validation, and --data_dir={config.data_dir} has no val split; drop it, or build the "
            "data set with --val_fraction"
        )
