"""How the processes of a run agree with one another; here the run of one process, which agrees with itself."""

import contextlib
from types import TracebackType
from typing import Any

from tl_distributed.errors import UserError


class Workers:
    """The workers of a run; this class is a run of one process, which agrees with itself.

    Attributes:
      index: Of this worker.
      count: Of all.
      count_on_machine: Of those that share this machine's memory.
      peer_stop_signal: Number of the signal that asked another worker to stop, or `None`.
    """

    index, count, count_on_machine = 0, 1, 1
    peer_stop_signal: int | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes what the run leaves."""
        return self.index == 0

    def exchange(self, topic: str, value: Any) -> list[Any]:
        """Returns what every worker gave, by index, once all have come to the same `topic`; JSON values."""
        del topic
        return [value]

    def from_chief(self, topic: str, value: Any) -> Any:
        """Returns what the chief gave; every worker has to call it."""
        return self.exchange(topic, value)[0]

    def require_same(self, values: dict[str, Any], hint: str) -> None:
        """Raises `UserError` on all workers where one of them has other values (JSON) than the chief."""
        given = self.exchange("what has to be the same", values)
        for index, other in enumerate(given):
            for key, expected in given[0].items():
                if other.get(key) != expected:
                    raise UserError(f"{self.name(index)} has {key} {other.get(key)}, {self.name(0)} {expected}; {hint}")

    def name(self, index: int) -> str:
        """Returns what messages call a worker."""
        return f"worker {index}"

    def announce_stop(self, signal_number: int) -> None:
        """Tells the others that this worker was asked to stop; they see it in `peer_stop_signal`."""

    def expect_within(self, seconds: float, reason: str) -> contextlib.AbstractContextManager[None]:
        """Ends this worker, and so all, with `reason` where the block takes longer; alone it waits."""
        return contextlib.nullcontext()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leaves: in order, or with the reason for which all have to end."""
