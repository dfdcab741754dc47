"""The optimizer: Keras's own class, its update in one kernel where TensorFlow has one; and which variables decay."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.training.settings import OptimizationSettings

_NEVER_DECAYED = frozenset({"bias", "beta", "gamma", "scale"})


def make_optimizer(settings: OptimizationSettings) -> keras.optimizers.Optimizer:
    """Returns the Keras optimizer that `settings.optimizer` names.

    Rate, weight decay, clipping and averaging are the engine's (it calls `update_step` alone), so the
    optimizer is made without them.
    """
    unused_rate = 0.0  # the engine passes the scheduled rate to every update
    if settings.optimizer == "sgd":
        return FusedSGD(unused_rate, momentum=settings.momentum, nesterov=settings.momentum > 0)
    classes = {
        "adam": FusedAdam,
        "adamw": FusedAdam,  # AdamW is Adam with the engine's decoupled decay (Loshchilov & Hutter 2019)
        "lamb": keras.optimizers.Lamb,
        "lion": keras.optimizers.Lion,
    }
    return classes[settings.optimizer](unused_rate)


def decayed_variables(variables: Sequence[Any]) -> list[bool]:
    """Tells for each variable whether weight decay applies: to kernels, not to biases, norms and layer scales.

    Most of those three are vectors, one value a channel, and every kernel has two dimensions or more. But a bias of
    attention has one dimension for the heads and one for their channels, and a norm over several axes as many of its
    own: they are told by Keras's names.
    """
    return [len(variable.shape) > 1 and variable.name not in _NEVER_DECAYED for variable in variables]


class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` whose update of a variable is one pass over memory instead of a dozen.

    The formula is the same: both fold the bias correction into the rate (Kingma & Ba 2015, end of section 2).
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        updates = tf.cast(self.iterations.value + 1, variable.dtype)
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**updates,
            beta2_power=self.beta_2**updates,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class FusedSGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` whose update of a variable is one pass over memory."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.value.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )
