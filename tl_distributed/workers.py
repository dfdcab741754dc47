"""How the workers of a run keep together: a TCP connection of each to the chief, beside TensorFlow's collectives.

Through it they compare versions and flags before the collective runtime starts, agree between calls of the loop, and
notice when one of them dies or freezes: TensorFlow's collectives would wait for it for ever, or end in a stack trace.
"""

import contextlib
import dataclasses
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import tl_distributed
from tl_distributed.cluster import Cluster, resolve_cluster, split_address
from tl_distributed.commandline import UserError, set_log_name
from tl_distributed.config import Config
from tl_distributed.control import Connection, accept_all, connect_to_chief, dial, listen

_LOG = logging.getLogger(__name__)

_FAREWELL_SECONDS = 5.0
# Which worker it is, and where it finds the data: what dataset.json says is compared, not where it lies.
SETTINGS_OF_A_WORKER = {"worker_index", "data_dir", "data_copy_dir"}
# Errors of TensorFlow that a collective gives when another worker is gone; NCCL's is one that much else gives too.
_BROKEN_COLLECTIVE = {"UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError"}
_PERHAPS_BROKEN_COLLECTIVE = {"InternalError", "UnknownError"}


class LostWorkerError(UserError):
    """Another worker is gone, or what connects them broke: the same command may succeed later."""

    exit_code = 75  # sysexits' "temporary failure, try again", for schedulers


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
        yield
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
        print(f"error: {culprit}{reason}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(code)


def _names(error: BaseException) -> set[str]:
    """Returns the names of an error's classes: TensorFlow's, without importing it."""
    return {kind.__name__ for kind in type(error).__mro__}


def join_workers(config: Config) -> Workers:
    """Joins the other workers of a run, and checks that all were started alike; a run of one process is alone.

    Call it with TensorFlow imported, since its version is compared, and before anything touches a device.

    Raises:
      UserError: No cluster, a worker that does not come, or one of another version or with other flags.
    """
    if config.strategy != "multi_worker":
        return Workers()
    cluster = resolve_cluster(config)
    set_log_name(f"worker {cluster.index}/{len(cluster.addresses)}")
    _LOG.info("This is %s of %d workers.", cluster.name(cluster.index), len(cluster.addresses))
    if len(cluster.addresses) == 1:
        return Workers()
    settings = dataclasses.asdict(config).items()
    flags = {f"--{name}": value for name, value in settings if name not in SETTINGS_OF_A_WORKER}
    return join_cluster(cluster, flags, timeout_seconds=config.worker_timeout_seconds, check_ports=True)


def join_cluster(
    cluster: Cluster, flags: dict[str, Any], *, timeout_seconds: float, check_ports: bool
) -> ClusterWorkers:
    """Joins the other workers of a cluster, and checks that all were started alike.

    Args:
      cluster: With at least two workers.
      flags: That have to be the same on all, JSON values.
      timeout_seconds: How long to wait for one another, now and later.
      check_ports: Whether their gRPC ports have to be free and reached.

    Raises:
      UserError: A worker that does not come, or one of another version or with other flags.
    """
    workers = ClusterWorkers(cluster, timeout_seconds=timeout_seconds)
    with contextlib.ExitStack() as stack:
        stack.push(workers)  # leaves with the reason where a check fails
        workers.require_same(_versions(), "install the same on every worker")
        workers.require_same(flags, "start every worker with the same flags")
        if check_ports:
            workers.check_ports()
        stack.pop_all()
    return workers


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    versions = {"tl_distributed": tl_distributed.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    return {"python": platform.python_version(), **versions}
