"""Runs the checks in a process of its own, so that a crash or a hang of one does not take the others along.

Drivers, NCCL and XLA abort the process or wait for ever where something is wrong with them, and no exception tells.
The process that is left notes which check it was, and goes on with the rest in a fresh one.
"""

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection

from tl_distributed.diagnosis.checks import Check, Subject, run_check
from tl_distributed.diagnosis.report import Finding
from tl_distributed.diagnosis.settings import DoctorConfig

_LOG = logging.getLogger(__name__)

_LAST_WORDS_LINES = 20
_OWN_ERROR = "error: "
_STACK_SECONDS = 1.0  # that a hanging process gets to write where it hangs
_FAREWELL_SECONDS = 10.0


def examine(config: DoctorConfig, checks: Sequence[Check], *, check_seconds: float) -> list[Finding]:
    """Makes every check, and returns all findings in the order of the checks.

    Args:
      config: Validated.
      checks: With unique names; their functions must be importable by a new process.
      check_seconds: Limit of each check, the start of the process included; of a check that is not `limited`, none.
    """
    found: dict[str, list[Finding]] = {}
    died: set[str] = set()
    while remaining := [check for check in checks if check.name not in found]:
        failed = _examine_until_death(config, remaining, died, found, check_seconds)
        if failed is not None:
            died.add(failed.name)
    return [finding for check in checks for finding in found[check.name]]


def _examine_until_death(
    config: DoctorConfig, checks: Sequence[Check], died: set[str], found: dict[str, list[Finding]], check_seconds: float
) -> Check | None:
    """Fills `found`; returns the check in which the process died or was ended, if there is one."""
    context = multiprocessing.get_context("spawn")  # a forked TensorFlow hangs
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(suffix=".stderr") as errors, receiver:
        process = context.Process(
            target=_run_checks, args=(config, checks, frozenset(died), sender, errors.name), daemon=True
        )
        process.start()
        sender.close()  # so that the end of the process is the end of the pipe
        for check in checks:
            _LOG.info("%s", check.name)
            try:
                if not receiver.poll(check_seconds if check.limited else None):
                    _end_hanging(process)
                    reason = f"no end after {check_seconds:g} s (--check_seconds)"
                    found[check.name] = [_death(check, reason, errors.name)]
                    return check
                found[check.name] = receiver.recv()
            except EOFError:
                process.join(_FAREWELL_SECONDS)
                found[check.name] = [_death(check, _cause(process.exitcode), errors.name)]
                return check
        process.join(check_seconds)  # it waits for slower workers
        if process.is_alive():
            process.kill()
    return None


def _run_checks(
    config: DoctorConfig, checks: Sequence[Check], died: frozenset[str], sender: Connection, errors_path: str
) -> None:
    """The process of its own: sends the findings of each check."""
    errors = os.open(errors_path, os.O_WRONLY | os.O_APPEND)
    os.dup2(errors, 2)  # C++ libraries write there, past sys.stderr
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # why no GPU was found is a warning; nothing of it reaches the terminal
    subject = Subject(config, died=died, chatter=lambda: _lines(errors_path))
    for check in checks:
        sender.send(run_check(check, subject))
    subject.leave()
    os._exit(0)  # all is sent: what the libraries do on the way out is no finding


def _end_hanging(process: multiprocessing.process.BaseProcess) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGUSR1)
    process.join(_STACK_SECONDS)
    process.kill()
    process.join()


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        number = signal.Signals(-exit_code)
        hint = ", as the system does to processes when memory runs out" if number == signal.SIGKILL else ""
        return f"the process died of {number.name}{hint}"
    return f"the process ended with exit code {exit_code}"


def _death(check: Check, reason: str, errors_path: str) -> Finding:
    words = _lines(errors_path)[-_LAST_WORDS_LINES:]
    if words and words[-1].startswith(_OWN_ERROR):  # a process that ended itself said why
        reason = f"{words[-1].removeprefix(_OWN_ERROR)} ({reason})"
    return check.failure(reason, detail=words)


def _lines(path: str) -> list[str]:
    with open(path, errors="replace") as file:
        return [line.rstrip() for line in file if line.strip()]
