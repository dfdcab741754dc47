"""Progress of a long loop: a bar on a terminal, plain lines in a log file.

Imports no TensorFlow, so that data preparation and `--help` stay quick.
"""

import numbers
import os
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from tl_distributed.streams import show_line, without_its_reader

LOG_EVERY_SECONDS = 10.0


class Progress:
    """Shows how far a loop is, its speed and the time left; a context manager.

    On a terminal it is a `tqdm` bar. Elsewhere (a log file, a pipe, CI) it writes whole lines without
    control characters: one on entry, at most one every `log_every_seconds`, and one on exit.

        with Progress(total=4000, unit="images", label="Build") as progress:
            for batch in batches:
                progress.update(len(batch), loss=loss)

        Build: 1200/4000 images (30 %), 850 images/s, 0:03 left, loss 0.52

    The speed of a line is that since the line before, so that a slow first step (compilation) does not
    spoil the estimate of the time left; the last line shows the speed of the whole.
    """

    def __init__(
        self,
        *,
        total: int | None,
        unit: str,
        label: str,
        initial: int = 0,
        stream: TextIO | None = None,
        log_every_seconds: float = LOG_EVERY_SECONDS,
        delay_seconds: float = 0.0,
        silent: bool = False,
    ):
        """Prepares the display; nothing is written before the context is entered.

        Args:
          total: Number of units at the end, `initial` included. `None`: unknown, so no share and no time left.
          unit: Plural name of what is counted, e.g. `"images"`.
          label: What is being done, shown in front.
          initial: Units that the run resumed here had done; they count towards the share done, not the speed.
          stream: Where to write; standard error unless given.
          log_every_seconds: Shortest time between two lines when `stream` is not a terminal.
          delay_seconds: Nothing is shown before: of what mostly is over by then. A bar that came later goes at its end.
          silent: Show nothing: another process shows the same.
        """
        self._total, self._unit, self._label = total, unit, label
        self._initial = self._done = self._line_done = initial
        self._stream, self._log_every_seconds, self._silent = stream, log_every_seconds, silent
        self._delay_seconds = delay_seconds
        self._values: dict[str, Any] = {}
        self._bar: _Bar | None = None

    def __enter__(self) -> "Progress":
        if self._stream is None:
            self._stream = sys.stderr
        self._start = self._line_time = time.monotonic()
        self._has_lines = not self._delay_seconds
        if not self._silent and _takes_a_bar(self._stream):
            self._bar = _Bar(
                total=self._total,
                initial=self._initial,
                unit=f" {self._unit}",
                desc=self._label,
                file=self._stream,
                dynamic_ncols=True,
                miniters=1,
                delay=self._delay_seconds,
                leave=not self._delay_seconds,
            )
        elif self._has_lines:
            self._write(self._position())
        return self

    def update(self, n: int, **values: Any) -> None:
        """Counts `n` more units; `values` (e.g. `loss=0.5`) are shown behind until they are given anew."""
        self._done += n
        self._values.update(values)
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._formatted_values()), refresh=False)
            self._bar.update(n)
            return
        now = time.monotonic()
        # The last line is __exit__'s: it knows that nothing follows.
        is_due = now - self._line_time >= self._log_every_seconds and now - self._start >= self._delay_seconds
        if is_due and self._done != self._total:
            self._write_line(now)
            self._has_lines = True

    def note(self, line: str) -> None:
        """Writes a line of its own, above the bar if there is one."""
        if self._bar is not None:
            with without_its_reader(self._stream):
                self._bar.write(line, file=self._stream)
                self._stream.flush()
        else:
            self._write(line)

    def __exit__(self, error_type: type[BaseException] | None, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            return
        if not self._has_lines:
            return
        seconds = time.monotonic() - self._start
        ending = f"{'stopped after' if error_type else 'in'} {format_duration(seconds)}"
        speed = self._speed(self._done - self._initial, seconds)
        self._write(", ".join([self._position(), *speed, ending, *self._formatted_values()]))

    def _write_line(self, now: float) -> None:
        seconds, done = now - self._line_time, self._done - self._line_done
        parts = [self._position(), *self._speed(done, seconds)]
        if self._total is not None and done > 0:
            parts.append(f"{format_duration(max(0, self._total - self._done) * seconds / done)} left")
        self._write(", ".join(parts + self._formatted_values()))
        self._line_time, self._line_done = now, self._done

    def _position(self) -> str:
        if self._total is None:
            return f"{self._label}: {self._done} {self._unit}"
        # Rounded down: 100 % means finished.
        percent = 100 * self._done // self._total if self._total else 100
        return f"{self._label}: {self._done}/{self._total} {self._unit} ({percent} %)"

    def _speed(self, done: int, seconds: float) -> list[str]:
        return [f"{format_number(done / seconds)} {self._unit}/s"] if done > 0 and seconds > 0 else []

    def _formatted_values(self) -> list[str]:
        return [f"{name} {_format_value(value)}" for name, value in self._values.items()]

    def _write(self, line: str) -> None:
        if not self._silent:
            show_line(line, self._stream)


class _Bar(tqdm):
    """A bar whose every update looks at the clock, so that no watching thread is needed."""

    monitor_interval = 0


def _takes_a_bar(stream: TextIO) -> bool:
    """Tells whether `stream` is a terminal that knows its width; some containers' terminals say 0 columns."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # not a file, or no terminal behind it
        return False


def format_duration(seconds: float) -> str:
    """Returns `m:ss`, or `h:mm:ss` from one hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _format_value(value: Any) -> str:
    is_fraction = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
    return f"{float(value):.4g}" if is_fraction else str(value)


def format_number(value: float) -> str:
    """Returns three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
