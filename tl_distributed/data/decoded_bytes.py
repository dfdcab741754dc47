"""How much decoders that run side by side may hold of pixels."""

import contextlib
import threading
from collections.abc import Iterator


class DecodedBytes:
    """Bytes that threads share: who wants more than are free waits; who wants more than there are is served alone."""

    def __init__(self, limit: int):
        """Takes the number of bytes in all."""
        self._limit, self._used = limit, 0
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Waits until so many bytes are free, and takes them within the context; do not nest it in one thread."""
        with self._condition:
            self._condition.wait_for(lambda: self._used == 0 or self._used + num_bytes <= self._limit)
            self._used += num_bytes
        try:
            yield
        finally:
            with self._condition:
                self._used -= num_bytes
                self._condition.notify_all()
