"""The workers of a run that keep together: a TCP connection of each to the chief, beside TensorFlow's collectives.

Through it they agree between calls of the loop, and notice when one of them dies or freezes: TensorFlow's collectives
would wait for it for ever, or end in a stack trace.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster import Cluster, split_address
from tl_distributed.runtime.connections import Connection, accept_all, connect_to_chief, dial, listen
from tl_distributed.runtime.workers import Workers
from tl_distributed.streams import show_line

_LOG = logging.getLogger(__name__)

_FAREWELL_SECONDS = 5.0
# Errors of TensorFlow that a collective gives when another worker is gone; NCCL's is one that much else gives too.
_BROKEN_COLLECTIVE = {"UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError"}
_PERHAPS_BROKEN_COLLECTIVE = {"InternalError", "UnknownError"}


class LostWorkerError(UserError):
    """Another worker is gone, or what connects them broke: the same command may succeed later."""

    exit_code = 75  # sysexits' "temporary failure, try again", for schedulers


class ClusterWorkers(Workers):
    """The workers of a cluster, after each has joined; a context manager.

    Where one of them fails, dies, or gives no sign of life for `timeout_seconds`, every other process ends with a
    line that says so and the exit code of the failure, or that of `LostWorkerError`. It ends wherever it stands, since
    it may wait in a collective; what a run leaves is written under temporary names, so nothing is left half-written.
    """

    def __init__(self, cluster: Cluster, *, timeout_seconds: float):
        """Joins: the chief waits for all, the others for the chief.

        Args:
          cluster: With at least two workers.
          timeout_seconds: How long to wait for one another, now and later.

        Raises:
          UserError: A worker did not come, or the chief cannot be reached.
        """
        self._cluster, self._timeout = cluster, timeout_seconds
        self.index, self.count = cluster.index, len(cluster.addresses)
        hosts = [split_address(address)[0] for address in cluster.addresses]
        self.count_on_machine = hosts.count(hosts[self.index])
        self._changed = threading.Condition()
        self._rounds: dict[int, dict[int, Any]] = {}  # number of an exchange: what has come so far, by worker
        self._answers: dict[int, list[Any]] = {}
        self._round = 0
        self._leaving = False
        self._departed: set[int] = set()  # who left in order, earlier than this one
        self._ended = threading.Lock()
        self._deadline: tuple[float, str] | None = None
        self._connections = (accept_all if self.is_chief else connect_to_chief)(cluster, timeout_seconds)
        for connection in self._connections.values():
            connection.limit_sending(timeout_seconds)
        self._readers = [
            threading.Thread(target=self._read, args=(peer, connection), daemon=True)
            for peer, connection in self._connections.items()
        ]
        for thread in (*self._readers, threading.Thread(target=self._watch, daemon=True)):
            thread.start()

    def name(self, index: int) -> str:
        return self._cluster.name(index)

    def exchange(self, topic: str, value: Any) -> list[Any]:
        number, self._round = self._round, self._round + 1
        message = {"kind": "value", "round": number, "topic": topic, "value": value}
        if self.is_chief:
            with self._changed:
                self._rounds.setdefault(number, {})[0] = message
                self._changed.wait_for(lambda: len(self._rounds[number]) == self.count)
                given = self._rounds.pop(number)
            topics = [given[index]["topic"] for index in range(self.count)]
            if len(set(topics)) > 1:
                raise RuntimeError(f"the workers are out of step: {topics}")
            values = [given[index]["value"] for index in range(self.count)]
            self._send_all({"kind": "values", "round": number, "values": values})
            return json.loads(json.dumps(values))
        self._connections[0].send(message)
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers)
            return self._answers.pop(number)

    def check_ports(self) -> None:
        """Checks that every worker's gRPC port is free, and reached by every other worker.

        Raises:
          UserError: One is not; TensorFlow would wait for ever.
        """
        with listen(split_address(self._cluster.addresses[self.index])[1], "--workers or --grpc_port"):
            self.exchange("ports are open", None)
            for index, address in enumerate(self._cluster.addresses):
                if reason := dial(*split_address(address)):
                    raise UserError(f"{self.name(self.index)} cannot reach {self.name(index)}: {reason}")
            self.exchange("ports were reached", None)

    def announce_stop(self, signal_number: int) -> None:
        self._send_all({"kind": "stop", "from": self.index, "signal": signal_number})

    @contextlib.contextmanager
    def expect_within(self, seconds: float, reason: str) -> Iterator[None]:
        self._deadline = (time.monotonic() + seconds, reason)
        try:
            yield
        finally:
            self._deadline = None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        lost = None
        if error is None or isinstance(error, SystemExit):
            self.exchange("end of the run", None)
        elif _names(error) & (_BROKEN_COLLECTIVE | _PERHAPS_BROKEN_COLLECTIVE):
            # It broke before it was known why. If a peer is gone, the thread that notices ends this process.
            _LOG.info("A collective broke (%s); looking whether a worker is gone.", type(error).__name__)
            time.sleep(self._timeout + 2 * self._beat_seconds)
            if _names(error) & _BROKEN_COLLECTIVE:
                cause = " ".join(str(error).split())
                lost = LostWorkerError(f"the collectives between the workers broke, though all of them live: {cause}")
        self._leave(lost or error)
        if lost is not None:
            raise lost from None

    def _leave(self, error: BaseException | None) -> None:
        self._leaving = True
        if error is None or isinstance(error, SystemExit):
            self._send_all({"kind": "bye"})
        else:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            code = getattr(error, "exit_code", 1)
            self._send_all({"kind": "failed", "who": self.index, "reason": " ".join(reason.split()), "code": code})
        for connection in self._connections.values():
            connection.finish_sending()
        for reader in self._readers:
            reader.join(_FAREWELL_SECONDS)
        for connection in self._connections.values():
            connection.close()

    @property
    def _beat_seconds(self) -> float:
        return min(self._timeout / 5, 2.0)

    def _send_all(self, message: dict[str, Any]) -> None:
        for connection in self._connections.values():
            connection.send(message)

    def _read(self, peer: int, connection: Connection) -> None:
        while (message := connection.receive()) is not None:
            self._handle(peer, message)
        if not self._leaving and peer not in self._departed:
            self._end(f"{self.name(peer)} ended without a word", LostWorkerError.exit_code)

    def _handle(self, peer: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "value":
            with self._changed:
                self._rounds.setdefault(message["round"], {})[peer] = message
                self._changed.notify_all()
        elif kind == "values":
            with self._changed:
                self._answers[message["round"]] = message["values"]
                self._changed.notify_all()
        elif kind == "stop":
            self.peer_stop_signal = message["signal"]
            if self.is_chief:
                self._send_all(message)
        elif kind == "bye":
            self._departed.add(peer)
        elif kind == "failed" and not self._leaving:
            self._end(message["reason"], message["code"], who=message["who"])

    def _watch(self) -> None:
        """Gives signs of life, and looks for those of the others."""
        while not self._leaving:
            self._send_all({"kind": "alive"})
            time.sleep(self._beat_seconds)
            now = time.monotonic()
            for peer, connection in self._connections.items():
                late = now - connection.last_seen > self._timeout
                if late and not self._leaving and peer not in self._departed:
                    self._end(
                        f"{self.name(peer)} has given no sign of life for {self._timeout:g} s "
                        "(--worker_timeout_seconds)", LostWorkerError.exit_code,
                    )  # fmt: skip
            if self._deadline is not None and now > self._deadline[0]:
                self._end(self._deadline[1], LostWorkerError.exit_code)

    def _end(self, reason: str, code: int, who: int | None = None) -> None:
        """Ends this process at once; the chief tells the others why."""
        self._ended.acquire()  # never released: the first reason is the one
        if self.is_chief:
            self._send_all({"kind": "failed", "who": who, "reason": reason, "code": code})
            for connection in self._connections.values():
                connection.finish_sending()
            time.sleep(0.2)  # the readers take what is still coming in, so that TCP delivers the reason
        culprit = f"{self.name(who)}: " if who is not None else ""
        show_line(f"error: {culprit}{reason}")
        os._exit(code)


def _names(error: BaseException) -> set[str]:
    """Returns the names of an error's classes: TensorFlow's, without importing it."""
    return {kind.__name__ for kind in type(error).__mro__}
