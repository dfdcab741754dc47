"""Which processes train together: from `--workers`, TF_CONFIG or SLURM."""

import dataclasses
import json
import os
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.runtime.settings import RuntimeSettings


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run and this process's place among them.

    Attributes:
      addresses: `host:port` of each worker's gRPC server, in order.
      index: Of this worker; worker 0 is the chief.
      control_port: Of the chief, through which workers check and watch one another (`workers`).
    """

    addresses: tuple[str, ...]
    index: int
    control_port: int

    @property
    def control_address(self) -> tuple[str, int]:
        """Host and port of the chief's control server."""
        return split_address(self.addresses[0])[0], self.control_port

    def name(self, index: int) -> str:
        """Returns what messages call a worker."""
        return f"{'the chief' if index == 0 else f'worker {index}'} ({self.addresses[index]})"


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port`; an IPv6 host stands in brackets, which are dropped.

    Raises:
      ValueError: No host, or no port from 1 to 65535.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(address)
    return host, int(port)


def resolve_cluster(settings: RuntimeSettings) -> Cluster:
    """Returns the cluster of settings with `--strategy=multi_worker`: by flags, else TF_CONFIG, else SLURM's step.

    Raises:
      UserError: None of them names a cluster, or what they say does not fit together.
    """
    if settings.workers:
        source, (addresses, index) = "--workers", (settings.workers, settings.worker_index)
    elif "TF_CONFIG" in os.environ:
        source, (addresses, index) = "TF_CONFIG", _from_tf_config(os.environ["TF_CONFIG"])
    elif "SLURM_STEP_NODELIST" in os.environ:
        source, (addresses, index) = "SLURM's step", _from_slurm(settings.grpc_port)
    else:
        raise UserError(
            "--strategy=multi_worker: no cluster; give --workers=HOST:PORT,HOST:PORT --worker_index=N, or TF_CONFIG, "
            "or start it with srun"
        )
    for address in addresses:
        try:
            split_address(address)
        except ValueError:
            raise UserError(f"{source}: {address!r} is not HOST:PORT") from None
    if len(set(addresses)) != len(addresses):
        raise UserError(f"{source}: two workers have the address {max(addresses, key=addresses.count)}")
    if not 0 <= index < len(addresses):
        raise UserError(f"{source}: there is no worker {index} among the {len(addresses)}, 0 to {len(addresses) - 1}")
    control_port = settings.control_port or split_address(addresses[0])[1] - 1
    if control_port < 1:
        raise UserError("--control_port: the chief has port 1, so there is none below; give one")
    if control_port in [port for host, port in map(split_address, addresses) if host == split_address(addresses[0])[0]]:
        raise UserError(f"--control_port={control_port} is a worker's gRPC port; choose another")
    return Cluster(tuple(addresses), index, control_port)


def _from_tf_config(text: str) -> tuple[tuple[str, ...], int]:
    """Returns addresses and index from TF_CONFIG; a `chief` task comes before the `worker` tasks."""
    try:
        content = json.loads(text)
        tasks: dict[str, Any] = content["cluster"]
        kind, index = content["task"]["type"], int(content["task"]["index"])
        chiefs, workers = list(tasks.get("chief", [])), list(tasks.get("worker", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG: {type(error).__name__} {error}; takes "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}'
        ) from None
    if kind not in ("chief", "worker") or set(tasks) - {"chief", "worker"}:
        raise UserError(f"TF_CONFIG: a task {kind} in a cluster of {', '.join(tasks)}; takes chief and worker")
    return (*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0)


def _from_slurm(port_base: int) -> tuple[tuple[str, ...], int]:
    """Returns addresses and index of the tasks of the running step; tasks of one node take ports one after another."""
    import tensorflow as tf

    try:
        # The GPUs are SLURM's to bind to tasks. These numbers only tell the resolver not to ask nvidia-smi; it
        # refuses more tasks on a node than GPUs.
        tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port_base, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        addresses = tuple(resolver.cluster_spec().as_dict()["worker"])
        # Not the rank: the resolver sorts names as text, n10 before n2, and SLURM counts them as numbers.
        own = f"{os.environ['SLURMD_NODENAME']}:{port_base + int(os.environ['SLURM_LOCALID'])}"
        return addresses, addresses.index(own)
    except (KeyError, ValueError, RuntimeError) as error:
        message = f"SLURM's step cannot be read ({error}); start the workers with srun, or give --workers"
        raise UserError(message) from None
