"""The devices that stand for several replicas on a machine of fewer: parts of its CPU, or of its first GPU."""

import os

import tensorflow as tf

from tl_distributed.runtime.strategies import mirrored_strategy

NUM_REPLICAS = 4
ON_GPU = os.environ.get("TL_DISTRIBUTED_TEST_GPU") == "1"
_GPU_PART_MIB = 2048


def split_devices() -> None:
    """Makes the CPU into a host and four devices; with TL_DISTRIBUTED_TEST_GPU=1 the first GPU into four as well.

    Numbers are compared as on the CPU, so products take whole float32 there, not TF32.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * (1 + NUM_REPLICAS))
    if ON_GPU:
        gpu = tf.config.list_physical_devices("GPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration(memory_limit=_GPU_PART_MIB)] * NUM_REPLICAS
        tf.config.set_logical_device_configuration(gpu, parts)
        tf.config.experimental.enable_tensor_float_32_execution(False)


def replica_names(num_replicas: int) -> list[str]:
    """Returns as many devices; CPU:0 is the host."""
    return [f"GPU:{index}" if ON_GPU else f"CPU:{1 + index}" for index in range(num_replicas)]


def replica_strategy(devices: list[str]) -> tf.distribute.Strategy:
    """Returns the strategy of these devices. NCCL refuses several parts of one GPU, so there plain sums are taken."""
    if len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(devices[0])
    if ON_GPU:
        return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
    return mirrored_strategy(devices)
