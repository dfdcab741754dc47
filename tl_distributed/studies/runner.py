"""Runs a plan: each training in a process of its own, so that one that fails does not take the others with it."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

import tl_distributed
from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.files import read_json, to_json_values, write_file, write_json
from tl_distributed.progress import format_duration, show_line
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.clock import PlanClock, planned_images, planned_work
from tl_distributed.studies.plan import Arm, Plan, Run
from tl_distributed.studies.run_lock import sole_study
from tl_distributed.training.workdir import settings_of, why_not_longer

_LOG = logging.getLogger(__name__)

PLAN_FILE, FAILURE_FILE, LOG_FILE = "plan.json", "failure.json", "log.txt"
_POLL_SECONDS = 1.0
_REPORT_SECONDS = 30.0
_STOP_SECONDS = 120.0  # for the checkpoint of a run that is told to stop
# Exit codes of a run that was told to stop.
_STOPPED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}


def open_study(workdir: str, plan: Plan, info: DatasetInfo) -> None:
    """Notes the plan in the study's folder; arms, seeds and sizes may be added to one that is there.

    Raises:
      UserError: The folder holds a study of another data set, or an arm of that name with other flags.
    """
    path = f"{workdir}/{PLAN_FILE}"
    known: dict[str, dict[str, Any]] = {}
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            saved = json.loads(file.read())
        if saved["dataset_sha256"] != info.digest():
            raise UserError(f"--workdir={workdir} holds a study of another data set; choose another --workdir")
        known = saved["arms"]
    # Settings and not flags: a recipe may have changed since.
    arms = {arm.name: to_json_values(dataclasses.asdict(_config(arm))) for arm in plan.arms}
    for name, settings in arms.items():
        before = settings_of(known.get(name, settings))
        differing = [
            f"{key} {before[key]} there, {value} here"
            for key, value in settings.items()
            if before[key] != value and key != "recipe" and not (key == "epochs" and not why_not_longer(before, value))
        ]
        if differing:
            raise UserError(
                f"--workdir={workdir} holds an arm {name} with other settings ({'; '.join(differing[:5])}); "
                "choose another name or --workdir"
            )
    tf.io.gfile.makedirs(workdir)
    write_json(path, {"dataset_sha256": info.digest(), "arms": {**known, **arms}})


def _config(arm: Arm) -> Config:
    return parse_arguments(Config, arm.arguments)[0]


def run_plan(
    plan: Plan,
    info: DatasetInfo,
    *,
    data_dir: str,
    data_copy_dir: str,
    workdir: str,
    train: Callable[[Sequence[str], pathlib.Path, Callable[[], None]], int],
    workers: Workers,
    cluster_arguments: Sequence[str],
) -> int:
    """Runs what has not been run; returns the number of runs that failed.

    Every worker calls it and takes part in every run, in step with the others; the chief notes what came of it.

    Args:
      plan: Arms and runs.
      info: The data set's manifest.
      data_dir: Its folder.
      data_copy_dir: Folder of a copy of it, or nothing.
      workdir: The study's folder.
      train: Runs the train command: `train_in_process` of its own.
      workers: The study's processes.
      cluster_arguments: By which a run's processes find one another.

    Raises:
      SystemExit: 128 + the signal's number, where one asked any of the workers to stop; the run that was under way has
        written a checkpoint.
    """
    configs = {arm.name: _config(arm) for arm in plan.arms}
    images = {run: planned_images(configs[run.arm.name], info, run.images_per_class) for run in plan.runs}
    clock = PlanClock({run: planned_work(configs[run.arm.name], info, run.images_per_class) for run in plan.runs})
    failed = 0
    with StopRequest(workers) as stop:
        for number, run in enumerate(plan.runs):
            if stop.agree():
                raise SystemExit(128 + stop.signal_number)
            folder, config = f"{workdir}/{run.folder}", configs[run.arm.name]
            if workers.from_chief(f"whether {run} is finished", workers.is_chief and _is_finished(folder, config)):
                clock.skip(run)
                continue
            display = _Display(f"Study: run {number + 1} of {len(plan.runs)}: {run}", clock, run, folder)
            display.total_steps = images[run] / configs[run.arm.name].global_batch_size
            display.silent = not workers.is_chief
            display.show()
            place = [f"--data_dir={data_dir}", f"--data_copy_dir={data_copy_dir}", f"--workdir={folder}"]
            choice = [f"--seed={run.seed}", f"--images_per_class={run.images_per_class}"]
            arguments = [*run.arm.arguments, *place, *choice, *cluster_arguments]
            started = time.monotonic()
            reason = _train_once(folder, arguments, train, _Waiting(display, stop), workers)
            seconds = time.monotonic() - started
            if reason:
                failed += 1
                _LOG.info("%s failed: %s (%s/%s); the study goes on.", run, reason, folder, LOG_FILE)
            if workers.is_chief:  # who alone shows the time left; a resumed run has trained for longer than this start
                training_seconds = 0.0 if reason else read_json(f"{folder}/results.json")["seconds"]
                clock.finish(run, seconds=seconds, training_seconds=min(seconds, training_seconds))
    return failed


def _is_finished(folder: str, config: Config) -> bool:
    """Tells whether a run is over; not where it was asked for fewer epochs than now."""
    results = read_json(f"{folder}/results.json")
    if results is None or not results["finished"]:
        return False
    return (read_json(f"{folder}/config.json") or {}).get("config", {}).get("epochs", config.epochs) >= config.epochs


def _train_once(
    folder: str,
    arguments: Sequence[str],
    train: Callable[..., int],
    while_waiting: Callable[[], None],
    workers: Workers,
) -> str | None:
    """Runs one training, each worker its part; returns why it failed, or `None`.

    Raises:
      UserError: Another study runs it.
      SystemExit: It was asked to stop, and did.
    """
    with contextlib.ExitStack() as stack:
        if workers.is_chief:
            tf.io.gfile.makedirs(folder)
            stack.enter_context(sole_study(folder, while_waiting))
            if tf.io.gfile.exists(f"{folder}/{FAILURE_FILE}"):
                tf.io.gfile.remove(f"{folder}/{FAILURE_FILE}")
        workers.exchange("the folder is there", None)
        return _train_in(folder, arguments, train, while_waiting, workers)


def _train_in(
    folder: str,
    arguments: Sequence[str],
    train: Callable[..., int],
    while_waiting: Callable[[], None],
    workers: Workers,
) -> str | None:
    with tempfile.TemporaryDirectory() as temporary:
        log = pathlib.Path(temporary) / LOG_FILE  # local: the study's folder may be in a bucket
        try:
            code = train(arguments, log, while_waiting)
        except SystemExit as stop:
            code = stop.code
        finally:
            content = log.read_bytes() if log.exists() else b""
            write_file(f"{folder}/{LOG_FILE if workers.is_chief else f'log.worker{workers.index}.txt'}", content)
    # Only now, with all its processes gone, are the run's ports free for the next one.
    codes = workers.exchange("exit code", code)
    for other in codes:
        if other in _STOPPED:
            raise SystemExit(other)
    reasons = workers.exchange("reason", _reason(code, content.decode(errors="replace")) if code else None)
    failure = next(((code, reason) for code, reason in zip(codes, reasons, strict=True) if reason), None)
    if failure is None:
        return None
    if workers.is_chief:
        write_json(f"{folder}/{FAILURE_FILE}", {"exit_code": failure[0], "reason": failure[1]})
    return failure[1]


def _reason(code: int, log: str) -> str:
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")


def train_in_process(arguments: Sequence[str], log: pathlib.Path, while_waiting: Callable[[], None]) -> int:
    """Runs the train command in a process of its own; returns its exit code, negative for a signal.

    Whatever ends the study ends the process too, which then writes a checkpoint.

    Args:
      arguments: Of the command.
      log: File for what it prints.
      while_waiting: Called about every second.
    """
    root = str(pathlib.Path(tl_distributed.__path__[0]).parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tl_distributed.studies.child", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the study alone: a second signal would end the run at once
        )
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


class _Waiting:
    """What is done about every second while a run trains: show how far it is, and look whether to stop."""

    def __init__(self, display: "_Display", stop: StopRequest):
        self._display, self._stop = display, stop

    def __call__(self) -> None:
        self._display.show_if_due()
        if number := self._stop.requested_signal():
            raise SystemExit(128 + number)


class _Display:
    """Lines on standard error: which run, how far, and the time left for the whole plan."""

    def __init__(self, title: str, clock: PlanClock, run: Run, folder: str):
        self._title, self._clock, self._run, self._folder = title, clock, run, folder
        self._started = self._shown = time.monotonic()
        self.total_steps, self.silent = 0.0, False

    def show_if_due(self) -> None:
        if time.monotonic() - self._shown >= _REPORT_SECONDS:
            self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        if self.silent:
            return
        row = self._last_row()
        share = min(1.0, row["step"] / self.total_steps) if row else 0.0
        left = self._clock.seconds_left(self._run, elapsed_seconds=self._shown - self._started, share_done=share)
        parts = [self._title]
        if row:
            parts.append(f"{share:.0%} done, epoch {row['epoch']:.1f}")
        if left is not None:
            parts.append(f"about {format_duration(left)} left for the whole study")
        show_line("; ".join(parts), sys.stderr)

    def _last_row(self) -> dict[str, Any] | None:
        path = f"{self._folder}/metrics.jsonl"
        rows = read_metrics(path) if tf.io.gfile.exists(path) else []
        return rows[-1] if rows else None
