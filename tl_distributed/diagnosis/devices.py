"""Checks of the devices: strategy, precision and XLA as resolved, collectives, and what they compute."""

from collections.abc import Iterator
from typing import Any

from tl_distributed.diagnosis.checks import Subject
from tl_distributed.diagnosis.report import FACT, FAILED, OK, WARNING, Finding

STRATEGY, SPEED, TRAINING = "Strategy, precision, XLA", "Devices at work", "Training"
NARROW_DOWN = "--xla=off, --precision=float32 and --strategy=one_device, one at a time, tell which of them it is"
_ALL_REDUCE_BYTES = {"GPU": 256 * 2**20, "CPU": 16 * 2**20}
_SLOW_SHARE = 0.7  # of the fastest GPU's speed, below which one holds up the others


def strategy(subject: Subject) -> Iterator[Finding]:
    """Starts the runtime as train does; all other checks of devices build on it."""
    runtime, config = subject.start_runtime(), subject.config
    devices, replicas = runtime.strategy.extended.worker_devices, runtime.num_replicas
    yield Finding(
        topic=STRATEGY, name="strategy", status=OK,
        value=f"{type(runtime.strategy).__name__}, {replicas} {'replica' if replicas == 1 else 'replicas'} "
        f"(--strategy={config.strategy})",
        data={"replicas": replicas, "devices": list(devices)},
    )  # fmt: skip
    if config.strategy == "multi_worker":
        workers = runtime.workers
        yield Finding(
            topic=STRATEGY, name="worker", value=f"{workers.name(workers.index)}, of {workers.count}; "
            f"{runtime.num_local_replicas} {'replica' if runtime.num_local_replicas == 1 else 'replicas'} here",
            data={"index": workers.index, "workers": [workers.name(index) for index in range(workers.count)]},
        )  # fmt: skip
    for number, line in enumerate(runtime.devices):
        yield Finding(topic=STRATEGY, name=f"device {number}", value=line)
    batch = config.global_batch_size
    yield Finding(topic=STRATEGY, name="batch", value=f"{batch} images in all, {batch // replicas} a replica")


def precision(subject: Subject) -> Iterator[Finding]:
    """What the two automatic choices came to, and from what they follow."""
    runtime, config = subject.runtime(), subject.config
    emulated = runtime.precision != "float32" and "GPU" not in runtime.devices[0]
    yield Finding(
        topic=STRATEGY, name="precision", value=f"{runtime.precision}: {_precision_reason(config.precision)}",
        status=WARNING if emulated else FACT, data={"precision": runtime.precision},
        remedy="a CPU may emulate it, and be slow: --precision=float32" if emulated else "",
    )  # fmt: skip
    yield Finding(
        topic=STRATEGY, name="XLA", value=f"{'on' if runtime.use_xla else 'off'}: {runtime.xla_reason}",
        data={"xla": runtime.use_xla},
    )  # fmt: skip


def _precision_reason(wanted: str) -> str:
    import tensorflow as tf

    if wanted != "auto":
        return f"asked for by --precision={wanted}"
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "--precision=auto, no GPU"
    capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    return f"--precision=auto, lowest compute capability {'.'.join(map(str, min(capabilities)))} of {len(gpus)} GPU"


def collectives(subject: Subject) -> Iterator[Finding]:
    """Whether NCCL is there, and what sums the gradients."""
    runtime = subject.runtime()
    on_gpu = "GPU" in runtime.strategy.extended.worker_devices[0]
    built = _has_nccl()
    missing = on_gpu and not built
    yield Finding(
        topic=STRATEGY, name="NCCL", value="built into TensorFlow" if built else "not in this TensorFlow",
        status=FACT if not on_gpu else WARNING if missing else OK, data={"available": built},
        remedy="gradients take a slower way: pip install tensorflow[and-cuda]" if missing else "",
    )  # fmt: skip
    yield Finding(topic=STRATEGY, name="all-reduce", value=_all_reduce_way(runtime, on_gpu and built))


def _all_reduce_way(runtime: Any, by_nccl: bool) -> str:
    if runtime.num_replicas == 1:
        return "none, one replica"
    if by_nccl:
        return "NCCL"
    # The one place where TensorFlow keeps it; other strategies have other places.
    operations = getattr(runtime.strategy.extended, "_cross_device_ops", None)
    return type(operations).__name__ if operations is not None else "TensorFlow's choice"


def _has_nccl() -> bool:
    """Tells whether this TensorFlow has kernels of NCCL's all-reduce; no public function does."""
    from tensorflow.python.framework import kernels

    return bool(kernels.get_registered_kernels_for_op("NcclAllReduce").kernel)


def matmul(subject: Subject) -> Iterator[Finding]:
    """Speed and rightness of matrix products on every device of this process."""
    import keras

    from tl_distributed.diagnosis.measure import matmul_error, measure_matmul
    from tl_distributed.runtime.all_reduce import TIMED_STEPS

    devices = subject.runtime().strategy.extended.worker_devices
    dtype, medians = keras.config.dtype_policy().compute_dtype, {}
    for device in devices:
        error, speed = matmul_error(device, dtype), measure_matmul(device, dtype)
        median, slowest, fastest = speed.teraflops()
        medians[device] = median
        right = error <= 1
        yield Finding(
            topic=SPEED,
            name=f"matmul {_short(device)}",
            value=f"{median:.3g} TFLOP/s {dtype} (median of {TIMED_STEPS} steps, {slowest:.3g} to {fastest:.3g}; side "
            f"{speed.side})" + ("" if right else f"; WRONG: {error:.3g} times the error that rounding explains"),
            status=OK if right else FAILED,
            remedy="" if right else "take this device out (CUDA_VISIBLE_DEVICES), or renew its driver",
            data={
                "device": device, "dtype": dtype, "side": speed.side, "products": speed.products,
                "seconds": list(speed.timing.seconds), "teraflops_median": median, "error_of_allowed": error,
            },
        )  # fmt: skip
    slow = [device for device in devices if medians[device] < _SLOW_SHARE * max(medians.values())]
    if slow and "GPU" in devices[0]:
        yield Finding(
            topic=SPEED, name="matmul", value=f"{', '.join(map(_short, slow))} slower than the others, which wait for "
            "it in every step", status=WARNING, remedy="nvidia-smi -q -d PERFORMANCE says what holds it back",
        )  # fmt: skip


def _short(device: str) -> str:
    """Returns e.g. GPU:0 of /job:localhost/replica:0/task:0/device:GPU:0."""
    return ":".join(device.split(":")[-2:])


def all_reduce(subject: Subject) -> Iterator[Finding]:
    """Speed and rightness of the sums over all replicas."""
    import tensorflow as tf

    from tl_distributed.runtime.all_reduce import TIMED_STEPS, measure_all_reduce

    runtime, dtype = subject.runtime(), subject.config.all_reduce_dtype
    if runtime.num_replicas == 1:
        yield Finding(topic=SPEED, name="all-reduce", value="one replica: nothing to sum")
        return
    on_gpu = "GPU" in runtime.strategy.extended.worker_devices[0]
    num_bytes = _ALL_REDUCE_BYTES["GPU" if on_gpu else "CPU"]
    speed = measure_all_reduce(runtime.strategy, dtype, num_elements=num_bytes // tf.as_dtype(dtype).size)
    median, slowest, fastest = speed.bus_gigabytes_per_second()
    yield Finding(
        topic=SPEED,
        name="all-reduce",
        value=f"{median:.3g} GB/s of bus bandwidth (median of {TIMED_STEPS} steps, {slowest:.3g} to {fastest:.3g}; "
        f"{speed.num_bytes / 2**20:.0f} MiB of {dtype} over {speed.num_replicas} replicas)"
        + ("" if speed.correct else "; the sum is WRONG"),
        status=OK if speed.correct else FAILED,
        remedy="" if speed.correct else "NCCL_P2P_DISABLE=1 tells whether the direct links are broken",
        data={
            "num_bytes": speed.num_bytes, "num_replicas": speed.num_replicas, "dtype": dtype,
            "seconds": list(speed.timing.seconds), "bus_gigabytes_per_second_median": median,
        },
    )  # fmt: skip


def training_step(subject: Subject) -> Iterator[Finding]:
    """Steps of the engine itself, on random images."""
    from tl_distributed.diagnosis.measure import run_engine_steps

    steps = run_engine_steps(subject.config, subject.runtime())
    wrong = _what_is_wrong(steps)
    first, rest = steps.seconds[0], min(steps.seconds[1:])
    yield Finding(
        topic=TRAINING,
        name="training step",
        value=wrong or f"loss {steps.losses[0]:.4f} to {steps.losses[-1]:.4f} in {len(steps.losses)} steps of a small "
        f"net on random images; {first:.1f} s with compilation, then {rest * 1e3:.3g} ms",
        status=FAILED if wrong else OK,
        remedy=NARROW_DOWN if wrong else "",
        data={
            "losses": steps.losses, "gradient_norms": steps.gradient_norms, "skipped": steps.skipped,
            "seconds": steps.seconds, "weights_changed": steps.weights_changed, "replicas_agree": steps.replicas_agree,
        },
    )  # fmt: skip


def _what_is_wrong(steps: Any) -> str:
    import numpy as np

    if not np.isfinite(steps.losses).all():
        return f"the loss is not finite: {', '.join(f'{loss:g}' for loss in steps.losses)}"
    if all(steps.skipped):
        return f"every one of {len(steps.skipped)} updates was skipped: no gradient was finite"
    if not steps.weights_changed:
        return "the weights did not change"
    if not steps.replicas_agree:
        return "the replicas ended with different weights"
    return ""
