"""`benchmark startup`: how long until something happens."""

import os
import tempfile
from collections.abc import Callable
from typing import Any

from tl_distributed.benchmarks.report import OURS, Layout, chosen, publish
from tl_distributed.benchmarks.settings import StartupConfig
from tl_distributed.benchmarks.stock_fit import FIRST_STEP
from tl_distributed.benchmarks.whole_processes import Command, run_module, seconds_until, take_turns_whole

_HELP, _OURS_XLA, _OURS_CACHED = "train --help", "ours_xla", "ours_xla_second_run"
_KERAS, _KERAS_NO_XLA = "keras_fit", "keras_fit_no_xla"
_STEPS = 4  # of an epoch of the synthetic set
_NUM_SHARDS = 2


def run_startup(config: StartupConfig, facts: dict[str, Any]) -> None:
    """Times `--help`, and whole processes from their start to the end of the first training step."""
    config.validate()
    names = chosen((_HELP, OURS, _KERAS, _KERAS_NO_XLA, _OURS_XLA, _OURS_CACHED), config.contenders)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = f"{folder}/data"
        images = _STEPS * config.global_batch_size
        run_module("tl_distributed.benchmarks.synthetic_shards", (data_dir, f"{images}", "32", f"{_NUM_SHARDS}"))
        cache = {
            "TF_XLA_FLAGS": f"{os.environ.get('TF_XLA_FLAGS', '')} --tf_xla_persistent_cache_directory={folder}/xla"
        }
        runs: dict[str, Callable[[], float]] = {
            _HELP: lambda: run_module("tl_distributed.train", ["--help"])[0],
            OURS: lambda: _first_step_of_train(config, data_dir, "auto", {}),
            _KERAS: lambda: _first_step_of_fit(config, data_dir, "auto"),
            _KERAS_NO_XLA: lambda: _first_step_of_fit(config, data_dir, "off"),
            _OURS_XLA: lambda: _first_step_of_train(config, data_dir, "on", {}),
            _OURS_CACHED: lambda: _first_step_of_train(config, data_dir, "on", cache),
        }
        if _OURS_CACHED in names:
            runs[_OURS_CACHED]()  # fills the cache
        commands = [Command(name=name, run=lambda name=name: {"seconds": runs[name]()}) for name in names]
        outcomes = take_turns_whole(commands, repeats=config.repeats)
        cached = (
            sum(file.stat().st_size for file in os.scandir(f"{folder}/xla")) if os.path.isdir(f"{folder}/xla") else 0
        )
    layout = Layout(
        title=f"startup: seconds to the end of --help, or of the first step of {config.backbone} at "
        f"{config.image_size} px, batch {config.global_batch_size}",
        unit="seconds", seconds=True, show_warm_up=False, bases=(OURS, _OURS_CACHED),
    )  # fmt: skip
    publish(outcomes, layout, facts, benchmark="startup", settings=config, xla_cache_bytes=cached)
    if _OURS_CACHED in names:
        print(f"XLA's persistent cache: {cached / 1e6:.1f} MB" + ("" if cached else "; nothing was written to it"))


def _first_step_of_train(config: StartupConfig, data_dir: str, xla: str, changes: dict[str, str]) -> float:
    """Runs `train` until its log has the row of step 1."""
    with tempfile.TemporaryDirectory() as workdir:
        metrics = f"{workdir}/metrics.jsonl"
        arguments = [
            *_common(config, data_dir), "--transfer=scratch", "--weights=none", f"--xla={xla}", "--augment=none",
            f"--workdir={workdir}", "--log_every_steps=1", "--steps_per_loop=1", "--resume=auto",
        ]  # fmt: skip
        reached = lambda _: os.path.exists(metrics) and os.path.getsize(metrics) > 0  # noqa: E731
        return seconds_until("tl_distributed.train", arguments, reached, changes)


def _first_step_of_fit(config: StartupConfig, data_dir: str, jit_compile: str) -> float:
    arguments = [
        *_common(config, data_dir), "--transfer=scratch", "--first_step_only", "--epochs=1",
        f"--jit_compile={jit_compile}",
    ]  # fmt: skip
    return seconds_until("tl_distributed.benchmarks.stock_fit", arguments, lambda printed: FIRST_STEP in printed)


def _common(config: StartupConfig, data_dir: str) -> list[str]:
    names = ("backbone", "image_size", "global_batch_size")
    return [f"--data_dir={data_dir}", *(f"--{name}={getattr(config, name)}" for name in names)]
