"""Dynamic loss scale for float16 (Micikevicius et al. 2018): its variables and its rule."""

import dataclasses

import tensorflow as tf

_INITIAL_SCALE = 2.0**15
_GROWTH_STEPS = 2000  # updates without an overflow after which the scale doubles
_LARGEST_SCALE = 2.0**24


@dataclasses.dataclass(frozen=True)
class LossScale:
    """The scale (float32) and the count of good updates since it last changed.

    The count is int64: TensorFlow has no kernel for int32 variables on GPUs, and puts them on the host.

    Without float16 the scale stays 1 and no update is ever skipped.
    """

    scale: tf.Variable
    good_steps: tf.Variable
    dynamic: bool

    def adjust(self, finite: tf.Tensor) -> None:
        """Doubles the scale after enough good updates, halves it after a bad one; call it on every replica."""
        if not self.dynamic:
            return
        good_steps = tf.where(finite, self.good_steps.read_value() + 1, tf.zeros([], tf.int64))
        grow = good_steps >= _GROWTH_STEPS
        scale = self.scale.read_value()
        grown = tf.where(grow, tf.minimum(scale * 2.0, _LARGEST_SCALE), scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(scale * 0.5, 1.0)))
        self.good_steps.assign(tf.where(grow, tf.zeros([], tf.int64), good_steps))

    def adopt(self) -> None:
        """Sets the scale from the precision, where what was restored is of a run in another one."""
        restored = float(self.scale.numpy())
        if self.dynamic == (restored == 1.0):
            self.scale.assign(_INITIAL_SCALE if self.dynamic else 1.0)
            self.good_steps.assign(0)


def make_loss_scale(precision: str) -> LossScale:
    """Creates the variables; call it under the strategy's scope."""
    dynamic = precision == "mixed_float16"
    scale = tf.Variable(_INITIAL_SCALE if dynamic else 1.0, trainable=False, dtype=tf.float32, name="loss_scale")
    good_steps = tf.Variable(0, trainable=False, dtype=tf.int64, name="loss_scale_good_steps")
    return LossScale(scale, good_steps, dynamic)
