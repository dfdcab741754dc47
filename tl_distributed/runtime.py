"""Start-up of a process: devices, strategy, collectives, precision, XLA, determinism."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tl_distributed.cluster import Cluster, resolve_cluster
from tl_distributed.commandline import UserError
from tl_distributed.config import Config
from tl_distributed.models.backbones import get_backbone
from tl_distributed.workers import Workers

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


def start_runtime(config: Config, workers: Workers) -> Runtime:
    """Claims the devices and sets Keras's global precision, seed and TensorFlow's determinism.

    Call it once, before anything touches a device.

    Args:
      config: Of the run.
      workers: All that joined; each calls it.

    Raises:
      UserError: Devices that the strategy or the batch size does not fit, or a precision that the device lacks.
    """
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        _limit_memory(gpu, config.gpu_memory_limit_mib)
    if workers.count > 1:
        strategy, devices = _join_collectives(config, workers, gpus)
    else:
        devices = _training_devices(config, gpus)
        strategy = _strategy(config, devices)
    replicas = strategy.num_replicas_in_sync
    if config.global_batch_size % replicas:
        raise UserError(
            f"--global_batch_size={config.global_batch_size} does not divide by the {replicas} replicas; "
            f"the nearest that does is {max(1, round(config.global_batch_size / replicas)) * replicas}"
        )
    precision = _precision(config.precision, gpus, workers)
    keras.config.set_dtype_policy(precision)
    return Runtime(
        strategy, precision, *choose_xla(config.xla, config.backbone, gpus), _describe(devices, gpus), workers
    )


def choose_xla(wanted: str, backbone: str, gpus: Sequence[Any]) -> tuple[bool, str]:
    """Returns whether to compile the step, and why.

    Args:
      wanted: Of `--xla`.
      backbone: Its name.
      gpus: That train.
    """
    if wanted != "auto":
        return wanted == "on", f"--xla={wanted}"
    if not gpus:
        return False, "--xla=auto: on a CPU TensorFlow's own kernels are faster, most so for depthwise convolutions"
    family = get_backbone(backbone).family or backbone
    return True, f"--xla=auto: it fuses what lies between the matrix products on a GPU; not measured for {family}"


def _limit_memory(gpu: Any, limit_mib: int) -> None:
    """Leaves memory to the other processes of a shared node."""
    if not limit_mib:
        tf.config.experimental.set_memory_growth(gpu, True)
        return
    limit = tf.config.LogicalDeviceConfiguration(memory_limit=limit_mib)
    try:
        tf.config.set_logical_device_configuration(gpu, [limit])
    except RuntimeError:  # claimed already: it cannot be changed any more
        raise UserError("--gpu_memory_limit_mib: this process has claimed its devices already") from None


def _training_devices(config: Config, gpus: list[Any]) -> list[str]:
    """Returns the logical devices to train on, GPUs first."""
    _check_virtual_devices(config, gpus)
    if config.virtual_devices > 1:
        _split_cpu(config.virtual_devices)
    kind = "GPU" if gpus else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _check_virtual_devices(config: Config, gpus: list[Any]) -> None:
    if config.virtual_devices and gpus:
        raise UserError(
            f"--virtual_devices={config.virtual_devices} splits the CPU, but there are {len(gpus)} GPUs; "
            "drop it, or hide them with CUDA_VISIBLE_DEVICES="
        )


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:  # already claimed in this process: fine if it was split the same way
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise UserError(f"--virtual_devices={count}: this process has claimed its devices already") from None


def _strategy(config: Config, devices: list[str]) -> Any:
    if config.strategy == "one_device" or (config.strategy == "auto" and len(devices) == 1):
        return tf.distribute.OneDeviceStrategy(devices[0])
    return mirrored_strategy(devices)


def mirrored_strategy(devices: list[str]) -> tf.distribute.MirroredStrategy:
    """Returns the strategy: TensorFlow's own choice of collectives (NCCL) on GPUs, plain sums on virtual CPU devices.

    The collectives that it would take on CPUs keep state in the process: a second strategy of another size dies.
    """
    on_gpu = "GPU" in devices[0]
    return tf.distribute.MirroredStrategy(devices, None if on_gpu else tf.distribute.ReductionToOneDevice())


def _join_collectives(config: Config, workers: Workers, gpus: list[Any]) -> tuple[Any, list[str]]:
    """Starts the collective runtime between all workers; returns its strategy and this worker's devices.

    Nothing may touch a device before: TensorFlow builds the cluster when it claims the devices.
    """
    _check_virtual_devices(config, gpus)
    workers.require_same({"GPUs": len(gpus)}, "every worker takes the same number; CUDA_VISIBLE_DEVICES hides some")
    if config.virtual_devices > 1:
        _split_cpu(config.virtual_devices)
    late = (
        f"the collective runtime did not start within {config.worker_timeout_seconds:g} s "
        "(--worker_timeout_seconds), though the workers reach each other"
    )
    with workers.expect_within(config.worker_timeout_seconds, late):
        _leave_silent_workers_to(config.worker_timeout_seconds, workers.count)
        strategy = _multi_worker_strategy(resolve_cluster(config), len(gpus), max(config.virtual_devices, 1))
    return strategy, list(strategy.extended.worker_devices)


def _leave_silent_workers_to(timeout_seconds: float, num_workers: int) -> None:
    """Makes TensorFlow's coordination service wait longer for a sign of life than `Workers` does.

    The strategy would start it with ten seconds, after which it breaks the collectives, whatever the flag says.
    """
    from tensorflow.python.distribute import collective_all_reduce_strategy as collective
    from tensorflow.python.eager import context

    job = collective.coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=num_workers)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        heartbeat_timeout_in_ms=int(2000 * timeout_seconds),
        coordinated_jobs=[job],
    )


def _multi_worker_strategy(cluster: Cluster, num_gpus: int, num_cpus: int) -> tf.distribute.MultiWorkerMirroredStrategy:
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": num_gpus},
        rpc_layer="grpc",
    )
    kind = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(implementation=kind.NCCL if num_gpus else kind.RING)
    if num_cpus > 1:
        return _strategy_of_virtual_devices(resolver, options, num_cpus)
    return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)


def _strategy_of_virtual_devices(resolver: Any, options: Any, num_cpus: int) -> Any:
    """Returns the strategy with several CPU devices a worker, for trying a layout without its GPUs.

    TensorFlow's own takes one CPU a worker and has no setting for it: which devices a worker has, a method of its
    inner class says, and the outer class makes that one itself. So both have a subclass here.
    """
    from tensorflow.python.distribute import collective_all_reduce_strategy as collective

    class Extended(collective.CollectiveAllReduceExtended):
        def _initialize_local_devices(self, _: Any, worker_device: str) -> tuple[tuple[str, ...], str]:
            return tuple(f"{worker_device}/device:CPU:{index}" for index in range(num_cpus)), "CPU"

    class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):
        def __init__(self) -> None:
            extended = Extended(self, cluster_resolver=resolver, communication_options=options)
            tf.distribute.Strategy.__init__(self, extended)

    return MultiWorkerMirroredStrategy()


def _precision(wanted: str, gpus: list[Any], workers: Workers) -> str:
    capabilities = [_compute_capability(gpu) for gpu in gpus]
    own = min(capabilities) if capabilities else (0, 0)
    weakest = min(tuple(other) for other in workers.exchange("compute capability", own))
    if wanted == "auto":
        return "mixed_bfloat16" if weakest >= (8, 0) else "mixed_float16" if weakest >= (7, 0) else "float32"
    if wanted != "float32" and not gpus:
        _LOG.info("--precision=%s on a CPU is for trying things: it is emulated, and slow.", wanted)
    return wanted


def _compute_capability(gpu: Any) -> tuple[int, int]:
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
