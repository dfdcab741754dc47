"""Who takes part in `benchmark step`, `peers` and `scaling`: ours in its ways, Keras's ways and PyTorch's."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from tl_distributed.benchmarks.processes import CONTENDERS, Contender
from tl_distributed.benchmarks.random_images import random_images
from tl_distributed.benchmarks.report import OURS
from tl_distributed.benchmarks.settings import StepConfig
from tl_distributed.data.machine import usable_cores
from tl_distributed.runtime.visible_gpus import driver_version


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KerasPeer:
    """One way to use Keras; see `contenders.keras_step`."""

    library: str = "keras"
    jax: bool = False
    jit_compile: bool | str = False
    clustered: bool = False
    from_files: bool = False
    augment_in_map: bool = False

    def environment(self) -> dict[str, str]:
        """Returns what has to be set before the libraries are imported."""
        changes = {}
        if self.jax:  # which would take the GPU's memory from the contenders that wait
            changes |= {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if self.clustered:
            flags = [os.environ.get("TF_XLA_FLAGS", ""), "--tf_xla_auto_jit=2", "--tf_xla_cpu_global_jit"]
            changes["TF_XLA_FLAGS"] = " ".join(filter(None, flags))
        return changes


_STOCK_KERAS = {
    "keras_tutorial": _KerasPeer(from_files=True, jit_compile="auto"),
    "keras_tutorial_map": _KerasPeer(from_files=True, jit_compile="auto", augment_in_map=True),
    "keras_best": _KerasPeer(),
    "keras_best_xla": _KerasPeer(jit_compile=True),
}
_KERAS = {
    **_STOCK_KERAS,
    "keras_autocluster": _KerasPeer(clustered=True),
    "keras_jax": _KerasPeer(jax=True, jit_compile=True),
    "tf_keras": _KerasPeer(library="tf_keras"),
    "tf_keras_xla": _KerasPeer(library="tf_keras", jit_compile=True),
    "tf_keras_autocluster": _KerasPeer(library="tf_keras", clustered=True),
}
STOCK_KERAS = tuple(_STOCK_KERAS)
_TORCH, _TORCH_COMPILE = "torch", "torch_compile"
PEERS = (*_KERAS, _TORCH, _TORCH_COMPILE)
_OF_ONE_REPLICA = ("keras_best_xla", "tf_keras_xla", _TORCH, _TORCH_COMPILE)  # PyTorch would take other processes
_OURS_XLA, _OURS_NO_XLA, _OURS_DEVICE = "ours_xla", "ours_no_xla", "ours_device_input"
OUR_WAYS = (_OURS_XLA, _OURS_NO_XLA, _OURS_DEVICE)


def able(names: Sequence[str], config: StepConfig) -> list[str]:
    """Returns those of the contenders that can do what the flags ask for."""
    if config.replicas > 1:
        names = [name for name in names if name not in _OF_ONE_REPLICA]
    if config.mode == "forward":  # evaluation reads batches from the host
        names = [name for name in names if name != _OURS_DEVICE]
    return list(names)


def reads_files(name: str) -> bool:
    """Returns whether a contender reads image files from the folder that `step_contender` takes."""
    return name in _KERAS and _KERAS[name].from_files


def step_contender(name: str, config: StepConfig, folder: str) -> Contender:
    """Returns what is called `name`; `folder` is where image files are, for those that read them."""
    if name in (OURS, *OUR_WAYS):
        xla = {_OURS_XLA: "on", _OURS_NO_XLA: "off"}.get(name, config.xla)
        if name == _OURS_DEVICE:
            config = dataclasses.replace(config, input_mode="device")
        return ours(name, config, replicas=config.replicas, global_batch_size=config.global_batch_size, xla=xla)
    common = {
        "backbone": config.backbone, "image_size": config.image_size, "native_size": config.native_size,
        "images": whole_batches(config), "global_batch_size": config.global_batch_size, "augment": config.augment,
        "precision": config.precision, "mode": config.mode, "replicas": config.replicas,
    }  # fmt: skip
    environment = gpus_for(config.replicas)
    if name in (_TORCH, _TORCH_COMPILE):
        settings = {**common, "compile": name == _TORCH_COMPILE, "threads": usable_cores()}
        return Contender(
            name=name,
            module=f"{CONTENDERS}.torch_step",
            settings=(settings,),
            python=config.torch_python,
            environment=environment,
        )
    peer = _KERAS[name]
    settings = {
        **common, "library": peer.library, "jax": peer.jax, "jit_compile": peer.jit_compile,
        "clustered": peer.clustered, "folder": folder if peer.from_files else "",
        "augment_in_map": peer.augment_in_map,
    }  # fmt: skip
    environment |= peer.environment()
    return Contender(name=name, module=f"{CONTENDERS}.keras_step", settings=(settings,), environment=environment)


def ours(
    name: str, config: StepConfig, *, replicas: int, global_batch_size: int, xla: str, workers: Sequence[str] = ()
) -> Contender:
    """Returns our own step, in one process or in several workers."""
    fields = {
        "backbone": config.backbone, "weights": "none", "transfer": "scratch", "image_size": config.image_size,
        "global_batch_size": global_batch_size, "augment": config.augment, "precision": config.precision, "xla": xla,
        "input_mode": config.input_mode,
    }  # fmt: skip
    of_workers = [{"strategy": "multi_worker", "workers": workers, "worker_index": i} for i in range(len(workers))]
    settings = tuple(
        {
            "config": {**fields, **of_worker}, "replicas": replicas, "images": whole_batches(config),
            "native_size": config.native_size, "mode": config.mode,
        }
        for of_worker in of_workers or [{}]
    )  # fmt: skip
    return Contender(name=name, module=f"{CONTENDERS}.ours_step", settings=settings, environment=gpus_for(replicas))


def gpus_for(replicas: int) -> dict[str, str]:
    """Returns the environment that shows a process so many GPUs, where there is a driver."""
    if not replicas or not driver_version():
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(replicas))))
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[:replicas])}


def whole_batches(config: StepConfig) -> int:
    """Returns the number of images, less those of a last batch that would not be full."""
    return config.images - config.images % config.global_batch_size


def write_image_folder(folder: str, config: StepConfig) -> None:
    """Writes the random images as PNG files, `<class>/<number>.png`."""
    from PIL import Image

    images, labels = random_images(whole_batches(config), config.native_size)
    for label in np.unique(labels):
        os.makedirs(f"{folder}/{label}")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(f"{folder}/{label}/{index}.png")
