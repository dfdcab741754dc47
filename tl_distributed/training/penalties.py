"""What layers add to the loss in training, as Keras's `fit` has it: `add_loss`, and regularizers.

Those of outputs are of all layers, those of weights of what trains. A network without any costs nothing.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class CollectingScope(keras.StatelessScope):
    """Variables have the values given, and what layers add to the loss is kept.

    Kept here, since Keras clears what a layer added where it is called again from outside of a model's own call.
    """

    def __init__(self, variables: Sequence[Any], values: Sequence[tf.Tensor]):
        super().__init__(state_mapping=list(zip(variables, values, strict=True)), collect_losses=True)
        self._added: list[tf.Tensor] = []

    def add_loss(self, loss: tf.Tensor) -> None:
        super().add_loss(loss)
        self._added.append(loss)

    def penalty(self, trainable: Sequence[Any]) -> tf.Tensor | None:
        """Returns the sum of what layers added and of these variables' regularizers, float32; `None` without any."""
        regularized = [variable for variable in trainable if variable.regularizer is not None]
        terms = [*self._added, *(one.regularizer(self.get_current_value(one)) for one in regularized)]
        return tf.add_n([tf.reduce_sum(tf.cast(term, tf.float32)) for term in terms]) if terms else None
