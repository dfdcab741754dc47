"""Joining the other workers: versions and flags are compared before the collective runtime starts."""

import contextlib
import dataclasses
import logging
import platform
from typing import Any

import tl_distributed
from tl_distributed.runtime.cluster import Cluster, resolve_cluster
from tl_distributed.runtime.cluster_workers import ClusterWorkers
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.command import set_log_name

_LOG = logging.getLogger(__name__)

# Which worker it is, and where it finds the data: what dataset.json says is compared, not where it lies.
_FLAGS_OF_A_WORKER = {"worker_index", "data_dir", "data_copy_dir"}


def join_workers(settings: RuntimeSettings, flags: dict[str, Any]) -> Workers:
    """Joins the other workers of a run, and checks that all were started alike; a run of one process is alone.

    Call it with TensorFlow imported, since its version is compared, and before anything touches a device.

    Args:
      settings: Of this worker.
      flags: That have to be the same on all, see `shared_flags`.

    Raises:
      UserError: No cluster, a worker that does not come, or one of another version or with other flags.
    """
    if settings.strategy != "multi_worker":
        return Workers()
    cluster = resolve_cluster(settings)
    set_log_name(f"worker {cluster.index}/{len(cluster.addresses)}")
    _LOG.info("This is %s of %d workers.", cluster.name(cluster.index), len(cluster.addresses))
    if len(cluster.addresses) == 1:
        return Workers()
    return join_cluster(cluster, flags, timeout_seconds=settings.worker_timeout_seconds, check_ports=True)


def shared_flags(config: Any) -> dict[str, Any]:
    """Returns the flags of a command (a dataclass) with which all workers are started, by `--name`, as JSON values."""
    return {f"--{name}": value for name, value in dataclasses.asdict(config).items() if name not in _FLAGS_OF_A_WORKER}


def join_cluster(
    cluster: Cluster, flags: dict[str, Any], *, timeout_seconds: float, check_ports: bool
) -> ClusterWorkers:
    """Joins the other workers of a cluster, and checks that all were started alike.

    Args:
      cluster: With at least two workers.
      flags: That have to be the same on all, JSON values.
      timeout_seconds: How long to wait for one another, now and later.
      check_ports: Whether their gRPC ports have to be free and reached.

    Raises:
      UserError: A worker that does not come, or one of another version or with other flags.
    """
    workers = ClusterWorkers(cluster, timeout_seconds=timeout_seconds)
    with contextlib.ExitStack() as stack:
        stack.push(workers)  # leaves with the reason where a check fails
        workers.require_same(_versions(), "install the same on every worker")
        workers.require_same(flags, "start every worker with the same flags")
        if check_ports:
            workers.check_ports()
        stack.pop_all()
    return workers


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    versions = {"tl_distributed": tl_distributed.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    return {"python": platform.python_version(), **versions}
