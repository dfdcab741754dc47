"""The training step's reference: stock Keras's `fit` on the same batches."""

import engine
import keras
import numpy as np
import tensorflow as tf

from tl_distributed.data.order import example_indices


def keras_fit(model: keras.Model, optimizer: keras.optimizers.Optimizer, steps: int, **loss) -> None:
    """Trains with stock `fit` on the batches that the engine's order gives."""
    images, labels = engine.toy_images()
    positions = tf.range(steps * engine.BATCH, dtype=tf.int64)
    order = example_indices(positions, num_examples=len(images), seed=0).numpy()
    inputs = images[order].astype(np.float32) / 127.5 - 1.0
    targets = keras.utils.to_categorical(labels[order], engine.NUM_CLASSES)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(engine.BATCH)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, **loss), jit_compile=False)
    model.fit(dataset, epochs=1, shuffle=False, verbose=0)


def stock_model(reference: keras.Model) -> keras.Model:
    """Returns a copy in the default strategy, with the same weights."""
    model = keras.models.clone_model(reference)
    model.set_weights(reference.get_weights())
    for layer, original in zip(model.layers, reference.layers, strict=True):
        layer.trainable = original.trainable
    return model


def assert_same_weights(found, expected, **tolerance) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 2e-4, "atol": 2e-5, **tolerance})
