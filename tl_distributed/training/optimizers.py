"""The optimizer: Keras's own class, and which variables decay."""

from collections.abc import Sequence
from typing import Any

import keras

from tl_distributed.config import Config


def make_optimizer(config: Config) -> keras.optimizers.Optimizer:
    """Returns the Keras optimizer that `config.optimizer` names.

    Rate, weight decay, clipping and averaging are the engine's (it calls `update_step` alone), so the
    optimizer is made without them.
    """
    unused_rate = 0.0  # the engine passes the scheduled rate to every update
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(unused_rate, momentum=config.momentum, nesterov=config.momentum > 0)
    classes = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.Adam,  # AdamW is Adam with the engine's decoupled decay (Loshchilov & Hutter 2019)
        "lamb": keras.optimizers.Lamb,
        "lion": keras.optimizers.Lion,
    }
    return classes[config.optimizer](unused_rate)


def decayed_variables(variables: Sequence[Any]) -> list[bool]:
    """Tells for each variable whether weight decay applies: to kernels, not to biases, norms and layer scales.

    Those three are vectors, one value a channel; every kernel has two dimensions or more.
    """
    return [len(variable.shape) > 1 for variable in variables]
