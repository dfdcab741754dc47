"""Which GPU each of the runs sees that share a node."""

import os

from tl_distributed.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_of_runs(runs_per_node: int) -> tuple[str | None, ...]:
    """Returns, for each of the runs that go on at the same time, the one GPU that it is to see.

    The GPUs are those that this process was given: the names in CUDA_VISIBLE_DEVICES (numbers, or the UUIDs of GPUs and
    MIG slices), else all of the node. `None`: what the study sees, for one run at a time, and on a node without GPUs.

    Raises:
      UserError: Fewer GPUs than runs.
    """
    if runs_per_node == 1:
        return (None,)
    given = os.environ.get(VISIBLE)
    names = _gpus_of_node() if given is None else [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        return (None,) * runs_per_node
    if len(names) < runs_per_node:
        where = "of this node" if given is None else f"in {VISIBLE}={given}"
        raise UserError(
            f"--runs_per_node={runs_per_node}: there are {len(names)} GPUs {where}, and each run takes one; use "
            f"--runs_per_node={len(names)}"
        )
    return tuple(names[:runs_per_node])


def _gpus_of_node() -> list[str]:
    import tensorflow as tf

    # Lists them without taking their memory, which the first operation would.
    return [str(number) for number in range(len(tf.config.list_physical_devices("GPU")))]
