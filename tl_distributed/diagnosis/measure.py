"""Measurements on the devices: matrix products, and steps of the engine; each checks its result."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.runtime.all_reduce import Timing, seconds_of, time_steps
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.config import Config
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.optimizers import make_optimizer
from tl_distributed.training.settings import OptimizationSettings
from tl_distributed.training.start import start_model
from tl_distributed.training.step import TrainStep
from tl_distributed.training.step_settings import step_settings

_SMALLEST_SIDE, _LARGEST_SIDE = 512, 8192
_PRODUCT_SECONDS, _STEP_SECONDS, _MOST_PRODUCTS = 0.005, 0.02, 64
_CHECKED_SHAPE = (48, 64, 40)  # rows, inner, columns of the product that is compared with numpy's
_NET, _IMAGE_SIZE, _NUM_CLASSES, _ENGINE_STEPS, _RATE = "baseline_cnn", 32, 10, 5, 1e-3


@dataclasses.dataclass(frozen=True)
class MatmulSpeed:
    """Products of two square matrices on one device.

    Attributes:
      side: Of each matrix.
      products: In each timed step.
      timing: Of the steps.
    """

    side: int
    products: int
    timing: Timing

    @property
    def flops(self) -> int:
        """Floating-point operations of a step: a multiplication and an addition for each term."""
        return 2 * self.side**3 * self.products

    def teraflops(self) -> tuple[float, float, float]:
        """Returns (median, slowest, fastest) in 10^12 operations a second."""
        seconds = (self.timing.median, max(self.timing.seconds), min(self.timing.seconds))
        return tuple(self.flops / value / 1e12 for value in seconds)


def measure_matmul(device: str, dtype: str) -> MatmulSpeed:
    """Times products on a device, of matrices so large that the start of a product no longer counts."""
    side = _SMALLEST_SIDE
    with tf.device(device):
        while (seconds := _seconds_of_product(side, dtype)) < _PRODUCT_SECONDS and 2 * side <= _LARGEST_SIDE:
            side *= 2
        products = min(math.ceil(_STEP_SECONDS / seconds), _MOST_PRODUCTS)
        left, right = _square_matrices(side, dtype)
        return MatmulSpeed(side, products, time_steps(lambda: _multiply(left, right, products)))


def _seconds_of_product(side: int, dtype: str) -> float:
    left, right = _square_matrices(side, dtype)
    _multiply(left, right, 1)  # the first one loads and chooses kernels
    return seconds_of(lambda: _multiply(left, right, 1))


def _square_matrices(side: int, dtype: str) -> tuple[tf.Tensor, tf.Tensor]:
    return _uniform((side, side), dtype, 0), _uniform((side, side), dtype, 1)


def _multiply(left: tf.Tensor, right: tf.Tensor, products: int) -> None:
    for _ in range(products):
        product = tf.matmul(left, right)
    product[0, 0].numpy()  # waits: a GPU works through its queue in order


def _uniform(shape: tuple[int, ...], dtype: str, seed: int) -> tf.Tensor:
    return tf.cast(tf.random.stateless_uniform(shape, [seed, 0], -1.0, 1.0), dtype)


def matmul_error(device: str, dtype: str) -> float:
    """Returns the largest error of a small product against numpy's in float64, in units of what rounding explains.

    Above 1 the device computes wrongly. The unit is twice the distance between 1 and the next number of the type (of
    TF32, where float32 products may use it), times the product of the absolute values.
    """
    rows, inner, columns = _CHECKED_SHAPE
    with tf.device(device):
        left, right = _uniform((rows, inner), dtype, 2), _uniform((inner, columns), dtype, 3)
        product = tf.matmul(left, right)
    exact_left, exact_right, found = (
        tf.cast(value, tf.float64).numpy() for value in (left, right, product)
    )  # the rounded inputs
    tolerance = 2 * _spacing(device, dtype) * (np.abs(exact_left) @ np.abs(exact_right))
    error = np.abs(found - exact_left @ exact_right) / tolerance
    return float(error.max()) if np.isfinite(error).all() else math.inf


def _spacing(device: str, dtype: str) -> float:
    if dtype == "float32" and "GPU" in device and tf.config.experimental.tensor_float_32_execution_enabled():
        return 2.0**-10
    return {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]


@dataclasses.dataclass(frozen=True)
class EngineSteps:
    """What came of a few steps of the training engine.

    Attributes:
      losses: Mean loss of each step's images.
      gradient_norms: Of each step.
      skipped: Whether the step was skipped for a gradient that was not finite.
      seconds: Of each step; the first one compiles.
      weights_changed: Whether the weights are others than before.
      replicas_agree: Whether this worker's replicas ended with the same weights, bit for bit.
    """

    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    skipped: tuple[bool, ...]
    seconds: tuple[float, ...]
    weights_changed: bool
    replicas_agree: bool


def run_engine_steps(config: Config, runtime: Runtime) -> EngineSteps:
    """Trains the small built-in net on random images: strategy, precision, XLA, batch and pixels are the run's."""
    config = dataclasses.replace(
        config, backbone=_NET, transfer="scratch", weights="none", image_size=_IMAGE_SIZE, unfreeze_from="",
        unfreeze_last_layers=0, layer_decay=1.0,
    ).resolved(native_size=_IMAGE_SIZE)  # fmt: skip
    backbone = config.backbone_row()
    model = start_model(config, backbone, runtime, num_classes=_NUM_CLASSES, load_weights=False)
    rate, optimization = tf.constant(_RATE), config.part(OptimizationSettings)
    settings = step_settings(
        config, model, normalization=backbone.normalization, num_classes=_NUM_CLASSES, features=None
    )
    step = TrainStep(model, lambda: make_optimizer(optimization), lambda _: rate, settings, runtime)
    generator = np.random.default_rng(config.seed)
    images = generator.integers(0, 256, (config.global_batch_size, _IMAGE_SIZE, _IMAGE_SIZE, 3), np.uint8)
    split = MemorySplit(images, generator.integers(0, _NUM_CLASSES, len(images), np.int32))
    order = BatchOrder(global_batch_size=config.global_batch_size, num_replicas=runtime.num_replicas, seed=config.seed)
    feed = split.train_feed(order, first_step=0)
    loop = TrainLoop(step, feed, runtime, steps_per_loop=1)
    before, rows, seconds = model.get_weights(), [], []
    for number in range(_ENGINE_STEPS):
        seconds.append(seconds_of(lambda number=number: loop.run(number, number + 1)))
        rows.append(loop.read_sums())
    loss_sums, _, norms, skipped = np.transpose(rows)
    return EngineSteps(
        losses=tuple((loss_sums / config.global_batch_size).tolist()),
        gradient_norms=tuple(norms.tolist()),
        skipped=tuple(bool(value) for value in skipped),
        seconds=tuple(seconds),
        weights_changed=any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True)),
        replicas_agree=_replicas_agree(runtime.strategy, model),
    )


def _replicas_agree(strategy: Any, model: keras.Model) -> bool:
    for variable in model.trainable_variables:
        first, *others = (copy.numpy() for copy in strategy.experimental_local_results(variable.value))
        if any(not np.array_equal(first, other) for other in others):
            return False
    return True
