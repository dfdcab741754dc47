"""Starts contenders in processes of their own, and lets them work in turns."""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import psutil

import tl_distributed
from tl_distributed.errors import UserError

_IDLE_LOOK_SECONDS, _IDLE_SHARE, _IDLE_WAIT_SECONDS = 0.1, 0.15, 5.0  # the kernel counts by 0.01 s
_FAREWELL_SECONDS = 10.0
_LOG = logging.getLogger(__name__)
CONTENDERS = "tl_distributed.benchmarks.contenders"
EXTRA = "pip install -e .[bench]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """What is to be measured.

    Attributes:
      name: In the table.
      module: That makes it, see `benchmarks.child`.
      settings: Of its `start`, JSON values; one process is started for each.
      python: Interpreter.
      environment: Variables put over this process's own.
    """

    name: str
    module: str
    settings: tuple[dict[str, Any], ...]
    python: str = sys.executable
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Outcome:
    """What came of a contender.

    Attributes:
      contender: What was measured.
      status: measured, not measured, not installed, or failed.
      message: Where it was not measured: why.
      facts: What it says of itself.
      start_seconds: Imports and building.
      warm_up_seconds: Tracing and compiling.
      blocks: What it measured, a dictionary a turn.
      others_busy_share: Of a core, the most that the waiting contenders took in one of its turns.
    """

    contender: Contender
    status: str = "measured"
    message: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    start_seconds: float | None = None
    warm_up_seconds: float | None = None
    blocks: list[dict[str, float]] = dataclasses.field(default_factory=list)
    others_busy_share: float = 0.0

    def rates(self) -> list[float]:
        """Returns units done in a second, one value a turn."""
        return [block["done"] / block["seconds"] for block in self.blocks]


class _Lost(Exception):
    """A contender cannot go on; `status` and the message say why."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


class ContenderProcess:
    """The process, or the processes that work together, of one contender."""

    def __init__(self, contender: Contender):
        """Starts the processes; a context manager that ends them."""
        self._name = contender.name
        self._members = [_Member(contender, settings) for settings in contender.settings]

    def __enter__(self) -> "ContenderProcess":
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.end()

    def request(self, **request: Any) -> dict[str, Any]:
        """Sends a request to all and waits for their answers; returns the first one's, and the longest time."""
        for member in self._members:
            member.send(request)
        answers = [member.receive() for member in self._members]
        for answer in answers:
            if "mistake" in answer:
                raise UserError(f"{self._name}: {answer['mistake']}")
            if "not_installed" in answer:
                raise _Lost("not installed", f"{answer['not_installed']} is not installed: {EXTRA}")
            if "not_measured" in answer:
                raise _Lost("not measured", answer["not_measured"])
            if "failed" in answer:
                raise _Lost("failed", answer["failed"])
        return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}

    def cpu_seconds(self) -> float:
        """Returns the time that its processes have had on any core."""
        return sum(member.cpu_seconds() for member in self._members)


def child_environment(changes: dict[str, str]) -> dict[str, str]:
    """Returns this process's environment, in which a child finds this package, with some variables changed."""
    paths = [os.path.dirname(tl_distributed.__path__[0]), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path, **changes}


class _Member:
    def __init__(self, contender: Contender, settings: dict[str, Any]):
        environment = child_environment(contender.environment)
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by `end`
        try:
            self._process = subprocess.Popen(
                [contender.python, "-m", "tl_distributed.benchmarks.child", contender.module, json.dumps(settings)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"{contender.python}: cannot be run ({error.strerror}); name a Python") from None

    def send(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died; `receive` says so
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        words = [words.strip() for words in self._errors if words.strip()]
        return {"failed": f"its process ended with {code}: {words[-1][:200] if words else 'no last words'}"}

    def cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def end(self) -> None:
        """Closes its input, which ends it, and waits."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def take_turns(contenders: Sequence[Contender], *, repeats: int, amount: float) -> list[Outcome]:
    """Starts and warms up all contenders, then lets each do a block of work in turn, `repeats` times.

    Args:
      contenders: In the order of the turns.
      repeats: Turns of each.
      amount: Of work in a turn, in the contenders' own unit.

    Returns:
      One outcome a contender, in order.

    Raises:
      UserError: A setting that a contender refuses.
    """
    outcomes = [Outcome(contender) for contender in contenders]
    running: dict[int, ContenderProcess] = {}
    try:
        for index, outcome in enumerate(outcomes):
            _LOG.info("%s: starts", outcome.contender.name)
            process = ContenderProcess(outcome.contender)
            try:
                _prepare(process, outcome)
            except _Lost as lost:
                _give_up(outcome, lost, process)
                continue
            except BaseException:
                process.__exit__()
                raise
            running[index] = process
        for turn in range(repeats):
            for index, process in list(running.items()):
                waiting = [other for key, other in running.items() if key != index]
                try:
                    _one_turn(outcomes[index], process, waiting, amount)
                except _Lost as lost:
                    _give_up(outcomes[index], lost, running.pop(index))
                    continue
                log_turn(outcomes[index].contender.name, turn, repeats)
    finally:
        for process in running.values():
            process.__exit__()
    return outcomes


def log_turn(name: str, turn: int, repeats: int) -> None:
    _LOG.info("%s: turn %d of %d", name, turn + 1, repeats)


def _prepare(process: ContenderProcess, outcome: Outcome) -> None:
    answer = process.request(do="start")
    outcome.facts, outcome.start_seconds = answer["facts"], answer["seconds"]
    answer = process.request(do="warm_up")
    outcome.facts, outcome.warm_up_seconds = answer["facts"], answer["seconds"]


def _give_up(outcome: Outcome, lost: _Lost, process: ContenderProcess) -> None:
    outcome.status, outcome.message, outcome.blocks = lost.status, str(lost), []
    _LOG.info("%s: %s", outcome.contender.name, lost)
    process.__exit__()


def _one_turn(outcome: Outcome, process: ContenderProcess, waiting: list[ContenderProcess], amount: float) -> None:
    _wait_until_idle(waiting)
    before, start = _cpu_seconds(waiting), time.perf_counter()
    block = process.request(do="block", amount=amount)
    share = (_cpu_seconds(waiting) - before) / (time.perf_counter() - start)
    outcome.others_busy_share = max(outcome.others_busy_share, share)
    outcome.blocks.append(block)


def _wait_until_idle(waiting: list[ContenderProcess]) -> None:
    """Waits until prefetching and spinning threads of the others have come to rest."""
    deadline = time.perf_counter() + _IDLE_WAIT_SECONDS
    while time.perf_counter() < deadline:
        before = _cpu_seconds(waiting)
        time.sleep(_IDLE_LOOK_SECONDS)
        if _cpu_seconds(waiting) - before < _IDLE_SHARE * _IDLE_LOOK_SECONDS:
            return


def _cpu_seconds(processes: list[ContenderProcess]) -> float:
    return sum(process.cpu_seconds() for process in processes)
