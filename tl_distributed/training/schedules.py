"""Learning-rate schedules: pure functions of the step within a phase, so that resuming needs no state."""

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A peak rate, its warm-up and its decay.

    Attributes:
      kind: constant; cosine (to 0, Loshchilov & Hutter 2017, without restarts); linear (to 0); step (divided
        by 10 at 1/2 and again at 3/4 of what follows the warm-up, as He et al. 2015 did for CIFAR-10).
      peak: The highest rate, reached at the end of the warm-up.
      warmup_steps: Steps of linear rise from `peak / warmup_steps` (Goyal et al. 2017).
      total_steps: Steps of the phase, warm-up included.
    """

    kind: str
    peak: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the float32 rate of the update that is number `step` (int scalar, from 0) of the phase."""
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum((step + 1.0) / float(max(self.warmup_steps, 1)), 1.0)
        decay_steps = float(max(self.total_steps - self.warmup_steps, 1))
        progress = tf.clip_by_value((step - float(self.warmup_steps)) / decay_steps, 0.0, 1.0)
        return self.peak * tf.where(step < float(self.warmup_steps), warmup, self._decay(progress))

    def _decay(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns the factor in [0, 1] at `progress` in [0, 1] of what follows the warm-up."""
        if self.kind == "cosine":
            return 0.5 * (1.0 + tf.cos(3.141592653589793 * progress))
        if self.kind == "linear":
            return 1.0 - progress
        if self.kind == "step":
            return tf.where(progress < 0.5, 1.0, tf.where(progress < 0.75, 0.1, 0.01))
        return tf.ones_like(progress)
