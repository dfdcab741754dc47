"""Stopping between steps: Ctrl-C and SIGTERM ask for a checkpoint, a second one ends at once."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """Context in which SIGINT and SIGTERM are only noted; the loop asks `signal_number` between calls."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
