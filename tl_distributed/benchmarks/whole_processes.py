"""Commands timed as whole processes, from their start, in turns."""

import dataclasses
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tl_distributed.benchmarks.processes import Contender, Outcome, child_environment, log_turn
from tl_distributed.errors import UserError

_POLL_SECONDS = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of this Python.

    Attributes:
      name: In the table.
      run: Runs it once; returns at least `seconds`.
    """

    name: str
    run: Callable[[], dict[str, float]]


def take_turns_whole(commands: Sequence[Command], *, repeats: int) -> list[Outcome]:
    """Runs each command in turn, `repeats` times; raises `UserError` where one fails."""
    outcomes = [Outcome(Contender(name=command.name, module="", settings=())) for command in commands]
    for turn in range(repeats):
        for command, outcome in zip(commands, outcomes, strict=True):
            outcome.blocks.append({"done": 1, **command.run()})
            log_turn(command.name, turn, repeats)
    return outcomes


def run_module(module: str, arguments: Sequence[str], changes: dict[str, str] | None = None) -> tuple[float, str]:
    """Runs `python -m module arguments` to its end; returns (seconds, what it printed).

    Raises:
      UserError: It failed; its last words are in the message.
    """
    command = [sys.executable, "-m", module, *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, env=child_environment(changes or {}), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise _failure(module, done.returncode, done.stderr)
    return seconds, done.stdout


def seconds_until(
    module: str, arguments: Sequence[str], is_reached: Callable[[str], bool], changes: dict[str, str] | None = None
) -> float:
    """Returns the time from the start of `python -m module arguments` to a point of it, and ends it there.

    Args:
      module: To run.
      arguments: Of it.
      is_reached: Told all that it has printed so far; asked again and again.
      changes: Of the environment.

    Raises:
      UserError: It ended before.
    """
    command = [sys.executable, "-m", module, *arguments]
    printed = ""
    with tempfile.TemporaryFile("w+", errors="replace") as errors, selectors.DefaultSelector() as selector:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=child_environment(changes or {}), stdout=subprocess.PIPE, stderr=errors)
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while not is_reached(printed):
                if selector.select(_POLL_SECONDS):
                    content = os.read(process.stdout.fileno(), 65536)
                    printed += content.decode(errors="replace")
                    if not content and not is_reached(printed):
                        code = process.wait()
                        errors.seek(0)
                        raise _failure(module, code, errors.read())
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _failure(module: str, code: int, words: str) -> UserError:
    last = words.strip().splitlines() or ["no last words"]
    return UserError(f"python -m {module} ended with exit code {code}: {last[-1].removeprefix('error: ')}")
