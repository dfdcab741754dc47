"""`benchmark scaling`: our step on more replicas and in more worker processes."""

import socket
from typing import Any

from tl_distributed.benchmarks.processes import Outcome, take_turns
from tl_distributed.benchmarks.report import Layout, chosen, publish
from tl_distributed.benchmarks.settings import ScalingConfig
from tl_distributed.benchmarks.step_contenders import ours
from tl_distributed.errors import UserError
from tl_distributed.reporting.spread import Spread
from tl_distributed.runtime.visible_gpus import driver_version


def run_scaling(config: ScalingConfig, facts: dict[str, Any]) -> None:
    """Measures each number of replicas and of workers, and what share of the ideal speed it reaches."""
    config.validate()
    if config.replicas:
        raise UserError("--replicas: scaling takes --replica_counts and --worker_counts")
    sizes = {f"{count}_replicas" if count > 1 else "1_replica": (count, 0) for count in config.replica_counts}
    sizes |= {f"{count}_workers": (1, count) for count in config.worker_counts}
    names = chosen(list(sizes), config.contenders)
    contenders = []
    for name in names:
        replicas, workers = sizes[name]
        total = max(replicas, workers)
        batch = config.global_batch_size * (total if config.per_replica else 1)
        if batch % total:
            raise UserError(f"--global_batch_size={batch} does not divide by {total} replicas")
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        contenders.append(
            ours(name, config, replicas=replicas, global_batch_size=batch, xla=config.xla, workers=addresses)
        )
    outcomes = take_turns(contenders, repeats=config.repeats, amount=config.steps)
    base = next((outcome for outcome in outcomes if outcome.contender.name == "1_replica" and outcome.blocks), None)
    shared = not driver_version()  # virtual devices and processes share the machine's cores: none is added

    def efficiency(outcome: Outcome) -> str:
        if base is None:
            return ""
        ideal = 1 if shared else outcome.facts["replicas"]
        return f"{100 * Spread.of(outcome.rates()).median / Spread.of(base.rates()).median / ideal:.0f} %"

    batch = "of a replica" if config.per_replica else "in all"
    layout = Layout(
        title=f"scaling: {config.backbone} at {config.image_size} px, batch {config.global_batch_size} {batch}; "
        + ("replicas share the same cores, so the ideal is the speed of one" if shared else "ideal: n times one"),
        unit="images/s", bases=("1_replica",), columns=[("of the ideal", efficiency)],
    )  # fmt: skip
    publish(outcomes, layout, facts, benchmark="scaling", settings=config)


def _free_ports(count: int) -> list[int]:
    """Returns ports that are free now, of which the one below the first is free too (the chief's control port)."""
    ports: list[int] = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1]
    while len(ports) < count:
        ports.append(first + 1 + 2 * len(ports))
    return ports
