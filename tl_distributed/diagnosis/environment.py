"""Facts about the machine: versions, processors and memory, environment variables."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from typing import Any

import tl_distributed
from tl_distributed.diagnosis.checks import Subject
from tl_distributed.diagnosis.report import FACT, FAILED, OK, WARNING, Finding
from tl_distributed.runtime.cluster import resolve_cluster
from tl_distributed.runtime.settings import RuntimeSettings

SOFTWARE, MACHINE, ENVIRONMENT = "Software", "Machine", "Environment variables"


_SHOWN_VARIABLES = re.compile(
    r"(TF_|CUDA_|NVIDIA_|NCCL_|SLURM|XLA_|KERAS_|TFDS_|GRPC_|OMP_|MKL_|ONEDNN_|HOROVOD_|OMPI_|PMI)|LD_LIBRARY_PATH$"
)
_OWN_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"  # the command sets it itself
_LONGEST_SHOWN = 400  # NVIDIA's containers list every driver that will do
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

    from tl_distributed.data.machine import cpu_quota, free_memory_bytes, total_memory_bytes, usable_cores

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


def variables(subject: Subject) -> Iterator[Finding]:
    """Environment variables that change how training runs; values that may be secret are not shown."""
    shown = sorted(name for name in os.environ if _SHOWN_VARIABLES.match(name) and name != _OWN_VARIABLE)
    for name in shown:
        value = os.environ[name]
        secret = _SECRET_NAMES.search(name) or _SECRET_VALUES.search(value)
        if len(value) > _LONGEST_SHOWN:
            value = f"{value[:_LONGEST_SHOWN]}... ({len(value):,} characters)"
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
        cluster = resolve_cluster(subject.config.part(RuntimeSettings))
        yield Finding(
            topic=ENVIRONMENT, name="cluster",
            value=f"{len(cluster.addresses)} workers: {', '.join(cluster.addresses)}; "
            f"this is {cluster.name(cluster.index)}",
        )  # fmt: skip
