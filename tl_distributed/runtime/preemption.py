"""Stopping between steps: SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask for a checkpoint; a second SIGINT or SIGTERM ends at
once.

SIGHUP comes where the terminal was closed, from the kernel and once more from the shell, and with SIGTERM from systemd
where a session ends: it never counts as a second one. `nohup` has it ignored, and so it stays.

SIGUSR1 is the warning that a scheduler gives before its time limit (SLURM's `--signal`): the SIGTERM that may follow
while the checkpoint is written does not count as a second one.

`tf.distribute.experimental.PreemptionCheckpointHandler` does not fit: it wants one call from Python for each step,
where this loop runs many in the graph; it knows SIGTERM alone; it stops a step or more after the signal, when its
key-value store has told all workers; and it writes the checkpoint itself, without what `Checkpoints` adds.
"""

import signal
import threading
from types import FrameType, TracebackType

from tl_distributed.runtime.workers import Workers
from tl_distributed.streams import forget_closed

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """Context in which the signals are only noted, and all workers stop at the same step.

    Attributes:
      signal_number: The signal for which all stop, once they have agreed; what exits is 128 + its number.
    """

    def __init__(self, workers: Workers) -> None:
        self.signal_number: int | None = None
        self._workers = workers
        self._noted: list[int] = []
        self._announced = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets the main thread alone take signals: whoever trains in another one stops it
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agree(self) -> bool:
        """Returns whether any worker was asked to stop; each calls it at the same step."""
        own = self._noted[0] if self._noted else None
        wanted = [number for number in self._workers.exchange("stop", own) if number is not None]
        if wanted:
            self.signal_number = wanted[0]
        return self.signal_number is not None

    def requested(self) -> bool:
        """Returns whether this worker or, as far as is known, another was asked to stop; for work without steps."""
        if self._noted and not self._announced:
            self._workers.announce_stop(self._noted[0])
            self._announced = True
        return bool(self._noted) or self._workers.peer_stop_signal is not None

    def requested_signal(self) -> int | None:
        """Returns the signal by which this worker or, as far as is known, another was asked to stop."""
        if not self.requested():
            return None
        return self._noted[0] if self._noted else self._workers.peer_stop_signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            forget_closed(1, 2)
        ends_now = (signal.SIGINT, signal.SIGTERM)
        if number in ends_now and any(noted in ends_now for noted in self._noted):
            raise KeyboardInterrupt
        self._noted.append(number)
