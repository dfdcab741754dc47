"""The two forms of a measurement: a table to read, and JSON with every single value."""

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import tl_distributed
from tl_distributed.benchmarks.processes import Outcome
from tl_distributed.data.machine import cpu_quota, usable_cores
from tl_distributed.errors import UserError
from tl_distributed.files import write_json
from tl_distributed.reporting.spread import Spread
from tl_distributed.settings.command import import_tensorflow

_BUSY_SHARE = 0.05  # of a core, above which contenders that wait are said to have disturbed the one at work
_PACKAGES = ("tensorflow", "keras", "tf_keras", "jax", "tensorflow-datasets", "numpy", "torch", "timm")
OURS = "ours"

Column = tuple[str, Callable[[Outcome], str]]


def check_output(output: str) -> None:
    """Raises `UserError`, before anything is measured, where the report could not be written."""
    if output and "://" not in output and not os.path.isdir(os.path.dirname(output) or "."):
        raise UserError(f"--output={output}: no such folder; create it, or name a file in another")


def chosen(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Returns the names that `--contenders` asks for, in the order of the table.

    Raises:
      UserError: One that there is not.
    """
    for name in wanted:
        if name not in names:
            raise UserError(f"--contenders={name}: here there are {', '.join(names)}")
    return [name for name in names if not wanted or name in wanted]


def machine() -> dict[str, Any]:
    """Returns versions, hardware and the load that there is before anything is measured."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    folder = tl_distributed.__path__[0]
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "tl_distributed": tl_distributed.__version__,
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "packages": versions,
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "load_at_start": os.getloadavg()[0],
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe_machine(facts: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Returns the line under the table that names versions and hardware."""
    used = {**facts["packages"]}
    for outcome in outcomes:
        used.update(outcome.facts.get("versions", {}))
    versions = ", ".join(f"{name} {version}" for name, version in used.items() if version)
    devices = dict.fromkeys(outcome.facts["device"] for outcome in outcomes if "device" in outcome.facts)
    hardware = f"{facts['processor']}, {facts['usable_cores']} cores; {', '.join(devices) or 'CPU'}"
    commit = (facts["commit"] or "unknown")[:9]
    return (
        f"{hardware}; Python {facts['python']}, {versions}; commit {commit}; load at start {facts['load_at_start']:.2f}"
    )


def values_of(outcome: Outcome, *, seconds: bool) -> list[float]:
    """Returns one value a turn: seconds, or units a second."""
    return [block["seconds"] for block in outcome.blocks] if seconds else outcome.rates()


def ratios(outcomes: Sequence[Outcome], *, seconds: bool, bases: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Returns, for each base and each other contender, how many times as fast as it the base is, turn by turn."""
    measured = {outcome.contender.name: values_of(outcome, seconds=seconds) for outcome in outcomes if outcome.blocks}
    return {
        base: {
            name: times_as_fast(measured[base], values, higher_is_better=not seconds)
            for name, values in measured.items()
            if name != base
        }
        for base in bases
        if base in measured
    }


def text_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns aligned lines: the first column to the left, the others to the right."""
    table = [list(headers), *map(list, rows)]
    full = [row for row in table if len(row) == len(headers)]  # else a name and a message
    widths = [max(len(row[column]) for row in full) for column in range(len(headers))]
    widths[0] = max(len(row[0]) for row in table)
    lines = [title, ""]
    for number, row in enumerate(table):
        if len(row) != len(headers):
            lines.append(f"{row[0]:{widths[0]}}  {row[1]}")
            continue
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:{widths[0]}}"
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def spread_text(values: Sequence[float], digits: int = 3) -> str:
    """Returns e.g. `52.1 (50.3-53)`."""
    spread = Spread.of(values)
    return f"{number(spread.median, digits)} ({number(spread.low, digits)}-{number(spread.high, digits)})"


def number(value: float, digits: int = 3) -> str:
    """Returns a number with so many significant digits, thousands apart, never in powers of ten above 0.001."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table shows.

    Attributes:
      title: First line.
      unit: Of the main column: units a second, or seconds.
      columns: Further ones, (heading, text of an outcome).
      seconds: Whether the main column is seconds a turn, where less is better, instead of a rate.
      bases: Contenders whose speed the others are compared with.
      show_warm_up: Whether start and warm-up seconds are shown.
    """

    title: str
    unit: str
    columns: Sequence[Column] = ()
    seconds: bool = False
    bases: Sequence[str] = (OURS,)
    show_warm_up: bool = True


def show(outcomes: Sequence[Outcome], layout: Layout, facts: dict[str, Any]) -> str:
    """Returns the table with a line on the machine, and a warning where contenders disturbed one another."""
    compared = ratios(outcomes, seconds=layout.seconds, bases=layout.bases)
    headers = ["contender", layout.unit, *(f"{base} is, times as fast" for base in compared)]
    headers += [heading for heading, _ in layout.columns]
    headers += ["start s", "warm-up s"] * layout.show_warm_up
    rows = []
    for outcome in outcomes:
        name = outcome.contender.name
        if not outcome.blocks:
            rows.append([name, f"{outcome.status}: {outcome.message}"])
            continue
        row = [name, spread_text(values_of(outcome, seconds=layout.seconds))]
        row += [spread_text(of_base[name]) if name in of_base else "" for of_base in compared.values()]
        row += [text(outcome) for _, text in layout.columns]
        if layout.show_warm_up:
            row += [f"{outcome.start_seconds:.1f}", f"{outcome.warm_up_seconds:.1f}"]
        rows.append(row)
    turns = max((len(outcome.blocks) for outcome in outcomes), default=0)
    lines = [text_table(layout.title, headers, rows), ""]
    lines.append(f"Median (lowest-highest) of {turns} turns, one contender after the other; compiling apart.")
    disturbed = [outcome.contender.name for outcome in outcomes if outcome.others_busy_share > _BUSY_SHARE]
    if disturbed:
        lines.append(f"Warning: contenders that waited took CPU time in the turns of {', '.join(disturbed)}.")
    return "\n".join([*lines, describe_machine(facts, outcomes)])


def as_json(
    outcomes: Sequence[Outcome], layout: Layout, facts: dict[str, Any], *, benchmark: str, settings: Any, **more: Any
) -> dict[str, Any]:
    """Returns the report with every single measurement; JSON values."""
    compared = ratios(outcomes, seconds=layout.seconds, bases=layout.bases)
    return {
        "benchmark": benchmark,
        "settings": dataclasses.asdict(settings),
        "machine": facts,
        "unit": layout.unit,
        "contenders": [_outcome_json(outcome, layout.seconds) for outcome in outcomes],
        "times_as_fast": {
            base: {name: {"turns": values, **_range(values)} for name, values in others.items()}
            for base, others in compared.items()
        },
        **more,
    }


def _outcome_json(outcome: Outcome, seconds: bool) -> dict[str, Any]:
    entry = {
        "name": outcome.contender.name,
        "status": outcome.status,
        "message": outcome.message,
        "facts": outcome.facts,
    }
    if not outcome.blocks:
        return entry
    return entry | {
        "start_seconds": outcome.start_seconds,
        "warm_up_seconds": outcome.warm_up_seconds,
        "turns": outcome.blocks,
        **_range(values_of(outcome, seconds=seconds)),
        "others_busy_share": outcome.others_busy_share,
    }


def publish(
    outcomes: Sequence[Outcome], layout: Layout, facts: dict[str, Any], *, benchmark: str, settings: Any, **more: Any
) -> None:
    """Prints the table, and writes the JSON file that `settings.output` names."""
    import_tensorflow()  # not before all is measured
    facts = {**facts, "cgroup_cores": cpu_quota()}
    print(show(outcomes, layout, facts), flush=True)
    if settings.output:
        report = as_json(outcomes, layout, facts, benchmark=benchmark, settings=settings, **more)
        write_json(settings.output, report)
        print(f"Every measurement: {settings.output}")


def times_as_fast(ours: Sequence[float], peer: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """Returns how many times as fast the first is, turn by turn.

    The two took turns, so what slowed the machine for a while slowed both of a pair, and leaves their ratio alone.

    Args:
      ours: One value a turn: a rate, or seconds.
      peer: Of the same turns.
      higher_is_better: Whether the values are rates.
    """
    pairs = list(zip(ours, peer, strict=True))
    return [mine / other if higher_is_better else other / mine for mine, other in pairs]


def _range(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {"median": spread.median, "low": spread.low, "high": spread.high}
