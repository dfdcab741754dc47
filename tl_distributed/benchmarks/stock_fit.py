"""Trains a backbone by stock `keras.Model.fit`, the way a tutorial does: the figure to compare this package with.

  python -m tl_distributed.benchmarks.stock_fit --data_dir=data/cifar10_small --transfer=full --epochs=3 \\
      --image_size=96 --learning_rate=1e-4 --weights=mobilenet_v2_imagenet_notop.weights.h5

Of this package it uses the table of backbones, the reader of the records and nothing else: input by tf.data, resizing
by tf.image.resize, stock AdamW with a cosine schedule, the best epoch by validation accuracy, test scored once.
Prints one JSON line.
"""

import dataclasses
import json
import os
import tempfile
import time

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command
from tl_distributed.settings.flags import setting

FIRST_STEP = "first step done"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Flags of the comparison."""

    data_dir: str = setting("", "Data set.", topic="Flags")
    backbone: str = setting("mobilenet_v2", "Backbone of keras.applications.", topic="Flags")
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
    jit_compile: str = setting("auto", "As compile takes it.", topic="Flags", choices=("auto", "on", "off"))
    first_step_only: bool = setting(False, "Say when the first step is done, and end.", topic="Flags")
    seed: int = setting(0, "Seed.", topic="Flags")


def main(config: FitConfig, positional: list[str]) -> None:
    """Trains, and prints what came of it."""
    refuse_positional(positional)
    import_tensorflow()
    import keras

    from tl_distributed.data.records import read_manifest

    keras.utils.set_random_seed(config.seed)
    info = read_manifest(config.data_dir)
    missing = [split for split in ("train", "val", "test") if split not in info.splits]
    if missing and not config.first_step_only:
        raise UserError(f"--data_dir={config.data_dir}: no {missing[0]} split")
    train, validation, test = (
        datasets(config, info, split) if split in info.splits else None for split in ("train", "val", "test")
    )
    model = make_model(config, num_classes=info.num_classes)
    compile_model(model, config, steps=config.epochs * int(train.cardinality()))
    if config.first_step_only:
        model.fit(train, epochs=1, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=_leave)], verbose=2)
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


def _leave(batch: int, logs: dict) -> None:
    """Says that the first step is done, its loss known, and ends the process at once."""
    print(FIRST_STEP, float(logs["loss"]), flush=True)
    os._exit(0)


def datasets(config: FitConfig, info, split: str):
    """Returns batches of (float32 images as the backbone wants them, labels)."""
    import tensorflow as tf

    from tl_distributed.data.records import parse_pixels

    files = [f"{config.data_dir}/{shard.file}" for shard in info.splits[split].shards]
    images, labels = next(
        tf.data.TFRecordDataset(files)
        .batch(info.splits[split].num_examples)
        .map(lambda rows: parse_pixels(rows, info.image_shape))
        .as_numpy_iterator()
    )
    size, scale = (config.image_size, config.image_size), _scaling(config)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    if split == "train":
        dataset = dataset.shuffle(len(images), seed=config.seed, reshuffle_each_iteration=True)
    return (
        dataset.batch(config.global_batch_size)
        .map(lambda x, y: (scale(tf.image.resize(x, size)), y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _scaling(config: FitConfig):
    import keras

    return getattr(keras.applications, get_backbone(config.backbone).family).preprocess_input


def make_model(config: FitConfig, *, num_classes: int):
    """Returns the backbone, frozen as `config.transfer` says, with a head of logits."""
    import keras

    constructor = getattr(keras.applications, get_backbone(config.backbone).constructor)
    backbone = constructor(
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
    """Compiles with AdamW and a cosine schedule."""
    import keras

    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = {"auto": "auto", "on": True, "off": False}[config.jit_compile]
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile)


if __name__ == "__main__":
    run_command(main, FitConfig, __doc__)
