"""Facts about the machine: versions, processors and memory, GPU driver and libraries, environment variables."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import tl_distributed
from tl_distributed.cluster import resolve_cluster
from tl_distributed.diagnosis.checks import Subject
from tl_distributed.diagnosis.report import FACT, FAILED, OK, WARNING, Finding

SOFTWARE, MACHINE, GPUS, ENVIRONMENT = "Software", "Machine", "GPUs", "Environment variables"

_DRIVER_FILE = "/proc/driver/nvidia/version"
_SMI_FIELDS = ("index", "name", "driver_version", "memory.total", "memory.free")
_SMI_SECONDS = 30
_FREE_SHARE_WARNED = 0.5  # of a GPU's memory, below which other processes are in the way

_HIDE_ALL = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES
_SHOWN_VARIABLES = re.compile(
    r"(TF_|CUDA_|NVIDIA_|NCCL_|SLURM|XLA_|KERAS_|TFDS_|GRPC_|OMP_|MKL_|ONEDNN_|HOROVOD_|OMPI_|PMI)|LD_LIBRARY_PATH$"
)
_OWN_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"  # the command sets it itself
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH|JWT|COOKIE|SIGNATURE", re.IGNORECASE)
_SECRET_VALUES = re.compile(
    r"\beyJ[\w-]{10,}|://[^/@\s]+@|-----BEGIN|(password|passwd|token|secret)\s*[=:]", re.IGNORECASE
)


def software(subject: Subject) -> Iterator[Finding]:
    """Versions of all that computes."""
    from tl_distributed.training.workdir import checkout_commit

    for name, value in {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "tl_distributed": f"{tl_distributed.__version__}, commit {checkout_commit() or 'unknown'}",
        "system": platform.platform(),
    }.items():
        yield Finding(topic=SOFTWARE, name=name, value=value)
    import keras
    import numpy as np
    import tensorflow as tf

    for module in (tf, keras, np):
        name = module.__name__.rpartition(".")[2]
        yield Finding(topic=SOFTWARE, name=name, value=module.__version__, data={"version": module.__version__})


def requirements(subject: Subject) -> Iterator[Finding]:
    """Installed versions against those that the package declares."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires("tl_distributed") or []
    except importlib.metadata.PackageNotFoundError:
        value = "not compared: the package runs from its folder without being installed"
        yield Finding(topic=SOFTWARE, name="requirements", value=value)
        return
    needed = [requirement for requirement in map(Requirement, declared) if _is_needed(requirement)]
    missing, others = [], []
    for requirement in needed:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            others.append(f"{requirement.name} {version} (takes {requirement.specifier})")
    value = "; ".join([f"not installed: {', '.join(missing)}"] * bool(missing) + others)
    yield Finding(
        topic=SOFTWARE,
        name="requirements",
        value=value or f"all {len(needed)} as declared",
        status=FAILED if missing else WARNING if others else OK,
        remedy="install again: pip install -e . in the package's folder" if value else "",
        data={"missing": missing, "outside_range": others},
    )


def _is_needed(requirement: Any) -> bool:
    """Tells whether a requirement holds here, and not only with an extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def keras_backend(subject: Subject) -> Iterator[Finding]:
    """The engine is TensorFlow's, whatever else Keras can run on."""
    import keras

    backend = keras.backend.backend()
    good = backend == "tensorflow"
    yield Finding(
        topic=SOFTWARE, name="Keras backend", value=backend, status=OK if good else FAILED,
        remedy="" if good else "unset KERAS_BACKEND, or set it to tensorflow; else edit ~/.keras/keras.json",
    )  # fmt: skip


def machine(subject: Subject) -> Iterator[Finding]:
    """Cores and memory that this process may use."""
    import psutil

    from tl_distributed.data.free_memory import free_memory_bytes, total_memory_bytes

    usable, quota = usable_cores(), cpu_quota()
    limits = [f"{usable} usable"] * (usable != os.cpu_count()) + ([f"cgroup allows {quota:g}"] if quota else [])
    load = os.getloadavg()[0]
    cores = min(usable, quota) if quota else usable
    busy = load > cores
    yield Finding(
        topic=MACHINE,
        name="cores",
        value=f"{os.cpu_count()}{' (' + ', '.join(limits) + ')' if limits else ''}; load of the last minute {load:.2f}",
        status=WARNING if busy else FACT,
        remedy="other processes take the cores: figures of speed, here and in training, will be low" if busy else "",
        data={"cores": os.cpu_count(), "usable_cores": usable, "cgroup_cores": quota, "load": load},
    )
    free, total = free_memory_bytes(), total_memory_bytes()
    limited = total < psutil.virtual_memory().total
    yield Finding(
        topic=MACHINE,
        name="memory",
        value=f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB{' (limit of the cgroup)' if limited else ''}",
        data={"free_bytes": free, "total_bytes": total},
    )


def usable_cores() -> int:
    """Returns the cores that this process may run on (its affinity mask, which SLURM sets)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Returns how many cores' worth of time the process's cgroups leave it, or `None` without a limit."""
    from tl_distributed.data.free_memory import cgroup_folders

    quotas = []
    for folder, version in cgroup_folders("cpu"):
        if version == 2:
            text = _read(f"{folder}/cpu.max")
        else:
            text = f"{_read(f'{folder}/cpu.cfs_quota_us')} {_read(f'{folder}/cpu.cfs_period_us')}"
        parts = text.split()
        if len(parts) == 2 and all(part.isdigit() for part in parts):  # else "max 100000" or "-1 100000": no limit
            quotas.append(int(parts[0]) / int(parts[1]))
    return min(quotas, default=None)


def gpus(subject: Subject) -> Iterator[Finding]:
    """Driver, GPUs as the driver and as TensorFlow see them, and the libraries that TensorFlow was built for."""
    import tensorflow as tf

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
            remedy=_why_unseen(bool(build.get("is_cuda_build"))), detail=_gpu_lines(subject),
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
    if not seen:
        yield Finding(topic=GPUS, name="seen by TensorFlow", value="no GPU: training would run on the CPU")


def driver_version() -> str | None:
    """Returns the version of the kernel's NVIDIA driver, e.g. 550.54.15, or `None` without one."""
    match = re.search(r"Module(?: for \S+)?\s+(\d[\d.]+)", _read(_DRIVER_FILE))
    return match[1] if match else None


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


def _why_unseen(is_cuda_build: bool) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not is_cuda_build:
        return "this TensorFlow is built without CUDA: pip install tensorflow[and-cuda], or this package with .[gpu]"
    if hidden is not None and hidden.split(",")[0].strip() in _HIDE_ALL:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides the GPUs: unset it to train on them"
    return "pip install tensorflow[and-cuda], or this package with .[gpu]; in a container, start it with GPUs (--nv)"


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


def variables(subject: Subject) -> Iterator[Finding]:
    """Environment variables that change how training runs; values that may be secret are not shown."""
    shown = sorted(name for name in os.environ if _SHOWN_VARIABLES.match(name) and name != _OWN_VARIABLE)
    for name in shown:
        value = os.environ[name]
        secret = _SECRET_NAMES.search(name) or _SECRET_VALUES.search(value)
        yield Finding(topic=ENVIRONMENT, name=name, value="(set, not shown)" if secret else value or "(empty)")
    if not shown:
        yield Finding(topic=ENVIRONMENT, name="none", value="of TensorFlow, CUDA, NCCL, XLA, Keras and SLURM")
    if "TF_CONFIG" in os.environ and subject.config.strategy != "multi_worker":
        yield Finding(
            topic=ENVIRONMENT, name="cluster", value="TF_CONFIG names one, but --strategy="
            f"{subject.config.strategy} trains with this process alone", status=WARNING,
            remedy="unset TF_CONFIG, or train with --strategy=multi_worker",
        )  # fmt: skip
    if subject.config.strategy == "multi_worker":
        cluster = resolve_cluster(subject.config)
        yield Finding(
            topic=ENVIRONMENT, name="cluster",
            value=f"{len(cluster.addresses)} workers: {', '.join(cluster.addresses)}; "
            f"this is {cluster.name(cluster.index)}",
        )  # fmt: skip


def _read(path: str) -> str:
    """Returns the text of a file of the kernel's, which have no size; empty where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
