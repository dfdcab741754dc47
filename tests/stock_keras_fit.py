"""Trains MobileNetV2 by stock `keras.Model.fit`, the way a tutorial does: the figure to compare this package with.

  python tests/stock_keras_fit.py --data_dir=data/cifar10_small --transfer=full --epochs=3 --image_size=96 \\
      --learning_rate=1e-4 --weights=mobilenet_v2_imagenet_notop.weights.h5

Of this package it uses the reader of the records and nothing else: input by tf.data, resizing by
tf.image.resize, stock AdamW with a cosine schedule, the best epoch by validation accuracy, test scored once.
Prints one JSON line.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tl_distributed.commandline import import_tensorflow, refuse_positional, run_command, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    data_dir: str = setting("", "Data set.", topic="Flags")
    weights: str = setting("", "Keras weights file of the backbone; empty is random.", topic="Flags")
    transfer: str = setting("full", "What trains.", topic="Flags", choices=("scratch", "frozen", "partial", "full"))
    unfreeze_last_layers: int = setting(30, "partial: how many layers of the backbone train.", topic="Flags")
    image_size: int = setting(96, "Side in pixels.", topic="Flags")
    epochs: int = setting(3, "Epochs.", topic="Flags")
    global_batch_size: int = setting(32, "Images in a step.", topic="Flags")
    learning_rate: float = setting(1e-3, "Peak rate.", topic="Flags")
    weight_decay: float = setting(1e-4, "AdamW's decay, on kernels.", topic="Flags")
    dropout: float = setting(0.2, "Before the logits.", topic="Flags")
    batch_norm_momentum: float = setting(0.0, "Of BatchNorm's moving statistics; 0: Keras's own.", topic="Flags")
    seed: int = setting(0, "Seed.", topic="Flags")


def main(config: FitConfig, positional: list[str]) -> None:
    refuse_positional(positional)
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(config.seed)
    train, validation, test = (datasets(config, split) for split in ("train", "val", "test"))
    model = make_model(config, num_classes=10)
    compile_model(model, config, steps=config.epochs * int(train.cardinality()))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = keras.callbacks.ModelCheckpoint(
            f"{folder}/best.weights.h5", monitor="val_accuracy", save_best_only=True, save_weights_only=True
        )
        history = model.fit(train, validation_data=validation, epochs=config.epochs, callbacks=[best], verbose=2)
        seconds = time.perf_counter() - start
        model.load_weights(f"{folder}/best.weights.h5")
    _, accuracy = model.evaluate(test, verbose=0)
    best_val = max(history.history["val_accuracy"])
    print(json.dumps({"test_accuracy": accuracy, "val_accuracy": best_val, "seconds": seconds}))


def datasets(config: FitConfig, split: str):
    """Returns batches of (float32 images in [-1, 1], labels)."""
    import tensorflow as tf

    from tl_distributed.data.records import parse_records, read_manifest

    info = read_manifest(config.data_dir)
    files = [f"{config.data_dir}/{shard.file}" for shard in info.splits[split].shards]
    images, labels = next(
        tf.data.TFRecordDataset(files)
        .batch(info.splits[split].num_examples)
        .map(lambda rows: parse_records(rows, info.image_shape))
        .as_numpy_iterator()
    )
    size = (config.image_size, config.image_size)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    if split == "train":
        dataset = dataset.shuffle(len(images), seed=config.seed, reshuffle_each_iteration=True)
    return (
        dataset.batch(config.global_batch_size)
        .map(lambda x, y: (tf.image.resize(x, size) / 127.5 - 1.0, y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def make_model(config: FitConfig, *, num_classes: int):
    import keras

    backbone = keras.applications.MobileNetV2(
        input_shape=(config.image_size, config.image_size, 3), include_top=False, weights=None, pooling="avg"
    )
    if config.weights:
        backbone.load_weights(config.weights)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and config.batch_norm_momentum:
            layer.momentum = config.batch_norm_momentum
    backbone.trainable = config.transfer != "frozen"
    if config.transfer == "partial":
        for layer in backbone.layers[: -config.unfreeze_last_layers - 1]:  # the last layer is the pooling
            layer.trainable = False
    x = keras.layers.Dropout(config.dropout)(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(num_classes)(x))


def compile_model(model, config: FitConfig, *, steps: int) -> None:
    import keras

    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


if __name__ == "__main__":
    run_command(main, FitConfig, __doc__)
