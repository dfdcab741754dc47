"""Facts about GPUs: the driver, the cards, what TensorFlow sees of them and the libraries that it was built for."""

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator

from tl_distributed.diagnosis.checks import Subject
from tl_distributed.diagnosis.report import FACT, WARNING, Finding
from tl_distributed.runtime.visible_gpus import driver_version, why_unseen

GPUS = "GPUs"

_SMI_FIELDS = ("index", "name", "driver_version", "memory.total", "memory.free")
_SMI_SECONDS = 30
_FREE_SHARE_WARNED = 0.5  # of a GPU's memory, below which other processes are in the way


def gpus(subject: Subject) -> Iterator[Finding]:
    """Driver, GPUs as the driver and as TensorFlow see them, and the libraries that TensorFlow was built for."""
    import tensorflow as tf

    from tl_distributed.runtime.devices import compute_capability, missing_gpu_code

    build = tf.sysconfig.get_build_info()
    versions = {name: build.get(f"{name.lower()}_version") for name in ("CUDA", "cuDNN")}
    built = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    architectures = ", ".join(build.get("cuda_compute_capabilities", ()))
    yield Finding(
        topic=GPUS,
        name="TensorFlow's build",
        value=f"{built or 'without CUDA'}{f'; kernels for {architectures}' if architectures else ''}",
    )
    libraries = _installed_libraries()
    if libraries:
        yield Finding(topic=GPUS, name="libraries", value=", ".join(libraries))
    driver = driver_version()
    yield Finding(topic=GPUS, name="NVIDIA driver", value=driver or "none", data={"version": driver})
    cards = list(_cards())
    yield from cards
    seen = tf.config.list_physical_devices("GPU")
    if not seen and (driver or cards):
        yield Finding(
            topic=GPUS, name="seen by TensorFlow", value="no GPU, though there is a driver", status=WARNING,
            remedy=why_unseen(is_cuda_build=bool(build.get("is_cuda_build"))), detail=_gpu_lines(subject),
        )  # fmt: skip
        return
    for gpu in seen:
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ("unknown",))))
        yield Finding(
            topic=GPUS, name=gpu.name.removeprefix("/physical_device:"),
            value=f"{details.get('device_name', 'unnamed')}, compute capability {capability}",
            data={"compute_capability": capability},
        )  # fmt: skip
        if missing := missing_gpu_code(compute_capability(gpu), build):
            yield Finding(
                topic=GPUS, name=f"code for {gpu.name.removeprefix('/physical_device:')}", value=missing,
                status=WARNING, remedy="a newer TensorFlow may have it; let the first start take its time",
            )  # fmt: skip
    if not seen:
        yield Finding(topic=GPUS, name="seen by TensorFlow", value="no GPU: training would run on the CPU")


def _cards() -> Iterator[Finding]:
    """Yields each GPU of the machine as nvidia-smi describes it, whatever CUDA_VISIBLE_DEVICES hides."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return
    query = [command, f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=_SMI_SECONDS)
    if result.returncode:
        value = (result.stdout or result.stderr).strip().splitlines()
        yield Finding(
            topic=GPUS, name="nvidia-smi", value=value[0] if value else f"exit code {result.returncode}",
            status=WARNING, remedy="the driver does not answer: restart the machine or the container",
        )  # fmt: skip
        return
    for line in result.stdout.splitlines():
        yield _card(*[part.strip() for part in line.split(",")])


def _card(index: str, name: str, driver: str, total: str, free: str) -> Finding:
    """Memory comes in MiB, or as "[N/A]" where a card shares the machine's."""
    status, remedy, data = FACT, "", {}
    memory = f"memory {total}"
    if total.isdigit() and free.isdigit():
        memory = f"{int(free) / 1024:.1f} GiB free of {int(total) / 1024:.1f} GiB"
        data = {"total_bytes": int(total) * 2**20, "free_bytes": int(free) * 2**20}
        if int(free) < _FREE_SHARE_WARNED * int(total):
            status, remedy = WARNING, "other processes hold its memory: nvidia-smi lists them"
    return Finding(
        topic=GPUS, name=f"card {index}", value=f"{name}, {memory}, driver {driver}", status=status, remedy=remedy,
        data=data,
    )  # fmt: skip


def _gpu_lines(subject: Subject) -> tuple[str, ...]:
    """Returns what TensorFlow wrote about the GPUs that it did not find."""
    return tuple(line for line in subject.chatter() if re.search(r"cuda|gpu|cudnn|dlopen", line, re.IGNORECASE))[-4:]


def _installed_libraries() -> list[str]:
    """Returns NVIDIA's own packages beside TensorFlow, e.g. "nvidia-nccl-cu12 2.25.1"."""
    found = {
        f"{distribution.metadata['Name']} {distribution.version}"
        for distribution in importlib.metadata.distributions()
        if (distribution.metadata["Name"] or "").startswith("nvidia-")
    }
    return sorted(found)
