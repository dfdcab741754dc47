"""One phase of a run from its first step to its last: logs, validation, checkpoints, early stopping."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.data.order import steps_for_epochs
from tl_distributed.data.splits import Split
from tl_distributed.errors import UserError
from tl_distributed.progress import Progress
from tl_distributed.reporting.shown_scores import percentage
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.evaluation import Evaluation
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.phases import Phase
from tl_distributed.training.position import Position
from tl_distributed.training.selection import Validation, name_of, validation_of
from tl_distributed.training.speed import Speedometer
from tl_distributed.training.step import TrainStep
from tl_distributed.training.tasks import Task
from tl_distributed.training.watched import EvaluationStoppedError

_LOGS_AN_EPOCH = 20
AGAINST_DIVERGENCE = (
    "try a lower --learning_rate or --finetune_learning_rate, --clip_norm=1, more --warmup_epochs, or "
    "--precision=float32"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseParts:
    """What a phase works with; made by `train_and_evaluate`."""

    config: Config
    model: keras.Model
    phase: Phase
    step: TrainStep
    loop: TrainLoop
    speed: Speedometer
    train: Split
    validate: Callable[[], Evaluation | None]
    checkpoints: Checkpoints
    log_row: Callable[[dict[str, Any]], None]
    stop: StopRequest
    workers: Workers
    task: Task


class PhaseRun:
    """Drives the loop from boundary to boundary; `position` is always where the run stands."""

    def __init__(self, parts: PhaseParts, position: Position):
        self._parts, self.position = parts, position
        config, phase = parts.config, parts.phase
        self._first = position.phase_first_step
        self._last = self._first + phase.total_steps
        if config.max_steps:
            self._last = max(min(self._last, config.max_steps), position.step)
        self._steps_per_epoch = parts.train.num_examples / config.global_batch_size
        self._rate = tf.function(parts.phase.schedule)
        self._log_every = config.log_every_steps or max(1, math.ceil(self._steps_per_epoch / _LOGS_AN_EPOCH))
        self._interval_start = position.step
        self._checkpoint_times = self._times_of_checkpoints()  # at the last log
        self._profiling = False

    @property
    def complete(self) -> bool:
        """Whether the phase is over: trained to its end, or stopped early."""
        return self.position.step >= self._first + self._parts.phase.total_steps or self._stopped_early()

    def run(self) -> Position:
        """Trains until the phase's end, `--max_steps`, an early stop, or a stop signal."""
        unit_total, config = self._last - self._first, self._parts.config
        with Progress(
            total=unit_total * config.global_batch_size,
            initial=(self.position.step - self._first) * config.global_batch_size,
            unit="images",
            label=f"Training {self._parts.phase.name}",
            silent=not self._parts.workers.is_chief,
        ) as progress:
            if self.position.is_validation_left:
                self._validate_here(progress)
            while self._goes_on():
                self._to_boundary(progress)
            if self._stopped_early():
                measure = name_of(config.select_by)
                progress.note(f"No better {measure} for {self.position.stale_epochs} epochs: phase ends.")
            self._log_interval(progress)
        self._toggle_profiler(force_stop=True)
        self._parts.stop.agree()  # also where the signal came in the phase's last steps
        self._save()
        return self.position

    def _goes_on(self) -> bool:
        return self.position.step < self._last and not self._stopped_early() and not self._parts.stop.agree()

    def _to_boundary(self, progress: Progress) -> None:
        """Runs one call of the loop, then whatever is due at the step that it reached."""
        before = self.position.step
        self._parts.checkpoints.raise_failure()
        self._toggle_profiler()
        start = time.perf_counter()
        step = self._parts.loop.run(before, self._next_boundary(before))
        seconds = time.perf_counter() - start
        self.position = dataclasses.replace(self.position, step=step, seconds=self.position.seconds + seconds)
        progress.update((step - before) * self._parts.config.global_batch_size)
        validation_due = step == self._next_validation(before)
        checkpoint_due = self._checkpoint_due(step, validation_due)
        if (step - self._first) % self._log_every == 0 or validation_due or checkpoint_due or step == self._last:
            self._log_interval(progress)
        if validation_due or step == self._last:
            self._validate_here(progress)
        if checkpoint_due and self._goes_on():  # the last one is `run`'s
            self._save()

    def _next_boundary(self, step: int) -> int:
        config = self._parts.config
        in_phase = step - self._first
        candidates = [
            self._last,
            self._next_validation(step),
            self._first + (in_phase // self._log_every + 1) * self._log_every,
        ]
        if config.checkpoint_every_steps:
            candidates.append((step // config.checkpoint_every_steps + 1) * config.checkpoint_every_steps)
        candidates += [edge for edge in config.profile_steps if edge > step]
        return min(candidates)

    def _next_validation(self, step: int) -> int:
        """Returns the first step after `step` at which as many epochs of this phase have been seen as are validated."""
        sizes = {
            "num_examples": self._parts.train.num_examples, "global_batch_size": self._parts.config.global_batch_size,
        }  # fmt: skip
        every = self._parts.config.validate_every_epochs
        validations = int((step - self._first) / (self._steps_per_epoch * every))
        while (end := self._first + steps_for_epochs(validations * every, **sizes)) <= step:
            validations += 1
        return min(end, self._first + self._parts.phase.total_steps)

    def _checkpoint_due(self, step: int, validation_due: bool) -> bool:
        every = self._parts.config.checkpoint_every_steps
        return step % every == 0 if every else validation_due

    def _log_interval(self, progress: Progress) -> None:
        """Writes the means since the last log, and stops a run that has diverged."""
        steps = self.position.step - self._interval_start
        if not steps:
            return
        loss_sum, *sums, norm_sum, skipped = (float(value) for value in self._parts.loop.read_sums())
        images = steps * self._parts.config.global_batch_size
        if not math.isfinite(loss_sum) or (not math.isfinite(norm_sum) and not self._parts.step.loss_scale.dynamic):
            raise UserError(
                f"the loss or its gradient became NaN or infinite between steps {self._interval_start} and "
                f"{self.position.step}; {AGAINST_DIVERGENCE}"
            )
        rate = self._rate(tf.constant(self.position.step - 1 - self._first, tf.int64))
        measures = {name: value / images for name, value in zip(self._parts.task.measure_names, sums, strict=True)}
        row = {
            "loss": loss_sum / images,
            **measures,
            "learning_rate": float(rate),
            "gradient_norm": norm_sum / max(steps - skipped, 1),
            **self._parts.speed.since_last(),
            **self._checkpoint_seconds(),
            "loss_scale": float(self._parts.step.loss_scale.scale.read_value()),
            "skipped_updates": int(skipped),
        }
        self._write(row)
        progress.update(0, loss=row["loss"], **measures)
        self._interval_start = self.position.step

    def _checkpoint_seconds(self) -> dict[str, float | None]:
        """Returns what checkpoints took since the last log; `None` where there was none."""
        last, self._checkpoint_times = self._checkpoint_times, self._times_of_checkpoints()
        return {name: (now - last[name]) or None for name, now in self._checkpoint_times.items()}

    def _times_of_checkpoints(self) -> dict[str, float]:
        checkpoints = self._parts.checkpoints
        return {
            "checkpoint_blocking_seconds": checkpoints.blocking_seconds,
            "checkpoint_write_seconds": checkpoints.write_seconds,
        }

    def _validate_here(self, progress: Progress) -> None:
        """Validates at a boundary; where a signal ends that, it is left to whoever goes on from this position."""
        step = self.position.step
        try:
            if step == self._next_validation(step - 1):
                self._end_epoch(progress)
            else:  # --max_steps: shown, but not part of the choice of the best epoch
                self._validate(progress)
        except EvaluationStoppedError:
            self.position = dataclasses.replace(self.position, is_validation_left=True)
        else:
            self.position = dataclasses.replace(self.position, is_validation_left=False)

    def _end_epoch(self, progress: Progress) -> None:
        """Validates, keeps the best weights, and counts epochs without progress."""
        # One worker's figures, so that no rounding can make them choose differently.
        found = self._parts.workers.from_chief("validation", self._validate(progress))
        position = self.position
        if found is None:
            return
        validation, epochs = Validation(*found), self._epochs_seen()
        if validation.is_better_than(position.phase_best_score, None):
            position = dataclasses.replace(position, stale_epochs=0, phase_best_score=validation.score)
        else:
            before = position.validated_epochs
            if before is None:
                every = self._parts.config.validate_every_epochs
                before = (epochs - 1) // every * every
            position = dataclasses.replace(position, stale_epochs=position.stale_epochs + epochs - before)
        if validation.is_better_than(position.best_score, position.best_loss):
            position = dataclasses.replace(
                position, best_score=validation.score, best_loss=validation.loss, best_step=position.step
            )
            self._parts.checkpoints.save_best(self._parts.model, self._parts.step, position.step)
        self.position = dataclasses.replace(position, validated_epochs=epochs)

    def _epochs_seen(self) -> int:
        """Returns how many epochs of this phase are whole; its last step may belong to the next one in part."""
        images = (self.position.step - self._first) * self._parts.config.global_batch_size
        return min(images // self._parts.train.num_examples, self._parts.phase.epochs)

    def _validate(self, progress: Progress) -> Validation | None:
        """Evaluates the validation split, logs it, and returns what the epoch is chosen by; `None` without a split."""
        evaluation = self._parts.validate()
        if evaluation is None:
            return None
        metrics, task = evaluation.metrics, self._parts.task
        self._write({f"val_{name}": value for name, value in metrics.items()})
        shown = f"accuracy {percentage(metrics['accuracy'], 2)}% of" if "accuracy" in metrics else ""
        if not shown and task.chosen_by != "loss":
            shown = f"{task.chosen_by.replace('_', ' ')} {metrics[task.chosen_by]:.4f}, of"
        progress.note(
            f"Step {self.position.step}, epoch {self._epoch():.2f}: validation loss {metrics['loss']:.4f}, "
            f"{shown or 'of'} {evaluation.num_examples} images."
        )
        return validation_of(self._parts.config.select_by, metrics, smaller_is_better=task.smaller_is_better)

    def _stopped_early(self) -> bool:
        patience = self._parts.config.early_stopping_epochs
        return bool(patience) and self.position.stale_epochs >= patience

    def _epoch(self) -> float:
        return self.position.step / self._steps_per_epoch

    def _write(self, values: dict[str, Any]) -> None:
        row = {
            "step": self.position.step, "epoch": round(self._epoch(), 4), "phase": self._parts.phase.name,
            "seconds": round(self.position.seconds, 3),
        }  # fmt: skip
        self._parts.log_row({**row, **values})

    def _save(self) -> None:
        self._parts.checkpoints.save(self._parts.model, self._parts.step, self.position)

    def _toggle_profiler(self, *, force_stop: bool = False) -> None:
        edges, step = self._parts.config.profile_steps, self.position.step
        if edges and step == edges[0] and not self._profiling and not force_stop and self._parts.workers.is_chief:
            tf.profiler.experimental.start(self._parts.config.workdir)
            self._profiling = True
        elif self._profiling and (force_stop or step >= edges[1]):
            tf.profiler.experimental.stop()
            self._profiling = False
