"""Where Keras computes: TensorFlow's devices under `MirroredStrategy`, JAX's under `DataParallel`."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tl_distributed.benchmarks.not_measured import NotMeasured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """What a model is built for.

    Attributes:
      names: One a replica.
      on_gpu: Whether these are GPUs.
      scope: Context of building and fitting; of the thread that enters it.
      wait: Waits until the steps of a model that were begun are done.
    """

    names: list[str]
    on_gpu: bool
    scope: Callable[[], contextlib.AbstractContextManager]
    wait: Callable[[Any], None]


def tensorflow_devices(replicas: int) -> Devices:
    """Returns all GPUs that are visible, or as many devices of the CPU as there are replicas."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # leave memory to the contenders that wait
        tf.config.experimental.set_memory_growth(gpu, True)
    if replicas > 1 and not gpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")[: max(replicas, 1)]
    names = [device.name for device in devices]
    strategy = tf.distribute.MirroredStrategy(names) if len(names) > 1 else None
    return Devices(
        names=names, on_gpu=bool(gpus), scope=strategy.scope if strategy else contextlib.nullcontext,
        wait=lambda model: tf.test.experimental.sync_devices(),
    )  # fmt: skip


def jax_devices(replicas: int) -> Devices:
    """Returns the same of JAX; TensorFlow, which feeds it, keeps off the GPUs.

    BatchNorm's statistics are of the global batch there, not of a replica's part.

    Raises:
      NotMeasured: JAX does not see the GPUs that TensorFlow sees.
    """
    import jax

    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices([], "GPU")
    if replicas > 1 and not gpus:
        jax.config.update("jax_num_cpu_devices", replicas)
    devices = jax.devices()
    on_gpu = devices[0].platform == "gpu"
    if gpus and not on_gpu:
        raise NotMeasured('JAX sees no GPU: pip install -U "jax[cuda12]"')
    names = [f"{device.platform}:{device.id}" for device in (devices if on_gpu else devices[: max(replicas, 1)])]
    return Devices(names=names, on_gpu=on_gpu, scope=_data_parallel(names), wait=_wait_for_jax)


def _data_parallel(names: list[str]) -> Callable[[], contextlib.AbstractContextManager]:
    if len(names) == 1:
        return contextlib.nullcontext
    import keras

    return keras.distribution.DataParallel(devices=names).scope


def _wait_for_jax(model: Any) -> None:
    for arrays in model._jax_state.values():  # where `fit` keeps what the last step returned, in trackers of its own,
        for array in arrays:  # which `jax.block_until_ready` would take for something that is no array, and not wait
            array.block_until_ready()
