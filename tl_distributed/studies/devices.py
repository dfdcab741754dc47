"""What each of the runs that share a node may use: a GPU of its own, or its share of the CPU's cores."""

import dataclasses
import os

from tl_distributed.errors import UserError
from tl_distributed.runtime.visible_gpus import VISIBLE, named_gpus


@dataclasses.dataclass(frozen=True)
class Device:
    """What one run uses of its node; as it is, all that the study may.

    Attributes:
      gpu: The one GPU that it sees, as CUDA_VISIBLE_DEVICES names it; empty: what the study sees.
      cores: The numbers of the cores that it runs on; empty: the study's.
      runs: How many go on at the same time, which share the node's memory.
    """

    gpu: str = ""
    cores: tuple[int, ...] = ()
    runs: int = 1

    def __str__(self) -> str:
        """E.g. ` on GPU 3`, to be put after the name of a run; nothing where it uses all."""
        if self.gpu:
            return f" on GPU {self.gpu}"
        return f" on {len(self.cores)} core{'s' * (len(self.cores) > 1)}" if self.cores else ""


WHOLE = Device()
NO_GPU = Device(gpu="-1")


def devices_of_runs(runs_per_node: int) -> tuple[Device, ...]:
    """Returns what each of the runs uses that go on at the same time.

    The GPUs are those that this process was given: the names in CUDA_VISIBLE_DEVICES (numbers, or the UUIDs of GPUs and
    MIG slices), else all of the node. On a node without GPUs each run has as many cores as the others, of those that
    this process may run on: the thread pools of TensorFlow, OpenMP and XLA would each take all of them otherwise.

    Raises:
      UserError: Fewer GPUs than runs.
    """
    if runs_per_node == 1:
        return (WHOLE,)
    given = os.environ.get(VISIBLE)
    names = _gpus_of_node() if given is None else named_gpus(given)
    if not names:
        return tuple(Device(cores=cores, runs=runs_per_node) for cores in _shares(runs_per_node))
    if len(names) < runs_per_node:
        where = "of this node" if given is None else f"in {VISIBLE}={given}"
        raise UserError(
            f"--runs_per_node={runs_per_node}: there are {len(names)} GPUs {where}, and each run takes one; use "
            f"--runs_per_node={len(names)}"
        )
    return tuple(Device(gpu=name, runs=runs_per_node) for name in names[:runs_per_node])


def _gpus_of_node() -> list[str]:
    import tensorflow as tf

    # Lists them without taking their memory, which the first operation would.
    return [str(number) for number in range(len(tf.config.list_physical_devices("GPU")))]


def _shares(count: int) -> list[tuple[int, ...]]:
    """Returns `count` shares of the cores, alike in size; with fewer cores than shares, some have one together."""
    if not hasattr(os, "sched_setaffinity"):  # macOS has no way to say it
        return [()] * count
    cores = sorted(os.sched_getaffinity(0))
    size = max(1, len(cores) // count)
    return [tuple(cores[(number * size + place) % len(cores)] for place in range(size)) for number in range(count)]


def confine(process_id: int, device: Device) -> None:
    """Has a process that has just started run on its cores alone, and all threads that it starts from now on.

    What counts cores then counts its own: the thread pools of TensorFlow (between operations and within), XLA, OpenMP.
    """
    if device.cores:
        os.sched_setaffinity(process_id, device.cores)
