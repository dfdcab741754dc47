"""BatchNorm's moving statistics: their momentum, and whether a run is long enough for them."""

from typing import Any

import keras

from tl_distributed.errors import UserError


def set_batch_norm_momentum(model: keras.Model, momentum: float) -> None:
    """Sets the momentum of every BatchNorm layer, also of those inside nested layers."""
    for layer in _batch_norms(model):
        layer.momentum = momentum


def initial_share_after(model: keras.Model, steps: int) -> float:
    """Returns which share of the moving statistics still is their initial value after some training steps.

    Of the slowest layer that trains; 0 where none does. Evaluation uses these statistics: where a large share is
    left, validation is poor however well the model fits. Keras's MobileNetV2 has a momentum of 0.999, of which
    750 steps leave 47 %.
    """
    momenta = [layer.momentum for layer in _batch_norms(model) if layer.trainable]
    return max(momenta) ** steps if momenta else 0.0


def refuse_synchronized_batch_norm(model: keras.Model) -> None:
    """Raises `UserError` for a layer whose statistics are of all replicas: it sums within a program of each of them."""
    for layer in _batch_norms(model):
        if layer.synchronized:
            raise UserError(
                f"layer {layer.name}: BatchNormalization(synchronized=True) trains on one replica alone; without it "
                "statistics are of each replica's part of a batch"
            )


def _batch_norms(model: keras.Model) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
