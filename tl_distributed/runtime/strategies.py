"""The `tf.distribute` strategy of a run, on one machine or of several workers, and the devices that it trains on."""

import os
from typing import Any

import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster import Cluster, resolve_cluster, split_address
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.runtime.workers import Workers

_NO_GRPC_PROXY = "no_grpc_proxy"  # an environment variable of gRPC, which goes before `no_proxy`


def start_strategy(settings: RuntimeSettings, workers: Workers, *, num_gpus: int) -> tuple[Any, list[str]]:
    """Claims the devices; returns the strategy and the names of this worker's devices.

    Raises:
      UserError: `--virtual_devices` where there are GPUs, or after the devices were claimed; another number of GPUs on
        another worker, or collectives that do not start.
    """
    if settings.virtual_devices and num_gpus:
        raise UserError(
            f"--virtual_devices={settings.virtual_devices} splits the CPU, but there are {num_gpus} GPUs; "
            "drop it, or hide them with CUDA_VISIBLE_DEVICES="
        )
    if settings.virtual_devices:
        _split_cpu(settings.virtual_devices)
    if workers.count > 1:
        return _join_collectives(settings, workers, num_gpus)
    kind = "GPU" if num_gpus else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if kind == "CPU" and len(devices) > 1:
        devices = devices[1:]  # of a CPU that was split the first part is the host
    if settings.strategy == "one_device" or (settings.strategy == "auto" and len(devices) == 1):
        return tf.distribute.OneDeviceStrategy(devices[0]), devices
    return mirrored_strategy(devices), devices


def _split_cpu(num_devices: int) -> None:
    """Makes the CPU into a host and as many devices: what lands where is then what would land where on GPUs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * (1 + num_devices)
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError:  # already claimed in this process: fine if it was split the same way
        if len(tf.config.list_logical_devices("CPU")) != len(parts):
            raise UserError(f"--virtual_devices={num_devices}: this process has claimed its devices already") from None


def mirrored_strategy(devices: list[str]) -> tf.distribute.MirroredStrategy:
    """Returns the strategy: TensorFlow's own choice of collectives (NCCL) on GPUs, plain sums on virtual CPU devices.

    The collectives that it would take on CPUs keep state in the process: a second strategy of another size dies.
    """
    on_gpu = "GPU" in devices[0]
    return tf.distribute.MirroredStrategy(devices, None if on_gpu else tf.distribute.ReductionToOneDevice())


def _join_collectives(settings: RuntimeSettings, workers: Workers, num_gpus: int) -> tuple[Any, list[str]]:
    """Starts the collective runtime between all workers; returns its strategy and this worker's devices.

    Nothing may touch a device before: TensorFlow builds the cluster when it claims the devices.
    """
    workers.require_same({"GPUs": num_gpus}, "every worker takes the same number; CUDA_VISIBLE_DEVICES hides some")
    late = (
        f"the collective runtime did not start within {settings.worker_timeout_seconds:g} s "
        "(--worker_timeout_seconds), though the workers reach each other"
    )
    cluster = resolve_cluster(settings)
    avoid_proxy(cluster)
    with workers.expect_within(settings.worker_timeout_seconds, late):
        _leave_silent_workers_to(settings.worker_timeout_seconds, workers.count)
        strategy = _multi_worker_strategy(cluster, num_gpus, settings.virtual_devices)
    return strategy, list(strategy.extended.worker_devices)


def avoid_proxy(cluster: Cluster) -> None:
    """Has gRPC connect to the workers themselves: through the proxy of `http_proxy` it would wait for them in vain."""
    others = next(filter(None, map(os.environ.get, (_NO_GRPC_PROXY, "no_proxy"))), "")
    hosts = dict.fromkeys(split_address(address)[0] for address in cluster.addresses)
    os.environ[_NO_GRPC_PROXY] = ",".join(filter(None, [others, *hosts]))


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


def _multi_worker_strategy(
    cluster: Cluster, num_gpus: int, num_virtual: int
) -> tf.distribute.MultiWorkerMirroredStrategy:
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": num_gpus},
        rpc_layer="grpc",
    )
    kind = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(implementation=kind.NCCL if num_gpus else kind.RING)
    if num_virtual:
        return _strategy_of_virtual_devices(resolver, options, num_virtual)
    return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)


def _strategy_of_virtual_devices(resolver: Any, options: Any, num_virtual: int) -> Any:
    """Returns the strategy with several CPU devices a worker, for trying a layout without its GPUs.

    TensorFlow's own takes one CPU a worker and has no setting for it: which devices a worker has, a method of its
    inner class says, and the outer class makes that one itself. So both have a subclass here.
    """
    from tensorflow.python.distribute import collective_all_reduce_strategy as collective

    class Extended(collective.CollectiveAllReduceExtended):
        def _initialize_local_devices(self, _: Any, worker_device: str) -> tuple[tuple[str, ...], str]:
            return tuple(f"{worker_device}/device:CPU:{1 + index}" for index in range(num_virtual)), "CPU"

    class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):
        def __init__(self) -> None:
            extended = Extended(self, cluster_resolver=resolver, communication_options=options)
            tf.distribute.Strategy.__init__(self, extended)

    return MultiWorkerMirroredStrategy()
