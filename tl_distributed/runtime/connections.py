"""The connections between the workers of a run: messages over TCP, and how the workers find one another.

A message is a JSON object behind its length in 4 bytes; nothing that arrives is run.
"""

import contextlib
import errno
import json
import socket
import struct
import threading
import time
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster import Cluster

_RETRY_SECONDS = 0.2
_DIAL_SECONDS = 5.0
_MAX_MESSAGE_BYTES = 2**28


class Connection:
    """One TCP connection: whole messages, and the time of the last sign of life."""

    def __init__(self, sock: socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(None)
        self._socket, self._lock, self._broken = sock, threading.Lock(), False
        self._stream = sock.makefile("rb")
        self.last_seen = time.monotonic()

    def send(self, message: dict[str, Any]) -> None:
        """Sends; what becomes of a connection that is broken is for its reader to say."""
        data = json.dumps(message).encode()
        with self._lock:
            if self._broken:
                return
            try:
                self._socket.sendall(struct.pack(">I", len(data)) + data)
            except OSError:
                self._broken = True  # perhaps in the middle of a message

    def limit_sending(self, seconds: float) -> None:
        """Gives up a message that the other end does not take in time: whoever sends must not freeze with it."""
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or `None` where the other end is gone or speaks another language."""
        try:
            header = self._stream.read(4)
            size = struct.unpack(">I", header)[0] if len(header) == 4 else _MAX_MESSAGE_BYTES + 1
            data = self._stream.read(size) if size <= _MAX_MESSAGE_BYTES else b""
            message = json.loads(data) if len(data) == size else None
        except (OSError, ValueError):
            return None
        self.last_seen = time.monotonic()
        return message if isinstance(message, dict) and "kind" in message else None

    def receive_within(self, seconds: float) -> dict[str, Any] | None:
        """Returns the next message, or `None` where none comes in time."""
        self._socket.settimeout(seconds)
        message = self.receive()
        self._socket.settimeout(None)
        return message

    def finish_sending(self) -> None:
        """Closes this direction: the rest of the other's messages must be read, or TCP drops our last one."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def listen(port: int, flag: str) -> socket.socket:
    """Listens on a port of every address of this machine.

    Raises:
      UserError: The port is taken or not allowed; `flag` names another.
    """
    try:
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except (OSError, ValueError) as error:  # a machine without IPv6
            if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
                raise
            return socket.create_server(("", port))
    except OSError as error:
        raise UserError(f"port {port} of this machine: {error.strerror}; {flag} chooses another") from None


def accept_all(cluster: Cluster, timeout_seconds: float) -> dict[int, Connection]:
    """Waits, as the chief, for every other worker; returns their connections by index.

    Raises:
      UserError: One did not come in time, or does not belong here; those that came are told.
    """
    joined: dict[int, Connection] = {}
    deadline = time.monotonic() + timeout_seconds
    try:
        with listen(cluster.control_port, "--control_port") as server:
            while len(joined) < len(cluster.addresses) - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    connection = Connection(server.accept()[0])
                except TimeoutError:
                    missing = [index for index in range(1, len(cluster.addresses)) if index not in joined]
                    names = ", ".join(map(cluster.name, missing[:5]))
                    raise UserError(
                        f"{names} did not join within {timeout_seconds:g} s (--worker_timeout_seconds); start it with "
                        f"--strategy=multi_worker, where it reaches port {cluster.control_port} of {cluster.name(0)}"
                    ) from None
                _admit(connection, cluster, joined)
    except UserError as error:
        for connection in joined.values():
            connection.send({"kind": "refused", "reason": str(error)})
            connection.finish_sending()
        raise
    for connection in joined.values():
        connection.send({"kind": "welcome"})
    return joined


def _admit(connection: Connection, cluster: Cluster, joined: dict[int, Connection]) -> None:
    """Adds a caller to those that joined; one that does not speak our language is no worker, and is dropped."""
    hello = connection.receive_within(_DIAL_SECONDS)
    if hello is None or hello["kind"] != "hello":
        connection.close()
        return
    index, addresses = hello.get("index"), hello.get("addresses")
    joined.setdefault(index, connection)
    if addresses != list(cluster.addresses):
        raise UserError(f"worker {index} was given the workers {addresses}, the chief {list(cluster.addresses)}")
    if joined[index] is not connection:
        raise UserError(f"two processes say that they are {cluster.name(index)}; give each its own --worker_index")


def connect_to_chief(cluster: Cluster, timeout_seconds: float) -> dict[int, Connection]:
    """Joins the chief, which may start later; returns the connection under index 0.

    Raises:
      UserError: It cannot be reached, or refuses, with its reason.
    """
    host, port = cluster.control_address
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            connection = Connection(socket.create_connection((host, port), timeout=_DIAL_SECONDS))
            break
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            if unknown or time.monotonic() > deadline:
                raise UserError(
                    f"{cluster.name(cluster.index)} cannot reach {cluster.name(0)} on its port {port} "
                    f"({error.strerror or error}) within {timeout_seconds:g} s (--worker_timeout_seconds)"
                ) from None
            time.sleep(_RETRY_SECONDS)
    connection.send({"kind": "hello", "index": cluster.index, "addresses": list(cluster.addresses)})
    # The chief waits as long for the others, and then says so.
    answer = connection.receive_within(timeout_seconds + _DIAL_SECONDS)
    if answer is not None and answer["kind"] == "welcome":
        return {0: connection}
    reason = answer.get("reason") if answer else "it ended, or is no chief of this version"
    raise UserError(f"{cluster.name(0)} did not take {cluster.name(cluster.index)}: {reason}")


def dial(host: str, port: int) -> str:
    """Returns why a TCP connection cannot be made, or nothing."""
    try:
        socket.create_connection((host, port), timeout=_DIAL_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
