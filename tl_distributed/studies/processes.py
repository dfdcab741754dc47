"""Commands in processes of their own, which end with the process that started them."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import tl_distributed
from tl_distributed.data.machine import RUNS_ON_NODE
from tl_distributed.studies.devices import VISIBLE, WHOLE, Device, confine

_POLL_SECONDS = 1.0
_STOP_SECONDS = 120.0  # for the checkpoint of a run that is told to stop
# Exit codes of a command that was told to stop.
STOPPED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}


def run_in_process(
    module: str,
    arguments: Sequence[str],
    log: pathlib.Path,
    while_waiting: Callable[[], None],
    *,
    device: Device = WHOLE,
) -> int:
    """Runs `python -m module` in a process of its own; returns its exit code, negative for a signal.

    Whatever ends this process ends the other too, which is told by SIGUSR1: a training then writes a checkpoint.

    Args:
      module: Of the command.
      arguments: Of the command.
      log: File for what it prints.
      while_waiting: Called about every second.
      device: What of the node it uses.
    """
    root = str(pathlib.Path(tl_distributed.__path__[0]).parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tl_distributed.studies.child", module, *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    if device.gpu:
        environment[VISIBLE] = device.gpu
    if device.runs > 1:
        environment[RUNS_ON_NODE] = str(device.runs)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone: a second signal would end the other at once
        )
        confine(process.pid, device)
        try:
            while True:
                try:
                    return process.wait(timeout=_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    while_waiting()
        except BaseException:
            # Not SIGTERM: a cluster may have sent that to the process too, and a second one would end it at once.
            process.send_signal(signal.SIGUSR1)
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def reason_of(code: int, log: str) -> str:
    """Returns why a command failed: the line of its error, else the last one of its log."""
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")
