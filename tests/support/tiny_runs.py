"""Runs of the tiny backbone: their config, and whether two ended in the same weights."""

import pathlib

import numpy as np
import tensorflow as tf

from tl_distributed.settings.config import Config


def config(data_dir: str, workdir, **changes) -> Config:
    settings = {
        "backbone": "tiny_norm", "transfer": "scratch", "augment": "basic", "epochs": 3, "global_batch_size": 8,
        "learning_rate": 0.01, "strategy": "one_device", "precision": "float32", "xla": "off", **changes,
    }  # fmt: skip
    made = Config(data_dir=data_dir, workdir=str(workdir), **settings)
    made.validate()
    return made


def final_weights(workdir) -> list[np.ndarray]:
    """Returns every variable of the newest checkpoint, optimizer slots included."""
    reader = tf.train.load_checkpoint(str(pathlib.Path(workdir) / "checkpoints"))
    names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    return [reader.get_tensor(name) for name in sorted(names) if "position" not in name and "save_counter" not in name]


def assert_identical(first, second) -> None:
    one, other = final_weights(first), final_weights(second)
    assert len(one) == len(other) > 10
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)
