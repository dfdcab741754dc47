"""The phases of a run, one after the other, and what it leaves in the end."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.bank.cut import Cut
from tl_distributed.data.ids import read_ids
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.splits import Split
from tl_distributed.errors import UserError
from tl_distributed.files import to_json_values, write_json
from tl_distributed.models.backbones import Backbone
from tl_distributed.reporting.answers import PREDICTIONS_FILE
from tl_distributed.reporting.calibration import TEMPERATURES
from tl_distributed.reporting.run_log import NoRunLog, RunLog
from tl_distributed.reporting.run_page import write_run_page
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.shared_files import wait_until_visible
from tl_distributed.settings.config import Config
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.evaluation import Evaluation, Evaluator
from tl_distributed.training.examples import misclassified, preview
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.optimizers import make_optimizer
from tl_distributed.training.outcome import (
    make_results,
    save_packaged_model,
    save_predictions,
    temperature_of,
)
from tl_distributed.training.phase_run import AGAINST_DIVERGENCE, PhaseParts, PhaseRun
from tl_distributed.training.phases import Phase
from tl_distributed.training.position import Position
from tl_distributed.training.scaling import one_replica_speeds
from tl_distributed.training.settings import OptimizationSettings
from tl_distributed.training.speed import Speedometer, all_reduce_seconds, summary
from tl_distributed.training.start_log import log_phase, log_start
from tl_distributed.training.step import TrainStep
from tl_distributed.training.step_settings import step_settings
from tl_distributed.training.tasks import Task
from tl_distributed.training.trained_part import open_phase
from tl_distributed.training.watched import EvaluationStoppedError, WatchedEvaluator
from tl_distributed.training.workdir import compared_settings, reopen, write_config

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What the parts of one run share.

    Attributes:
      config: Resolved, whole.
      cuts: Of each phase, where it is banked.
      resumed: Whether it goes on from a checkpoint.
      class_weights: Of `class_weights.resolve_class_weights`.
      task: What is learnt.
    """

    config: Config
    info: DatasetInfo
    backbone: Backbone
    runtime: Runtime
    splits: dict[str, Split]
    model: keras.Model
    phases: Sequence[Phase]
    cuts: Sequence[Cut | None]
    checkpoints: Checkpoints
    resumed: bool
    class_weights: tuple[float, ...] | None
    task: Task


class RunPhases:
    """Trains the phases of a run and ends it; used once."""

    def __init__(self, run: Run):
        self._run, self._workers = run, run.runtime.workers
        self._evaluate: WatchedEvaluator | None = None
        self._speed_by_phase: dict[str, dict[str, float | None]] = {}
        names = [phase.name for phase in run.phases]
        is_chief = self._workers.is_chief
        self._one_replica_speeds = one_replica_speeds(run.config, run.runtime, names) if is_chief else {}

    def execute(self, position: Position) -> dict[str, Any]:
        """Trains every phase that is left, then evaluates the best weights and writes the results."""
        run, config, chief = self._run, self._run.config, self._workers.is_chief
        log_start(
            config, run.info, run.phases, run.runtime,
            examples={name: split.num_examples for name, split in run.splits.items()},
            resumed_at=position.step if run.resumed else None,
        )  # fmt: skip
        if chief:
            tf.io.gfile.makedirs(config.workdir)
            reopen(config.workdir)
            written = write_config(config, run.info, run.runtime, run.class_weights)
        self._workers.exchange("config.json is written", None)
        wait_until_visible(f"{config.workdir}/config.json", self._workers, flag="--workdir")
        log = self._run_log(position) if chief else NoRunLog()
        with log, StopRequest(self._workers) as stop, run.checkpoints:
            if chief:
                log.start(written)
            position, timing, step, finished = self._train(position, log, stop)
            run.checkpoints.restore_best(run.model, step, position)
            try:
                return self._finish(position, timing, log, finished=finished)
            except EvaluationStoppedError:
                _LOG.info("Stopped while the best weights were evaluated; the same command does that anew.")
                raise SystemExit(128 + stop.signal_number) from None

    def _run_log(self, position: Position) -> RunLog:
        task = self._run.task
        return RunLog(
            self._run.config.workdir, last_step=position.step, measures=task.measure_names, chosen_by=task.chosen_by,
            track=self._run.config.track,
        )  # fmt: skip

    def _train(
        self, position: Position, log: RunLog, stop: StopRequest
    ) -> tuple[Position, np.ndarray, TrainStep, bool]:
        """Trains from `position` on; returns where it ended, (steps, seconds), the last step, and whether all is done.

        Raises:
          SystemExit: A signal asked to stop; the checkpoint is written.
        """
        run, timing, restore = self._run, np.zeros(2), self._run.resumed
        if restore and any(run.cuts):
            run.checkpoints.restore_weights(run.model)
        while True:
            phase_run, loop, step, speed = self._prepare(position, log, stop)
            if restore:
                run.checkpoints.restore(run.model, step)
                restore = False
            elif self._workers.is_chief:
                log.preview(*preview(step, run.splits["train"], run.info.class_names), position.step)
            position = phase_run.run()
            timing += (loop.times.steps, loop.times.seconds)
            self._speed_by_phase[run.phases[position.phase].name] = speed.in_all()
            if stop.signal_number is not None:
                run.checkpoints.wait()
                _LOG.info("Stopped at step %d, checkpoint written; the same command goes on.", position.step)
                raise SystemExit(128 + stop.signal_number)
            last = position.phase + 1 == len(run.phases)
            if last or not phase_run.complete:  # not complete: --max_steps
                return position, timing, step, last and phase_run.complete
            position = dataclasses.replace(
                position, phase=position.phase + 1, phase_first_step=position.step,
                stale_epochs=0, phase_best_score=None, validated_epochs=0,
            )  # fmt: skip

    def _prepare(
        self, position: Position, log: RunLog, stop: StopRequest
    ) -> tuple[PhaseRun, TrainLoop, TrainStep, Speedometer]:
        """Freezes for the phase, and builds its step, its input from the position on, and its driver."""
        run, config, runtime, phase = self._run, self._run.config, self._run.runtime, self._run.phases[position.phase]
        trained = open_phase(
            phase, run.cuts[position.phase], run.model, run.splits,
            config=config, info=run.info, normalization=run.backbone.normalization, runtime=runtime, stop=stop,
        )  # fmt: skip
        train = trained.splits["train"]
        first_step = position.phase_first_step
        if position.banks_counted <= position.phase:
            seconds = position.seconds + trained.bank_seconds
            position = dataclasses.replace(position, seconds=seconds, banks_counted=position.phase + 1)
        optimization = config.part(OptimizationSettings)
        step = TrainStep(
            trained.model,
            lambda: make_optimizer(optimization),
            lambda step: phase.schedule(step - first_step),
            step_settings(
                config, run.model,
                normalization=run.backbone.normalization, num_classes=run.info.num_classes, features=trained.layout,
                task=run.task, fit=config.fit,
            ),
            runtime,
        )  # fmt: skip
        evaluator = Evaluator(
            trained.model,
            features=trained.layout,
            image_size=config.image_size,
            normalization=run.backbone.normalization,
            runtime=runtime,
            averages=step.averages,
            fit=config.fit,
            task=run.task,
        )
        self._evaluate = WatchedEvaluator(
            evaluator, trained.splits, batch_size=config.global_batch_size, stop=stop, workers=self._workers
        )
        order = BatchOrder(
            global_batch_size=config.global_batch_size, num_replicas=runtime.num_replicas, seed=config.seed,
            shuffle_blocks=config.shuffle_blocks, local_replicas=runtime.local_replicas,
        )  # fmt: skip
        feed = train.train_feed(order, first_step=position.step)
        loop = TrainLoop(step, feed, runtime, steps_per_loop=config.steps_per_loop)
        log_phase(phase, run.model, config.layer_decay)
        speed = Speedometer(
            loop,
            global_batch_size=config.global_batch_size,
            num_replicas=runtime.num_replicas,
            all_reduce_seconds=all_reduce_seconds(step, runtime, config.all_reduce_dtype),
            one_replica_images_per_second=self._one_replica_speeds.get(phase.name),
        )
        parts = PhaseParts(
            config=config, model=run.model, phase=phase, step=step, loop=loop, speed=speed, train=train,
            validate=lambda: self._evaluate("val", use_averages=bool(step.averages)), checkpoints=run.checkpoints,
            log_row=log.row, stop=stop, workers=self._workers,
            task=run.task,
        )  # fmt: skip
        return PhaseRun(parts, position), loop, step, speed

    def _finish(self, position: Position, timing: np.ndarray, log: RunLog, *, finished: bool) -> dict[str, Any]:
        """Evaluates the best weights once, and writes model, results and plots.

        Raises:
          EvaluationStoppedError: A signal came before all were evaluated.
        """
        run, config = self._run, self._run.config
        val = self._evaluate("val", temperatures=TEMPERATURES if run.task.calibrates else ())
        # One worker's, so that no rounding can make them differ.
        temperature = self._workers.from_chief("temperature", temperature_of(val) if run.task.calibrates else None)
        test = self._evaluate("test", keep_probabilities=True, temperatures=(temperature,) if temperature else ())
        evaluations = {name: one for name, one in (("val", val), ("test", test)) if one is not None}
        _refuse_diverged(evaluations, position)
        if not self._workers.is_chief:
            return self._workers.from_chief("results", None)
        save_packaged_model(
            run.model,
            config,
            normalization=run.backbone.normalization,
            info=run.info,
            temperature=temperature,
            task=run.task,
        )
        steps, seconds = timing
        results = make_results(
            position,
            evaluations,
            run.info,
            images_per_second=steps * config.global_batch_size / seconds if seconds else None,
            images_per_epoch=run.splits["train"].num_examples,
            finished=finished,
            model=run.model,
            config=config,
            temperature=temperature,
            task=run.task,
        )
        results |= summary(self._speed_by_phase, run.phases[position.phase].name)
        results |= {
            "checkpoints_written": run.checkpoints.written,
            "checkpoint_blocking_seconds": run.checkpoints.blocking_seconds,
            "checkpoint_write_seconds": run.checkpoints.write_seconds,
        }
        shown = "test" if "test" in evaluations else "val"
        ids = read_ids(config.data_dir, run.info, shown) if shown in evaluations else None
        if "test" in evaluations:
            save_predictions(f"{config.workdir}/{PREDICTIONS_FILE}", evaluations["test"], ids)
        wrong = misclassified(
            run.splits.get(shown), evaluations.get(shown), run.info.class_names, ids,
            image_size=config.image_size, fit=config.fit,
        )  # fmt: skip
        log.finish(results, compared_settings(config), (list(wrong.pictures.values()), wrong.captions))
        write_run_page(config.workdir, to_json_values(results), lambda places: wrong.pictures)
        write_json(f"{config.workdir}/results.json", results)  # last: with it the run has finished
        self._workers.from_chief("results", to_json_values(results))
        return results


def _refuse_diverged(evaluations: Mapping[str, Evaluation], position: Position) -> None:
    """Raises `UserError` where no epoch was worth keeping: of the last update, the training loss does not tell."""
    split = next(iter(evaluations), None)
    if split and position.best_score is None and not math.isfinite(evaluations[split].loss):
        raise UserError(
            f"the loss of the {split} split is NaN or infinite after step {position.step}, and there are no weights of "
            f"an epoch before; {AGAINST_DIVERGENCE}"
        )
