"""`benchmark step` and `peers`: images a second of the training step, ours and others'."""

import contextlib
import tempfile
from collections.abc import Sequence
from typing import Any

from tl_distributed.benchmarks.processes import CONTENDERS, Contender, Outcome, take_turns
from tl_distributed.benchmarks.report import (
    OURS,
    Column,
    Layout,
    chosen,
    number,
    publish,
    spread_text,
    times_as_fast,
    values_of,
)
from tl_distributed.benchmarks.settings import StepConfig
from tl_distributed.benchmarks.step_contenders import (
    OUR_WAYS,
    PEERS,
    STOCK_KERAS,
    able,
    reads_files,
    step_contender,
    write_image_folder,
)
from tl_distributed.models.backbones import get_backbone
from tl_distributed.reporting.spread import Spread

PEAK = "matmul"
_OPERATIONS_OF_MAC = {"train": 6, "forward": 2}  # the backward pass is two products for each of the forward one


def run_step(config: StepConfig, facts: dict[str, Any]) -> None:
    """Measures the step against all peers."""
    _run(config, facts, (OURS, *PEERS), "step")


def run_peers(config: StepConfig, facts: dict[str, Any]) -> None:
    """Measures every way of taking a step: ours with XLA on, with XLA off and with the images on the device too."""
    _run(config, facts, (OURS, *OUR_WAYS, *PEERS), "peers")


def _run(config: StepConfig, facts: dict[str, Any], names: Sequence[str], benchmark: str) -> None:
    config.validate()
    names = chosen(able(names, config), config.contenders)
    with contextlib.ExitStack() as stack:
        folder = ""
        if any(reads_files(name) for name in names):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            write_image_folder(folder, config)
        contenders = [step_contender(name, config, folder) for name in names]
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
    fastest_of = {"the fastest peer": fastest(outcomes, PEERS), "the best stock Keras": fastest(outcomes, STOCK_KERAS)}
    peer, stock = fastest_of.values()
    publish(
        outcomes, layout, facts, benchmark=benchmark, settings=config,
        teraflops=_all_teraflops(config, outcomes), matmul_teraflops=peak.rates(),
        fastest_peer={"name": peer[0], "times_as_fast": peer[1]},
        best_stock_keras={"name": stock[0], "times_as_fast": stock[1]},
    )  # fmt: skip
    for what, (name, pairs) in fastest_of.items():
        if name:
            print(f"ours is {spread_text(pairs)} times as fast as {name}, {what}")
    if peak.blocks:
        print(f"Matrix products: {number(Spread.of(peak.rates()).median)} TFLOP/s {peak.facts['dtype']}")


def fastest(outcomes: Sequence[Outcome], names: Sequence[str]) -> tuple[str | None, list[float]]:
    """Returns which of the names has the highest median, and how many times as fast ours is, turn by turn."""
    measured = {outcome.contender.name: outcome.rates() for outcome in outcomes if outcome.blocks}
    others = [name for name in names if name in measured]
    if OURS not in measured or not others:
        return None, []
    best = max(others, key=lambda name: Spread.of(measured[name]).median)
    return best, times_as_fast(measured[OURS], measured[best], higher_is_better=True)


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
