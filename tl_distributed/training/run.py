"""A whole run: from a config to a trained, evaluated, saved model."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.commandline import UserError, full_disk_to_mend
from tl_distributed.config import Config
from tl_distributed.data.dataset import choose_input_mode, load_splits, load_subset
from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.records import SPLITS, DatasetInfo, read_manifest
from tl_distributed.data.splits import Split
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_model
from tl_distributed.models.cutting import Cut, cut_at_frozen
from tl_distributed.models.freezing import freeze_for
from tl_distributed.reporting.report import to_json_values, write_json
from tl_distributed.reporting.run_log import NoRunLog, RunLog
from tl_distributed.runtime import Runtime, start_runtime
from tl_distributed.training.banking import Trained, open_banked_phase, resolve_bank
from tl_distributed.training.checkpoint_files import wait_until_visible
from tl_distributed.training.checkpoints import Checkpoints, Position
from tl_distributed.training.evaluation import Evaluation, Evaluator
from tl_distributed.training.examples import misclassified, preview
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.optimizers import make_optimizer
from tl_distributed.training.outcome import PREDICTIONS_FILE, make_results, save_packaged_model, save_predictions
from tl_distributed.training.phase_run import PhaseParts, PhaseRun
from tl_distributed.training.phases import Phase, plan_phases
from tl_distributed.training.preemption import StopRequest
from tl_distributed.training.scaling import one_replica_speeds
from tl_distributed.training.speed import Speedometer, all_reduce_seconds, summary
from tl_distributed.training.start_log import log_phase, log_start
from tl_distributed.training.step import TrainStep
from tl_distributed.training.step_settings import step_settings
from tl_distributed.training.workdir import dataset_digest, finished_results, open_workdir, write_config
from tl_distributed.workers import Workers, join_workers

_LOG = logging.getLogger(__name__)


def train_and_evaluate(config: Config) -> dict[str, Any]:
    """Runs, or goes on with, the training that `config` describes.

    Args:
      config: Validated; resolved here against the data set.

    Returns:
      The content of `results.json`.

    Raises:
      UserError: Whatever the user can mend: data set, weights, workdir, divergence, memory, a full disk.
      SystemExit: 128 + the signal's number, after a checkpoint, when a signal asked the run to stop.
    """
    with join_workers(config) as workers:
        return _train(config, workers)


def _train(config: Config, workers: Workers) -> dict[str, Any]:
    info = read_manifest(config.data_dir)
    if config.data_copy_dir and dataset_digest(read_manifest(config.data_copy_dir)) != dataset_digest(info):
        raise UserError(f"--data_copy_dir={config.data_copy_dir} is no copy of {config.data_dir}; copy it again")
    workers.require_same({"a dataset.json of SHA-256": dataset_digest(info)}, "give all the same data set (--data_dir)")
    config = config.resolved(native_size=max(info.image_shape[:2]))
    checkpoints = Checkpoints(config.workdir, keep=config.keep_checkpoints, workers=workers)
    position = checkpoints.latest_position()
    config = open_workdir(config, info, position)
    results = workers.from_chief("results", finished_results(config.workdir, position))
    if results is not None:
        _LOG.info("%s has finished already; choose another --workdir to train again.", config.workdir)
        return results
    runtime = start_runtime(config, workers)
    with full_disk_to_mend(config.workdir):
        return _Run(config, info, runtime, checkpoints, resumed=position is not None).execute(position or Position())


def _load(config: Config, info: DatasetInfo, workers: Workers) -> dict[str, Split]:
    """Opens every split that there is; of the training split no more images than `--images_per_class` says."""
    if "train" not in info.splits:
        raise UserError(f"--data_dir={config.data_dir}: no train split")
    sizes = {"images_per_class": config.images_per_class, "seed": config.seed}
    chosen = {"train": load_subset(config.shard_dir, info, "train", **sizes)} if config.images_per_class else {}
    names, mode = tuple(name for name in SPLITS if name not in chosen), config.input_mode
    if mode == "auto":
        own = choose_input_mode(info, names, processes_on_machine=workers.count_on_machine)
        mode = "stream" if "stream" in workers.exchange("input mode", own) else "memory"
    rest = load_splits(
        config.shard_dir, info, names,
        input_mode="memory" if mode == "device" else mode, shuffle_buffer_examples=config.shuffle_buffer_examples,
    )  # fmt: skip
    return {**chosen, **rest}


class _Run:
    """What the parts of one run share."""

    def __init__(self, config: Config, info: DatasetInfo, runtime: Runtime, checkpoints: Checkpoints, *, resumed: bool):
        self._info, self._runtime, self._checkpoints, self._resumed = info, runtime, checkpoints, resumed
        self._backbone = get_backbone(config.backbone)
        self._workers = runtime.workers
        self._splits = _load(config, info, self._workers)
        if config.input_mode == "device":
            self._splits["train"] = DeviceSplit(self._splits["train"], runtime.strategy)
        # Resolved here and not before, since it goes by free memory; a resumed run keeps what it began with.
        config = dataclasses.replace(config, input_mode=self._splits["train"].mode)
        with runtime.strategy.scope():
            # A checkpoint holds every weight: a resumed run does without the pretrained file.
            self._model = build_model(config, num_classes=info.num_classes, load_weights=not resumed)
        self._phases = plan_phases(config, num_examples=self._splits["train"].num_examples)
        cuts = [self._cut(phase, config) for phase in self._phases]
        examples = {name: split.num_examples for name, split in self._splits.items()}
        self._config = config = resolve_bank(config, self._phases, cuts, examples, self._workers)
        self._cuts = cuts if config.feature_bank == "on" else [None] * len(cuts)
        self._evaluator: Evaluator | None = None
        self._evaluated_splits = self._splits
        self._speed_by_phase: dict[str, dict[str, float | None]] = {}
        phases = [phase.name for phase in self._phases]
        self._one_replica_speeds = one_replica_speeds(config, runtime, phases) if self._workers.is_chief else {}

    def execute(self, position: Position) -> dict[str, Any]:
        """Trains every phase that is left, then evaluates the best weights and writes the results."""
        config = self._config
        log_start(
            config, self._info, self._phases, self._runtime,
            examples={name: split.num_examples for name, split in self._splits.items()},
            resumed_at=position.step if self._resumed else None,
        )  # fmt: skip
        chief = self._workers.is_chief
        if chief:
            tf.io.gfile.makedirs(config.workdir)
            written = write_config(config, self._info, self._runtime)
        self._workers.exchange("config.json is written", None)
        wait_until_visible(f"{config.workdir}/config.json", self._workers)
        log = RunLog(config.workdir, last_step=position.step) if chief else NoRunLog()
        with log, StopRequest(self._workers) as stop, self._checkpoints:
            if chief:
                log.start(written)
            timing, restore = np.zeros(2), self._resumed
            if restore and any(self._cuts):
                self._checkpoints.restore_weights(self._model)
            while True:
                run, loop, step, speed = self._prepare(position, log, stop)
                if restore:
                    self._checkpoints.restore(self._model, step)
                    restore = False
                elif chief:
                    log.preview(*preview(step, self._splits["train"], self._info.class_names), position.step)
                position = run.run()
                timing += (loop.times.steps, loop.times.seconds)
                self._speed_by_phase[self._phases[position.phase].name] = speed.in_all()
                if stop.signal_number is not None:
                    self._checkpoints.wait()
                    _LOG.info("Stopped at step %d, checkpoint written; the same command goes on.", position.step)
                    raise SystemExit(128 + stop.signal_number)
                last = position.phase + 1 == len(self._phases)
                if last or not run.complete:  # not complete: --max_steps
                    break
                position = dataclasses.replace(
                    position, phase=position.phase + 1, phase_first_step=position.step,
                    stale_epochs=0, phase_best_val_accuracy=-1.0,
                )  # fmt: skip
            self._checkpoints.restore_best(self._model, step)
            return self._finish(position, timing, log, finished=last and run.complete)

    def _freeze(self, phase: Phase, config: Config) -> None:
        partial = phase.freezing == "partial"
        freeze_for(
            self._model, phase.freezing,
            unfreeze_last_layers=config.unfreeze_last_layers if partial else 0,
            unfreeze_from=config.unfreeze_from if partial else "",
        )  # fmt: skip

    def _cut(self, phase: Phase, config: Config) -> Cut | None:
        if config.feature_bank == "off" or config.why_nothing_to_bank():
            return None
        self._freeze(phase, config)
        return cut_at_frozen(self._model)

    def _trained(self, phase: Phase, cut: Cut | None, stop: StopRequest) -> Trained:
        """Returns what the phase trains, and on what: the whole model and images, or from a bank on."""
        self._freeze(phase, self._config)
        if cut is None:
            return Trained(self._model, None, self._splits)
        return open_banked_phase(
            cut, self._config, self._info, self._splits,
            normalization=self._backbone.normalization, runtime=self._runtime, stop=stop,
        )  # fmt: skip

    def _prepare(
        self, position: Position, log: RunLog, stop: StopRequest
    ) -> tuple[PhaseRun, TrainLoop, TrainStep, Speedometer]:
        """Freezes for the phase, and builds its step, its input from the position on, and its driver."""
        config, phase = self._config, self._phases[position.phase]
        trained = self._trained(phase, self._cuts[position.phase], stop)
        train = trained.splits["train"]
        first_step = position.phase_first_step
        if position.banks_counted <= position.phase:
            seconds = position.seconds + trained.bank_seconds
            position = dataclasses.replace(position, seconds=seconds, banks_counted=position.phase + 1)
        step = TrainStep(
            trained.model,
            lambda: make_optimizer(config),
            lambda step: phase.schedule(step - first_step),
            step_settings(config, self._model, num_classes=self._info.num_classes, features=trained.layout),
            self._runtime,
        )
        self._evaluated_splits = trained.splits
        self._evaluator = Evaluator(
            trained.model,
            features=trained.layout,
            image_size=config.image_size,
            normalization=self._backbone.normalization,
            runtime=self._runtime,
        )
        feed = train.train_feed(
            global_batch_size=config.global_batch_size,
            num_replicas=self._runtime.num_replicas,
            seed=config.seed,
            first_step=position.step,
        )
        loop = TrainLoop(step, feed, self._runtime, steps_per_loop=config.steps_per_loop)
        log_phase(phase, self._model, config.layer_decay)
        speed = Speedometer(
            loop,
            global_batch_size=config.global_batch_size,
            num_replicas=self._runtime.num_replicas,
            all_reduce_seconds=all_reduce_seconds(step, self._runtime, config.all_reduce_dtype),
            one_replica_images_per_second=self._one_replica_speeds.get(phase.name),
        )
        parts = PhaseParts(
            config=config, model=self._model, phase=phase, step=step, loop=loop, speed=speed, train=train,
            validate=lambda: self._evaluate("val", step.averages), checkpoints=self._checkpoints,
            log_row=log.row, stop=stop, workers=self._workers,
        )  # fmt: skip
        return PhaseRun(parts, position), loop, step, speed

    def _evaluate(self, split: str, averages: Sequence[tf.Variable] = ()) -> Evaluation | None:
        if split not in self._evaluated_splits:
            return None
        return self._evaluator.evaluate(
            self._evaluated_splits[split], batch_size=self._config.global_batch_size, averages=averages
        )

    def _finish(self, position: Position, timing: np.ndarray, log: RunLog, *, finished: bool) -> dict[str, Any]:
        """Evaluates the best weights once, and writes model, results and plots."""
        config = self._config
        evaluations = {name: self._evaluate(name) for name in ("val", "test") if name in self._splits}
        if not self._workers.is_chief:
            return self._workers.from_chief("results", None)
        save_packaged_model(self._model, config, normalization=self._backbone.normalization, info=self._info)
        steps, seconds = timing
        results = make_results(
            position,
            evaluations,
            self._info.class_names,
            images_per_second=steps * config.global_batch_size / seconds if seconds else None,
            images_per_epoch=self._splits["train"].num_examples,
            finished=finished,
            model=self._model,
            config=config,
        )
        results |= summary(self._speed_by_phase, self._phases[position.phase].name)
        results |= {
            "checkpoints_written": self._checkpoints.written,
            "checkpoint_blocking_seconds": self._checkpoints.blocking_seconds,
            "checkpoint_write_seconds": self._checkpoints.write_seconds,
        }
        if "test" in evaluations:
            save_predictions(f"{config.workdir}/{PREDICTIONS_FILE}", evaluations["test"])
        shown = "test" if "test" in evaluations else "val"
        wrong = misclassified(self._splits.get(shown), evaluations.get(shown), self._info.class_names)
        log.finish(results, dataclasses.asdict(config), wrong)
        write_json(f"{config.workdir}/results.json", results)
        self._workers.from_chief("results", to_json_values(results))
        return results
