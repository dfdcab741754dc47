"""`benchmark input`: reading training batches, building shards, and reading by size of the set."""

import contextlib
import os
import tempfile
from typing import Any

from tl_distributed.benchmarks.growth_plot import plot_growth
from tl_distributed.benchmarks.processes import CONTENDERS, Contender, Outcome, take_turns
from tl_distributed.benchmarks.report import Layout, chosen, number, publish
from tl_distributed.benchmarks.settings import InputConfig
from tl_distributed.benchmarks.whole_processes import run_module
from tl_distributed.data.machine import usable_cores
from tl_distributed.errors import UserError
from tl_distributed.reporting.spread import Spread

_DISK, _MEMORY = "ours_disk", "ours_memory"
_TFDS = ("tfds", "tfds_from_disk")
_PEERS = {"torch_dataloader": ("torch", True), "grain_threads": ("grain", False), "grain_processes": ("grain", True)}
_READERS = {
    _DISK: "disk", _MEMORY: "memory", "bare_tfrecords": "bare", "bare_tfrecords_parallel": "bare_parallel",
    "parse_then_shuffle": "idiom", "resize_on_cpu": "resize_on_cpu", "tfds": "tfds", "tfds_from_disk": "tfds_from_disk",
}  # fmt: skip
_DECODERS = {
    _DISK: "disk", _MEMORY: "memory", "decode_jpeg_alone": "decode_alone", "parse_then_shuffle": "idiom",
    "tfds_from_disk": "tfds_from_disk",
}  # fmt: skip
_BUILDERS = {"ours_1_writer": ("ours", 1), "ours_2_writers": ("ours", 2), "tfds_png": ("tfds_png", 1),
             "tfds_raw": ("tfds_raw", 1)}  # fmt: skip


def run_input(config: InputConfig, facts: dict[str, Any]) -> None:
    """Measures what `--what` says."""
    config.validate()
    {"read": _read, "build": _build, "growth": _grow}[config.what](config, facts)


def _read(config: InputConfig, facts: dict[str, Any]) -> None:
    readers = _READERS if config.storage == "pixels" else _DECODERS
    names = chosen((*readers, *_PEERS), config.contenders)
    with _folder(config) as folder:
        data_dir = _synthetic(folder, config.records, config)
        tfds_dir = _tfds(folder, config) if set(_TFDS) & set(names) else ""
        contenders = [
            _peer(name, folder, config) if name in _PEERS else _reader(name, readers[name], data_dir, tfds_dir, config)
            for name in names
        ]
        outcomes = take_turns(contenders, repeats=config.repeats, amount=config.seconds)
    layout = Layout(
        title=f"input: {config.records:,} images of {config.native_size} px, {config.storage}, shuffled each epoch, "
        f"batch {config.global_batch_size}",
        unit="images/s", bases=(_DISK, _MEMORY),
        columns=[("memory over base, MB", _memory_text), ("of the split's bytes", _memory_share)],
    )  # fmt: skip
    publish(outcomes, layout, facts, benchmark="input read", settings=config)


def _build(config: InputConfig, facts: dict[str, Any]) -> None:
    names = chosen(tuple(_BUILDERS), config.contenders)
    with _folder(config) as folder:
        contenders = []
        for name in names:
            kind, writers = _BUILDERS[name]
            settings = {
                "kind": kind, "writers": writers, "records": config.records, "native_size": config.native_size,
                "num_shards": config.num_shards, "folder": folder,
            }  # fmt: skip
            contenders.append(Contender(name=name, module=f"{CONTENDERS}.building", settings=(settings,)))
        outcomes = take_turns(contenders, repeats=config.repeats, amount=1)
    layout = Layout(
        title=f"build: {config.records:,} images of {config.native_size} px in memory to finished shards",
        unit="images/s", bases=("ours_1_writer", "ours_2_writers"),
    )  # fmt: skip
    publish(outcomes, layout, facts, benchmark="input build", settings=config)


def _grow(config: InputConfig, facts: dict[str, Any]) -> None:
    if config.contenders:
        raise UserError("--contenders: --what=growth has one, our disk mode")
    with _folder(config) as folder:
        contenders = []
        for records in config.growth_records:
            data_dir = _synthetic(folder, records, config)
            contenders.append(_reader(f"{records:,} records", "disk", data_dir, "", config))
        outcomes = take_turns(contenders, repeats=config.repeats, amount=config.seconds)
    layout = Layout(
        title=f"growth: disk mode, images of {config.native_size} px, batch {config.global_batch_size}",
        unit="images/s", bases=(contenders[0].name,),
        columns=[("microseconds an image", _microseconds), ("memory over base, MB", _memory_text)],
    )  # fmt: skip
    publish(outcomes, layout, facts, benchmark="input growth", settings=config)
    if config.plot:
        measured = [outcome for outcome in outcomes if outcome.blocks]
        plot_growth(
            config.plot,
            [outcome.facts["examples"] for outcome in measured],
            [[1e6 / rate for rate in outcome.rates()] for outcome in measured],
            [_over_base(outcome) / 1e6 for outcome in measured],
        )
        print(f"Plot: {config.plot}")


def _reader(name: str, kind: str, data_dir: str, tfds_dir: str, config: InputConfig) -> Contender:
    settings = {
        "kind": kind, "data_dir": data_dir, "tfds_dir": tfds_dir, "global_batch_size": config.global_batch_size,
        "image_size": config.image_size,
    }  # fmt: skip
    return Contender(name=name, module=f"{CONTENDERS}.reading", settings=(settings,))


def _peer(name: str, folder: str, config: InputConfig) -> Contender:
    kind, in_processes = _PEERS[name]
    place = f"{folder}/{kind}_{config.records}_of_{config.native_size}"
    os.makedirs(place, exist_ok=True)
    settings = {
        "kind": kind, "storage": config.storage, "records": config.records, "native_size": config.native_size,
        "global_batch_size": config.global_batch_size, "workers": usable_cores() if in_processes else 0,
        "folder": place,
    }  # fmt: skip
    python = {"torch": config.torch_python, "grain": config.grain_python}[kind]
    return Contender(name=name, module=f"{CONTENDERS}.peer_reading", settings=(settings,), python=python)


def _folder(config: InputConfig) -> Any:
    if not config.folder:
        return tempfile.TemporaryDirectory()
    os.makedirs(config.folder, exist_ok=True)
    return contextlib.nullcontext(config.folder)


def _synthetic(folder: str, records: int, config: InputConfig) -> str:
    """Builds shards of random images where they are not there yet; returns their folder."""
    data_dir = f"{folder}/{records}_of_{config.native_size}_{config.storage}_in_{config.num_shards}"
    if not os.path.exists(f"{data_dir}/dataset.json"):
        arguments = (data_dir, records, config.native_size, config.num_shards, config.storage)
        run_module("tl_distributed.benchmarks.synthetic_shards", [str(value) for value in arguments])
    return data_dir


def _tfds(folder: str, config: InputConfig) -> str:
    encoding = "png" if config.storage == "pixels" else "jpeg"
    data_dir = f"{folder}/tfds_{config.records}_of_{config.native_size}_{encoding}"
    arguments = (data_dir, config.records, config.native_size, encoding)
    run_module("tl_distributed.benchmarks.tfds_builder", [str(value) for value in arguments])
    return data_dir


def _over_base(outcome: Outcome) -> float:
    return Spread.of([block["peak_bytes"] for block in outcome.blocks]).high - outcome.facts["base_bytes"]


def _held(outcome: Outcome) -> float:
    return Spread.of([block["resident_bytes"] for block in outcome.blocks]).median - outcome.facts["base_bytes"]


def _memory_text(outcome: Outcome) -> str:
    return f"{_held(outcome) / 1e6:,.0f}, at most {_over_base(outcome) / 1e6:,.0f}"


def _memory_share(outcome: Outcome) -> str:
    split = outcome.facts["split_bytes"]
    return f"{_held(outcome) / split:.2f}, at most {_over_base(outcome) / split:.2f}"


def _microseconds(outcome: Outcome) -> str:
    return number(1e6 / Spread.of(outcome.rates()).median)
