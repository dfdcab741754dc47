"""What the user sees of the runs of a study while they train, and how they learn that they are to stop."""

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tl_distributed.progress import format_duration
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.streams import show_line
from tl_distributed.studies.clock import PlanClock
from tl_distributed.studies.plan import Run

_REPORT_SECONDS = 30.0


class Waiting:
    """What is done about every second while a run trains: show how far it is, and look whether to stop."""

    def __init__(self, display: "Display", stop: StopRequest, raise_if_stopped: Callable[[], None]):
        """`raise_if_stopped`: raises where another run of the same time has ended the study."""
        self._display, self._stop, self._raise_if_stopped = display, stop, raise_if_stopped

    def __call__(self) -> None:
        self._display.show_if_due()
        self._raise_if_stopped()
        if number := self._stop.requested_signal():
            raise SystemExit(128 + number)


class Display:
    """Lines on standard error: which run, how far, and the time left for the whole plan."""

    def __init__(
        self, title: str, clock: PlanClock, run: Run, folder: str, *, total_steps: float, at_a_time: int, silent: bool
    ):
        """`at_a_time`: runs that go on at the same time, of which each has lines of its own."""
        self._title, self._clock, self._run, self._folder = title, clock, run, folder
        self._total_steps, self._at_a_time, self._silent = total_steps, at_a_time, silent
        self._started = self._shown = time.monotonic()

    def show_if_due(self) -> None:
        if time.monotonic() - self._shown >= _REPORT_SECONDS:
            self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        if self._silent:
            return
        row = self._last_row()
        share = min(1.0, row["step"] / self._total_steps) if row else 0.0
        left = self._clock.seconds_left(self._run, elapsed_seconds=self._shown - self._started, share_done=share)
        parts = [self._title]
        if row:
            parts.append(f"{share:.0%} done, epoch {row['epoch']:.1f}")
        if left is not None:
            parts.append(f"about {format_duration(left / self._at_a_time)} left for the whole study")
        show_line("; ".join(parts))

    def _last_row(self) -> dict[str, Any] | None:
        path = f"{self._folder}/metrics.jsonl"
        rows = read_metrics(path) if tf.io.gfile.exists(path) else []
        return rows[-1] if rows else None
