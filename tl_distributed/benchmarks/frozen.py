"""`benchmark frozen`: frozen and partly frozen training through the feature bank, beside stock `fit`.

Both sides train the same layers for the same epochs on the same images with the same batch, validate after every
epoch, keep the best and score the test split; both are timed as whole processes, from start to results, so that
imports, compilation and the building of the bank count; the two take turns.
"""

import json
import tempfile
from typing import Any

from tl_distributed.benchmarks.report import Layout, chosen, publish
from tl_distributed.benchmarks.settings import FrozenConfig
from tl_distributed.benchmarks.whole_processes import Command, run_module, take_turns_whole
from tl_distributed.reporting.spread import Spread

_RATES = {"frozen": 1e-3, "partial": 1e-4}


def run_frozen(config: FrozenConfig, facts: dict[str, Any]) -> None:
    """Times whole runs of both sides."""
    config.validate()
    commands, bases = [], []
    for transfer in config.transfers:
        ours, stock = f"ours_{transfer}", f"keras_fit_{transfer}"
        bases.append(ours)
        commands += [
            Command(name=ours, run=lambda transfer=transfer: _ours(config, transfer)),
            Command(name=stock, run=lambda transfer=transfer: _stock(config, transfer)),
        ]
    names = chosen([command.name for command in commands], config.contenders)
    outcomes = take_turns_whole([command for command in commands if command.name in names], repeats=config.repeats)
    layout = Layout(
        title=f"frozen: {config.backbone} at {config.image_size} px, {config.epochs} epochs of {config.data_dir}, "
        f"batch {config.global_batch_size}; whole processes",
        unit="seconds", seconds=True, show_warm_up=False, bases=bases,
        columns=[("test accuracy", lambda outcome: f"{_accuracy(outcome.blocks):.1%}")],
    )  # fmt: skip
    publish(outcomes, layout, facts, benchmark="frozen", settings=config)


def _accuracy(blocks: list[dict[str, float]]) -> float:
    return Spread.of([block["test_accuracy"] for block in blocks]).median


def _ours(config: FrozenConfig, transfer: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        workdir = f"{folder}/run"
        arguments = [
            "--augment=none", "--feature_bank=on", f"--transfer={transfer}", f"--workdir={workdir}",
            f"--finetune_learning_rate={_RATES[transfer]}", f"--learning_rate={_RATES[transfer]}", *_common(config),
        ]  # fmt: skip
        if transfer == "partial":
            as_fit_does = ["--batch_norm=train", "--finetune_warmup_fraction=0"]
            arguments += [f"--unfreeze_last_layers={config.unfreeze_last_layers}", *as_fit_does]
        seconds, _ = run_module("tl_distributed.train", arguments)
        with open(f"{workdir}/results.json") as file:
            return {"seconds": seconds, "test_accuracy": json.load(file)["test_accuracy"]}


def _stock(config: FrozenConfig, transfer: str) -> dict[str, float]:
    arguments = [
        f"--transfer={transfer}", f"--unfreeze_last_layers={config.unfreeze_last_layers}",
        f"--learning_rate={_RATES[transfer]}", *_common(config),
    ]  # fmt: skip
    seconds, printed = run_module("tl_distributed.benchmarks.stock_fit", arguments)
    return {"seconds": seconds, "test_accuracy": json.loads(printed.splitlines()[-1])["test_accuracy"]}


def _common(config: FrozenConfig) -> list[str]:
    names = ("data_dir", "backbone", "weights", "image_size", "epochs", "global_batch_size")
    return [f"--{name}={getattr(config, name)}" for name in names]
