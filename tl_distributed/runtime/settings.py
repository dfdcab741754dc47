"""Settings of what a run runs on: devices, precision, compiler, and the processes that train together."""

import dataclasses

from tl_distributed.errors import UserError
from tl_distributed.settings.flags import setting

DEVICES, WORKERS = "Devices", "Workers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Flags of devices and workers."""

    strategy: str = setting(
        "auto", "tf.distribute strategy; auto is mirrored where there are several devices, multi_worker joins several "
        "processes.", topic=DEVICES, choices=("auto", "one_device", "mirrored", "multi_worker"),
    )  # fmt: skip
    virtual_devices: int = setting(
        0, "Split the CPU into a host and N devices, to try replicas without GPUs; 0 is off.",
        topic=DEVICES, minimum=0, maximum=64,
    )  # fmt: skip
    precision: str = setting(
        "auto", "auto: bfloat16 from compute capability 8.0, float16 at 7.x, float32 elsewhere.",
        topic=DEVICES, choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )  # fmt: skip
    xla: str = setting("auto", "Compile the step; auto is on for GPUs.", topic=DEVICES, choices=("auto", "on", "off"))
    all_reduce_dtype: str = setting(
        "float32", "Type in which gradients travel between replicas.",
        topic=DEVICES, choices=("float32", "bfloat16", "float16"),
    )  # fmt: skip
    gradient_buckets: int = setting(
        1, "Parts, at most, in which gradients travel between replicas, the last layers' while the backward pass goes "
        "on; 1 sends all of them at its end. No effect with one replica.",
        topic=DEVICES, minimum=1, maximum=16,
    )  # fmt: skip
    gpu_memory_limit_mib: int = setting(
        0, "The most of each GPU's memory to take, at once; 0 takes what is needed, when it is needed.",
        topic=DEVICES, minimum=0,
    )  # fmt: skip
    steps_per_loop: int = setting(
        0, "Steps run in the graph for each call from Python; 0 lets the run choose.", topic=DEVICES, minimum=0
    )
    workers: tuple[str, ...] = setting(
        (), "HOST:PORT of each worker's gRPC server, the chief's first; by default from TF_CONFIG, or from SLURM.",
        topic=WORKERS,
    )  # fmt: skip
    worker_index: int = setting(
        -1, "This process's place in --workers, from 0, which is the chief; -1 without --workers.",
        topic=WORKERS, minimum=-1,
    )  # fmt: skip
    grpc_port: int = setting(
        8888, "SLURM: gRPC port of a node's first worker; its others take the ports that follow.",
        topic=WORKERS, minimum=2, maximum=65535,
    )  # fmt: skip
    control_port: int = setting(
        0, "Port of the chief through which workers check and watch one another; 0 is the one below its gRPC port.",
        topic=WORKERS, minimum=0, maximum=65535,
    )  # fmt: skip
    worker_timeout_seconds: float = setting(
        60.0, "How long workers wait for one another at the start, and for a sign of life later, before all end.",
        topic=WORKERS, minimum=2,
    )  # fmt: skip

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant."""
        if self.strategy != "multi_worker":
            given = [name for name in ("workers", "worker_index") if getattr(self, name) not in ((), -1)]
            if given:
                raise UserError(f"--{given[0]} needs --strategy=multi_worker, got --strategy={self.strategy}")
        elif bool(self.workers) != (self.worker_index >= 0):
            raise UserError("--workers and --worker_index go together: all the workers, and which of them this one is")
