"""Runs a plan: each training in a process of its own, so that one that fails does not take the others with it."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.files import read_json, to_json_values, write_file, write_json
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.clock import PlanClock, planned_images, planned_work
from tl_distributed.studies.devices import WHOLE, Device
from tl_distributed.studies.display import Display, Waiting
from tl_distributed.studies.plan import Arm, Plan
from tl_distributed.studies.processes import STOPPED, reason_of, run_in_process
from tl_distributed.studies.run_lock import sole_study
from tl_distributed.studies.side_by_side import SideBySide
from tl_distributed.training.workdir import settings_of, why_not_longer

_LOG = logging.getLogger(__name__)

PLAN_FILE, FAILURE_FILE, LOG_FILE = "plan.json", "failure.json", "log.txt"
Train = Callable[..., int]  # `train_in_process`


def open_study(workdir: str, plan: Plan, info: DatasetInfo) -> None:
    """Notes the plan in the study's folder; arms, seeds and sizes may be added to one that is there.

    Raises:
      UserError: The folder holds a study of another data set, or an arm of that name with other flags.
    """
    path = f"{workdir}/{PLAN_FILE}"
    known: dict[str, dict[str, Any]] = {}
    known_sources: dict[str, str] = {}
    if saved := read_json(path):
        if saved["dataset_sha256"] != info.digest():
            raise UserError(f"--workdir={workdir} holds a study of another data set; choose another --workdir")
        known, known_sources = saved["arms"], saved.get("plugin_sha256", {})
    # Settings and not flags: a recipe may have changed since.
    configs = {arm.name: _config(arm) for arm in plan.arms}
    arms = {name: to_json_values(dataclasses.asdict(config)) for name, config in configs.items()}
    sources = {name: source for config in configs.values() for name, source in config.plugin_sources().items()}
    _check_sources(workdir, known_sources, sources)
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
    content = {"dataset_sha256": info.digest(), "arms": {**known, **arms}}
    write_json(path, {**content, "plugin_sha256": {**known_sources, **sources}})


def _check_sources(workdir: str, known: Mapping[str, str], sources: Mapping[str, str]) -> None:
    changed = next((name for name, digest in sources.items() if known.get(name, digest) != digest), None)
    if changed:
        raise UserError(
            f"--workdir={workdir} holds a study of which the source of {changed} has changed since, so that its runs "
            "would not be alike; choose another --workdir, or put the source back"
        )


def _config(arm: Arm) -> Config:
    return parse_arguments(Config, arm.arguments)[0]


def run_plan(
    plan: Plan,
    info: DatasetInfo,
    *,
    data_dir: str,
    data_copy_dir: str,
    workdir: str,
    train: Train,
    workers: Workers,
    cluster_arguments: Sequence[str],
    devices: Sequence[Device] = (WHOLE,),
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
      devices: Of `devices.devices_of_runs`: as many runs go on at the same time; of several workers, one.

    Raises:
      SystemExit: 128 + the signal's number, where one asked any of the workers to stop; the runs that were under way
        have written a checkpoint.
    """
    started = _StartedPlan(plan, info, train=train, workers=workers, at_a_time=len(devices))
    flags = [f"--data_dir={data_dir}", f"--data_copy_dir={data_copy_dir}", *cluster_arguments]
    together = SideBySide(devices)
    with StopRequest(workers) as stop:

        def execute(place: int, device: Device) -> None:
            started.execute(place, workdir, flags, device, stop, together.raise_if_stopped)

        if len(devices) == 1:  # in this thread: several workers have to come to every run in step
            for place in range(len(plan.runs)):
                execute(place, devices[0])
        else:
            together.run(range(len(plan.runs)), execute)
    return started.failed


class _StartedPlan:
    """Executes the runs of a plan, one at a time or several.

    Attributes:
      failed: Runs that failed so far.
    """

    def __init__(self, plan: Plan, info: DatasetInfo, *, train: Train, workers: Workers, at_a_time: int):
        self._plan, self._train, self._workers, self._at_a_time = plan, train, workers, at_a_time
        self._configs = {run.arm.name: _config(run.arm) for run in plan.runs}
        sizes = {run: (self._configs[run.arm.name], info, run.images_per_class) for run in plan.runs}
        self._images = {run: planned_images(*size) for run, size in sizes.items()}
        self._clock = PlanClock({run: planned_work(*size) for run, size in sizes.items()})
        self._lock = threading.Lock()
        self.failed = 0

    def execute(
        self,
        place: int,
        workdir: str,
        flags: Sequence[str],
        device: Device,
        stop: StopRequest,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        """Executes the run at a place of the plan, if it is not finished yet."""
        if stop.agree():
            raise SystemExit(128 + stop.signal_number)
        run, workers = self._plan.runs[place], self._workers
        folder, config = f"{workdir}/{run.folder}", self._configs[run.arm.name]
        if workers.from_chief(f"whether {run} is finished", workers.is_chief and _is_finished(folder, config)):
            with self._lock:
                self._clock.skip(run)
            return
        display = Display(
            f"Study: run {place + 1} of {len(self._plan.runs)}{device}: {run}", self._clock, run, folder,
            total_steps=self._images[run] / config.global_batch_size, at_a_time=self._at_a_time,
            silent=not workers.is_chief,
        )  # fmt: skip
        display.show()
        choice = [f"--seed={run.seed}", f"--images_per_class={run.images_per_class}"]
        arguments = [*run.arm.arguments, *flags, f"--workdir={folder}", *choice]
        train = self._train if device == WHOLE else functools.partial(self._train, device=device)
        started = time.monotonic()
        reason = _train_once(folder, arguments, train, Waiting(display, stop, raise_if_stopped), workers)
        seconds = time.monotonic() - started
        if reason:
            _LOG.info("%s failed: %s (%s/%s); the study goes on.", run, reason, folder, LOG_FILE)
        with self._lock:
            self.failed += bool(reason)
            if workers.is_chief:  # who alone shows the time left; a resumed run has trained for longer than this start
                training_seconds = 0.0 if reason else read_json(f"{folder}/results.json")["seconds"]
                self._clock.finish(run, seconds=seconds, training_seconds=min(seconds, training_seconds))


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
        if other in STOPPED:
            raise SystemExit(other)
    reasons = workers.exchange("reason", reason_of(code, content.decode(errors="replace")) if code else None)
    failure = next(((code, reason) for code, reason in zip(codes, reasons, strict=True) if reason), None)
    if failure is None:
        return None
    if workers.is_chief:
        write_json(f"{folder}/{FAILURE_FILE}", {"exit_code": failure[0], "reason": failure[1]})
    return failure[1]


def train_in_process(
    arguments: Sequence[str], log: pathlib.Path, while_waiting: Callable[[], None], *, device: Device = WHOLE
) -> int:
    """Runs the train command in a process of its own; see `processes.run_in_process`."""
    return run_in_process("tl_distributed.train", arguments, log, while_waiting, device=device)
