"""`benchmark step`, `peers` and `scaling`: images a second of the training step, ours and others'."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_distributed.benchmarks.processes import CONTENDERS, Contender, Outcome, take_turns
from tl_distributed.benchmarks.random_images import random_images
from tl_distributed.benchmarks.report import OURS, Column, Layout, chosen, number, publish, values_of
from tl_distributed.benchmarks.settings import StepConfig
from tl_distributed.data.machine import usable_cores
from tl_distributed.diagnosis.gpus import driver_version
from tl_distributed.models.backbones import get_backbone
from tl_distributed.reporting.spread import Spread

PEAK = "matmul"
_OPERATIONS_OF_MAC = {"train": 6, "forward": 2}  # the backward pass is two products for each of the forward one
KERAS_TUTORIAL, KERAS_TUTORIAL_MAP = "keras_tutorial", "keras_tutorial_map"
KERAS_BEST, KERAS_XLA = "keras_best", "keras_best_xla"
TORCH, TORCH_COMPILE = "torch", "torch_compile"
_KERAS = (KERAS_TUTORIAL, KERAS_TUTORIAL_MAP, KERAS_BEST, KERAS_XLA)
_OF_STEP = (OURS, *_KERAS, TORCH, TORCH_COMPILE)
_OURS_XLA, _OURS_NO_XLA, _OURS_DEVICE = "ours_xla", "ours_no_xla", "ours_device_input"


def run_step(config: StepConfig, facts: dict[str, Any]) -> None:
    """Measures the step against stock Keras and PyTorch."""
    _run(config, facts, _OF_STEP, "step")


def run_peers(config: StepConfig, facts: dict[str, Any]) -> None:
    """Measures every way of taking a step: ours with XLA on, with XLA off and with the images on the device too."""
    _run(config, facts, (OURS, _OURS_XLA, _OURS_NO_XLA, _OURS_DEVICE, *_OF_STEP[1:]), "peers")


def _run(config: StepConfig, facts: dict[str, Any], names: Sequence[str], benchmark: str) -> None:
    config.validate()
    if config.replicas > 1:  # PyTorch would take other processes, and Keras has no XLA there
        names = [name for name in names if name not in (TORCH, TORCH_COMPILE, KERAS_XLA)]
    if config.mode == "forward":  # evaluation reads batches from the host
        names = [name for name in names if name != _OURS_DEVICE]
    names = chosen(names, config.contenders)
    with contextlib.ExitStack() as stack:
        needs_files = {KERAS_TUTORIAL, KERAS_TUTORIAL_MAP} & set(names)
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if needs_files else ""
        if folder:
            write_image_folder(folder, config)
        contenders = [_contender(name, config, folder) for name in names]
        contenders.append(
            Contender(name=PEAK, module=f"{CONTENDERS}.matmul", settings=({"precision": config.precision},))
        )
        *outcomes, peak = take_turns(contenders, repeats=config.repeats, amount=config.steps)
    show_steps(outcomes, peak, config, facts, benchmark)


def show_steps(
    outcomes: list[Outcome], peak: Outcome, config: StepConfig, facts: dict[str, Any], benchmark: str
) -> None:
    """Prints and writes what was measured."""
    precision = next((outcome.facts["precision"] for outcome in outcomes if outcome.blocks), config.precision)
    layout = Layout(
        title=f"{benchmark}: {config.backbone} at {config.image_size} px, global batch {config.global_batch_size}, "
        f"{precision}, {config.mode}; {config.steps} steps a turn",
        unit="images/s",
        columns=_columns(config, outcomes, peak),
    )
    best, pairs = best_stock_keras(outcomes)
    publish(
        outcomes, layout, facts, benchmark=benchmark, settings=config,
        teraflops=_all_teraflops(config, outcomes), matmul_teraflops=peak.rates(),
        best_stock_keras={"name": best, "times_as_fast": pairs},
    )  # fmt: skip
    if best:
        spread = Spread.of(pairs)
        times = f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"
        print(f"ours is {times} times as fast as {best}, the best stock Keras")
    if peak.blocks:
        print(f"Matrix products: {number(Spread.of(peak.rates()).median)} TFLOP/s {peak.facts['dtype']}")


def best_stock_keras(outcomes: Sequence[Outcome]) -> tuple[str | None, list[float]]:
    """Returns the stock Keras contender of the highest median, and how many times as fast ours is, turn by turn."""
    measured = {outcome.contender.name: outcome.rates() for outcome in outcomes if outcome.blocks}
    stock = [name for name in _KERAS if name in measured]
    if OURS not in measured or not stock:
        return None, []
    best = max(stock, key=lambda name: Spread.of(measured[name]).median)
    return best, [ours / other for ours, other in zip(measured[OURS], measured[best], strict=True)]


def _columns(config: StepConfig, outcomes: Sequence[Outcome], peak: Outcome) -> list[Column]:
    teraflops = _all_teraflops(config, outcomes)

    def share(outcome: Outcome) -> str:
        if not peak.blocks:
            return ""
        return f"{100 * teraflops[outcome.contender.name] / Spread.of(peak.rates()).median:.0f} %"

    def milliseconds(outcome: Outcome) -> str:
        return number(1e3 * config.global_batch_size / Spread.of(outcome.rates()).median)

    return [
        ("ms a step", milliseconds),
        ("TFLOP/s", lambda outcome: f"{teraflops[outcome.contender.name]:.3g}"),
        ("of matmul", share),
        ("bytes to device an image", lambda outcome: f"{outcome.facts['bytes_to_device_per_image']:,}"),
    ]


def _all_teraflops(config: StepConfig, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Returns 10^12 operations a second of each contender, by the multiply-accumulates of the table.

    The table's count holds at the backbone's own size; a convolution's goes with the area.
    """
    backbone = get_backbone(config.backbone)
    macs = backbone.gmacs * 1e9 * (config.image_size / backbone.default_size) ** 2
    operations = macs * _OPERATIONS_OF_MAC[config.mode]
    return {
        outcome.contender.name: Spread.of(values_of(outcome, seconds=False)).median * operations / 1e12
        for outcome in outcomes
        if outcome.blocks
    }


def _contender(name: str, config: StepConfig, folder: str) -> Contender:
    if name in (OURS, _OURS_XLA, _OURS_NO_XLA, _OURS_DEVICE):
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
    if name in (TORCH, TORCH_COMPILE):
        settings = {**common, "compile": name == TORCH_COMPILE, "threads": usable_cores()}
        return Contender(
            name=name,
            module=f"{CONTENDERS}.torch_step",
            settings=(settings,),
            python=config.torch_python,
            environment=environment,
        )
    settings = {
        **common,
        "folder": "" if name in (KERAS_BEST, KERAS_XLA) else folder,
        "augment_in_map": name == KERAS_TUTORIAL_MAP,
        "jit_compile": {KERAS_BEST: False, KERAS_XLA: True}.get(name, "auto"),
    }
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
