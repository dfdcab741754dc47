"""Which GPUs a process was given, and why TensorFlow finds none on a machine that has some."""

import itertools
import os
import re

from tl_distributed.data.machine import text_of

VISIBLE = "CUDA_VISIBLE_DEVICES"
_HIDING = ("", "-1", "NoDevFiles")  # CUDA shows the GPUs named before the first of these
_DRIVER_FILE = "/proc/driver/nvidia/version"


def named_gpus(value: str) -> list[str]:
    """Returns the GPUs that a value of CUDA_VISIBLE_DEVICES shows: numbers, or UUIDs of GPUs and MIG slices."""
    names = (name.strip() for name in value.split(","))
    return list(itertools.takewhile(lambda name: name not in _HIDING, names))


def driver_version() -> str | None:
    """Returns the version of the kernel's NVIDIA driver, e.g. 550.54.15, or `None` without one."""
    match = re.search(r"Module(?: for \S+)?\s+(\d[\d.]+)", text_of(_DRIVER_FILE))
    return match[1] if match else None


def why_unseen(*, is_cuda_build: bool) -> str:
    """Returns what to do where TensorFlow finds no GPU though there is a driver."""
    hidden = os.environ.get(VISIBLE)
    if not is_cuda_build:
        return "this TensorFlow is built without CUDA: pip install tensorflow[and-cuda], or this package with .[gpu]"
    if hidden is not None and not named_gpus(hidden):
        return f"{VISIBLE}={hidden!r} hides the GPUs: unset it to train on them"
    return (
        "pip install tensorflow[and-cuda], or this package with .[gpu]; a container is started with GPUs (--nv), and a "
        "SLURM job asks for them (--gpus-per-node)"
    )


def missed_gpus(*, is_cuda_build: bool) -> str:
    """Returns what to say where TensorFlow finds no GPU: nothing where the machine has none, or they are hidden."""
    version, given = driver_version(), os.environ.get(VISIBLE)
    if version is None or (given is not None and not named_gpus(given)):
        return ""
    return (
        f"Training is on the CPU: TensorFlow finds no GPU, though this machine has NVIDIA's driver {version}; "
        f"{why_unseen(is_cuda_build=is_cuda_build)}. python -m tl_distributed.doctor says more."
    )
