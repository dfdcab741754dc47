"""Builds engines on toy data for the tests of the training step."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from replicas import replica_names, replica_strategy

from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.freezing import freeze_for
from tl_distributed.models.heads import build_classifier
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS
from tl_distributed.runtime.devices import Runtime
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.step import TrainStep
from tl_distributed.training.step_settings import StepSettings
from tl_distributed.training.tasks import Classification

IMAGE_SIZE, NUM_CLASSES, BATCH = 16, 3, 8
_OF_TASK = ("label_smoothing", "focal_gamma", "weight_of_class")  # which tests change as if they were the step's


def runtime(num_replicas: int = 1, *, xla: bool = False, precision: str = "float32") -> Runtime:
    devices = replica_names(num_replicas)
    keras.config.set_dtype_policy(precision)
    return Runtime(replica_strategy(devices), precision, xla, "as the test wants it", tuple(devices))


def toy_images(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose mean brightness tells the class: a few steps of any net learn it."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, NUM_CLASSES, count).astype(np.int32)
    noise = generator.integers(0, 120, (count, IMAGE_SIZE, IMAGE_SIZE, 3))
    return (noise + labels[:, None, None, None] * 60).astype(np.uint8), labels


def settings(**changes) -> StepSettings:
    base = StepSettings(
        features=None, augment=NAMED_AUGMENTATIONS["none"], image_size=IMAGE_SIZE, normalization="tf",
        num_classes=NUM_CLASSES, global_batch_size=BATCH, weight_decay=0.0, rate_multipliers={},
        clip_norm=0.0, ema_decay=0.0, all_reduce_dtype="float32", gradient_buckets=1,
        seed=0, task=Classification(),
    )  # fmt: skip
    of_task = {name: changes.pop(name) for name in _OF_TASK if name in changes}
    if of_task:
        changes["task"] = Classification(**of_task)
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass
class Engine:
    model: keras.Model
    step: TrainStep
    loop: TrainLoop
    split: MemorySplit
    done: int = 0

    def train(self, steps: int) -> np.ndarray:
        """Runs steps one call each; returns `[steps, 4]`: mean loss, accuracy, gradient norm, skipped."""
        rows = []
        for _ in range(steps):
            self.done = self.loop.run(self.done, self.done + 1)
            rows.append(self.loop.read_sums() / [BATCH, BATCH, 1, 1])
        return np.array(rows)

    def weights(self) -> list[np.ndarray]:
        return [np.array(value) for value in self.model.get_weights()]


def make_engine(
    where: Runtime,
    *,
    backbone: str = "tiny_norm",
    freezing: str = "full",
    optimizer=lambda: keras.optimizers.SGD(0.0),
    learning_rate: float = 0.1,
    dropout: float = 0.0,
    initial: list[np.ndarray] | None = None,
    step_settings: StepSettings | None = None,
    layer_decay: float = 1.0,
) -> Engine:
    """Builds an engine; `partial` trains from the layer conv2 on."""
    keras.utils.set_random_seed(1)
    with where.strategy.scope():
        backbone_model = build_backbone(get_backbone(backbone), image_size=IMAGE_SIZE, weights="none")
        model = build_classifier(backbone_model, num_classes=NUM_CLASSES, pooling="avg", head_units=(), dropout=dropout)
        if initial is not None:
            model.set_weights(initial)
    freeze_for(model, freezing, unfreeze_last_layers=0, unfreeze_from="conv2" if freezing == "partial" else "")
    step_settings = dataclasses.replace(
        step_settings or settings(), rate_multipliers=rate_multipliers(model, layer_decay)
    )
    step = TrainStep(model, optimizer, lambda _: tf.constant(learning_rate), step_settings, where)
    split = MemorySplit(*toy_images())
    feed = split.train_feed(BatchOrder(global_batch_size=BATCH, num_replicas=where.num_replicas, seed=0), first_step=0)
    return Engine(model, step, TrainLoop(step, feed, where, steps_per_loop=1), split)
