"""Our training step and evaluation, through the very parts that `train` uses."""

import time
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.benchmarks.random_images import NUM_CLASSES, random_images
from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.flops import count_macs
from tl_distributed.runtime.join import join_workers, shared_flags
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.config import Config
from tl_distributed.training.evaluation import Evaluator
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.optimizers import make_optimizer
from tl_distributed.training.settings import OptimizationSettings
from tl_distributed.training.start import start_devices, start_model
from tl_distributed.training.step import TrainStep
from tl_distributed.training.step_settings import step_settings

_RATE = 1e-4
_INDEX_BYTES = 8  # device mode: the images are there, of which the host names some


def start(settings: dict[str, Any]) -> Any:
    """Builds model, step and feed as a run from random weights does.

    Args:
      settings: `config` (fields of `Config`), `replicas`, `images`, `native_size`, `mode`.
    """
    fields = dict(settings["config"])
    if settings["replicas"] > 1 and not tf.config.list_physical_devices("GPU"):
        fields["virtual_devices"] = settings["replicas"]
    if "workers" in fields:
        fields["workers"] = tuple(fields["workers"])
    config = Config(**fields)
    config.validate()
    joined = join_workers(config.part(RuntimeSettings), shared_flags(config))
    workers = joined.__enter__()  # the process ends with its last block
    config, backbone = config.resolved(native_size=settings["native_size"]), get_backbone(config.backbone)
    runtime = start_devices(config, backbone, workers)
    model = start_model(config, backbone, runtime, num_classes=NUM_CLASSES, load_weights=False)
    images, labels = random_images(settings["images"], settings["native_size"])
    kind = _Forward if settings["mode"] == "forward" else _Training
    contender = kind(config, backbone.normalization, runtime, model, images, labels)
    contender.facts = {
        "device": ", ".join(runtime.devices),
        "replicas": runtime.num_replicas,
        "xla": runtime.use_xla,
        "precision": runtime.precision,
        "macs_per_image": count_macs(model),
        "parameters": model.count_params(),
        "input_mode": config.input_mode,
        "bytes_to_device_per_image": images[0].nbytes + labels[0].nbytes,
    }
    if config.input_mode == "device":
        contender.facts["bytes_to_device_per_image"] = _INDEX_BYTES
    return contender


class _Training:
    def __init__(
        self, config: Config, normalization: str, runtime: Any, model: Any, images: np.ndarray, labels: np.ndarray
    ):
        rate, optimization = tf.constant(_RATE), config.part(OptimizationSettings)
        settings = step_settings(config, model, normalization=normalization, num_classes=NUM_CLASSES, features=None)
        step = TrainStep(model, lambda: make_optimizer(optimization), lambda _: rate, settings, runtime)
        split = MemorySplit(images, labels)
        if config.input_mode == "device":
            split = DeviceSplit(split, runtime.strategy)
        order = BatchOrder(
            global_batch_size=config.global_batch_size, num_replicas=runtime.num_replicas, seed=config.seed
        )
        feed = split.train_feed(order, first_step=0)
        self._loop = TrainLoop(step, feed, runtime, steps_per_loop=config.steps_per_loop)
        self._batch, self._done = config.global_batch_size, 0

    def warm_up(self) -> None:
        for _ in range(2):
            self._done = self._loop.run(self._done, self._done + 1)

    def block(self, amount: float) -> dict[str, float]:
        """Runs so many steps, in calls as long as the loop chooses."""
        start, last = time.perf_counter(), self._done + int(amount)
        while self._done < last:
            self._done = self._loop.run(self._done, last)
        return {"seconds": time.perf_counter() - start, "done": int(amount) * self._batch}


class _Forward:
    def __init__(
        self, config: Config, normalization: str, runtime: Any, model: Any, images: np.ndarray, labels: np.ndarray
    ):
        self._evaluator = Evaluator(
            model, features=None, image_size=config.image_size,
            normalization=normalization, runtime=runtime,
        )  # fmt: skip
        self._images, self._labels, self._batch = images, labels, config.global_batch_size

    def warm_up(self) -> None:
        for _ in range(2):
            self.block(1)

    def block(self, amount: float) -> dict[str, float]:
        """Evaluates so many batches."""
        count = int(amount) * self._batch
        split = MemorySplit(np.resize(self._images, (count, *self._images.shape[1:])), np.resize(self._labels, count))
        start = time.perf_counter()
        self._evaluator.evaluate(split, batch_size=self._batch)
        return {"seconds": time.perf_counter() - start, "done": count}
