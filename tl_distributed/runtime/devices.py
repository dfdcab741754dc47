"""Start-up of a process: devices and their memory, strategy, precision, XLA, determinism."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.runtime.strategies import start_strategy
from tl_distributed.runtime.visible_gpus import missed_gpus
from tl_distributed.runtime.workers import Workers

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What a run runs on.

    Attributes:
      strategy: The `tf.distribute.Strategy`; `one_device` and `mirrored` alike go through it.
      precision: Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.
      use_xla: Whether the step is compiled.
      xla_reason: Why it is, or is not.
      devices: One line a device of this worker, for the log and `config.json`.
      workers: The processes that train together.
      num_replicas: Devices that train in step, of all workers.
      num_local_replicas: Those of this worker.
      first_replica: Number of this worker's first one.
      batches_in_flight: How many batches are inferred at once. A single batch leaves some of a CPU's cores waiting in
        depthwise convolutions, on small maps and between operations; the calls of several replicas keep one order.
    """

    strategy: Any
    precision: str
    use_xla: bool
    xla_reason: str
    devices: tuple[str, ...]
    workers: Workers = dataclasses.field(default_factory=Workers)

    @property
    def num_replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    @property
    def num_local_replicas(self) -> int:
        return self.num_replicas // self.workers.count

    @property
    def first_replica(self) -> int:
        return self.workers.index * self.num_local_replicas

    @property
    def local_replicas(self) -> range:
        """The numbers of this worker's replicas."""
        return range(self.first_replica, self.first_replica + self.num_local_replicas)

    @property
    def trains_on_cpu(self) -> bool:
        """Whether this worker's replicas are CPUs; those of others may be elsewhere."""
        device = self.strategy.extended.worker_devices[0]
        return tf.DeviceSpec.from_string(device).device_type == "CPU"

    @property
    def batches_in_flight(self) -> int:
        return 2 if self.num_replicas == 1 and self.trains_on_cpu else 1


def start_runtime(
    settings: RuntimeSettings,
    workers: Workers,
    *,
    global_batch_size: int,
    seed: int,
    deterministic: bool,
    model_family: str,
) -> Runtime:
    """Claims the devices and sets Keras's global precision, seed and TensorFlow's determinism.

    Call it once, before anything touches a device.

    Args:
      settings: Of devices and workers.
      workers: All that joined; each calls it.
      global_batch_size: Images in a step, to be shared out evenly to all replicas.
      seed: Of Python, numpy and Keras.
      deterministic: Whether only kernels that always give the same result are used.
      model_family: Of the backbone, for which the compiler is chosen.

    Raises:
      UserError: Devices that the strategy or the batch size does not fit, or a type that they cannot sum.
    """
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        _limit_memory(gpu, settings.gpu_memory_limit_mib)
    is_cuda_build = bool(tf.sysconfig.get_build_info().get("is_cuda_build"))
    if not gpus and not settings.virtual_devices and (missed := missed_gpus(is_cuda_build=is_cuda_build)):
        _LOG.warning("%s", missed)
    strategy, devices = start_strategy(settings, workers, num_gpus=len(gpus))
    replicas = strategy.num_replicas_in_sync
    if global_batch_size % replicas:
        raise UserError(
            f"--global_batch_size={global_batch_size} does not divide by the {replicas} replicas; "
            f"the nearest that does is {max(1, round(global_batch_size / replicas)) * replicas}"
        )
    if gpus and replicas > 1 and settings.all_reduce_dtype == "bfloat16":
        raise UserError(
            "--all_reduce_dtype=bfloat16: the NCCL in TensorFlow's wheel sums no bfloat16 between GPUs; "
            "use float32, or float16"
        )
    for gpu in gpus:
        if missing := missing_gpu_code(compute_capability(gpu), tf.sysconfig.get_build_info()):
            _LOG.warning("%s: %s", gpu.name.removeprefix("/physical_device:"), missing)
    precision = _precision(settings.precision, gpus, workers)
    keras.config.set_dtype_policy(precision)
    return Runtime(
        strategy, precision, *choose_xla(settings.xla, model_family, gpus), _describe(devices, gpus), workers
    )


def choose_xla(wanted: str, model_family: str, gpus: Sequence[Any]) -> tuple[bool, str]:
    """Returns whether to compile the step, and why.

    Args:
      wanted: Of `--xla`.
      model_family: Of the backbone.
      gpus: That train.
    """
    if wanted != "auto":
        return wanted == "on", f"--xla={wanted}"
    if not gpus:
        return False, "--xla=auto: on a CPU TensorFlow's own kernels are faster, most so for depthwise convolutions"
    return True, f"--xla=auto: it fuses what lies between the matrix products on a GPU; {_seen(model_family)}"


def _seen(model_family: str) -> str:
    seen = {"mobilenet_v2": "3.3 times as fast on an H200 in float32"}
    return seen.get(model_family, f"not measured for {model_family}")


def _limit_memory(gpu: Any, limit_mib: int) -> None:
    """Leaves memory to the other processes of a shared node."""
    if not limit_mib:
        # A program that has used the GPU already, as to build its own model, has said how it takes memory.
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.experimental.set_memory_growth(gpu, True)
        return
    limit = tf.config.LogicalDeviceConfiguration(memory_limit=limit_mib)
    try:
        tf.config.set_logical_device_configuration(gpu, [limit])
    except RuntimeError:  # claimed already: it cannot be changed any more
        raise UserError("--gpu_memory_limit_mib: this process has claimed its devices already") from None


def _precision(wanted: str, gpus: list[Any], workers: Workers) -> str:
    capabilities = [compute_capability(gpu) for gpu in gpus]
    own = min(capabilities) if capabilities else (0, 0)
    weakest = min(tuple(other) for other in workers.exchange("compute capability", own))
    if wanted == "auto":
        return "mixed_bfloat16" if weakest >= (8, 0) else "mixed_float16" if weakest >= (7, 0) else "float32"
    if wanted != "float32" and not gpus:
        _LOG.info("--precision=%s on a CPU is for trying things: it is emulated, and slow.", wanted)
    return wanted


def missing_gpu_code(capability: tuple[int, int], build_info: Mapping[str, Any]) -> str:
    """Returns what to say of a GPU for which TensorFlow was not built, or nothing.

    Code for a capability runs on those of the same major version that are not older; `compute_*` is for later ones too,
    once the driver has compiled it (tensorflow/tensorflow#97387, #89272: RTX 50).

    Args:
      capability: Of the GPU, e.g. (12, 0).
      build_info: Of `tf.sysconfig.get_build_info`.
    """
    built = build_info.get("cuda_compute_capabilities") or ()
    versions = [(name.split("_")[0], divmod(int(name.split("_")[1].rstrip("af")), 10)) for name in built]
    if not versions or any(kind == "sm" and own[0] == capability[0] and own <= capability for kind, own in versions):
        return ""
    if any(kind == "compute" and own[0] == capability[0] and own <= capability for kind, own in versions):
        return ""
    shown = f"this TensorFlow has no code for compute capability {capability[0]}.{capability[1]} ({', '.join(built)})"
    if any(kind == "compute" and own <= capability for kind, own in versions):
        return f"{shown}: the driver compiles it at the first start, which can take half an hour, or fail"
    return f"{shown}, and cannot use this GPU; install a TensorFlow that was built for it"


def compute_capability(gpu: Any) -> tuple[int, int]:
    """Returns e.g. (9, 0), or (0, 0) where the driver does not tell."""
    return tuple(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)))


def _describe(devices: list[str], gpus: list[Any]) -> tuple[str, ...]:
    if not gpus:
        return tuple(devices)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return tuple(
        f"{name} ({detail.get('device_name', 'GPU')}, compute capability "
        f"{'.'.join(map(str, detail.get('compute_capability', ('?',))))})"
        for name, detail in zip(devices, details, strict=False)
    )
