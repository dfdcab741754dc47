"""Hosts of their own on one machine: network namespaces joined by a bridge. Linux with iproute2, as root.

    reason = why_unavailable()                  # None, or the reason for pytest.skip
    with Namespaces(2) as hosts:                # each with a name in /etc/hosts and an address on the bridge
        hosts.names, hosts.addresses            # of every host, in order
        hosts.gateway                           # this machine's address on the bridge
        process = hosts.popen(0, ["python", ...], stdout=...)      # subprocess.Popen, inside host 0
        hosts.command(0, ["python", ...])       # the same as a command line, for what starts processes itself
        hosts.cut(1)                            # as if the cable of host 1 were pulled; local to it all goes on
        hosts.restore(1)

Only the network is apart: files, processes and memory are this machine's. At the end, also after Ctrl-C, the processes
inside are killed, and namespaces, bridge and names are gone. Several may be alive at once, in one process or in many;
what a killed process left behind, the next one removes.
"""

import contextlib
import fcntl
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

_PREFIX = "tld"  # then the process, a letter, and what it is: names of interfaces have at most 15 characters
_HOSTS_FILE = pathlib.Path("/etc/hosts")
_LOCK_FILE = pathlib.Path("/run/lock/tl_distributed_namespaces")
_KILL_SECONDS = 10
_letters = itertools.count()


def why_unavailable() -> str | None:
    """Returns why this machine cannot have namespaces, or `None`; tries one, since containers often forbid them."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"network namespaces need {missing[0]} (Debian: iproute2, util-linux)"
    if not os.access(_HOSTS_FILE, os.W_OK):
        return f"{_HOSTS_FILE} cannot be written"
    try:
        with Namespaces(1) as hosts:
            subprocess.run(hosts.command(0, ["true"]), check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()
        return f"network namespaces cannot be made here: {detail}"
    return None


class Namespaces:
    """A context manager; see the module."""

    def __init__(self, count: int):
        """Names `count` hosts; they are there between `__enter__` and `__exit__`."""
        letter = "abcdefghijklmnopqrstuvwxyz"[next(_letters) % 26]
        self._base = f"{_PREFIX}{os.getpid()}{letter}"
        self._bridge = f"{self._base}b"
        self.names = [f"{self._base}n{index}" for index in range(count)]
        self.addresses: list[str] = []
        self.gateway = ""

    def command(self, index: int, command: Sequence[str]) -> list[str]:
        """Returns the command line that runs `command` inside a host (not by `ip netns exec`, which hides /sys)."""
        return ["nsenter", f"--net=/run/netns/{self.names[index]}", *command]

    def popen(self, index: int, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Starts a process inside a host; its id is the command's own."""
        return subprocess.Popen(self.command(index, command), **options)

    def cut(self, index: int) -> None:
        """Cuts a host off: what is sent to it or by it is lost without a word."""
        _ip("link", "set", self._cable(index), "down")

    def restore(self, index: int) -> None:
        """Connects a host again."""
        _ip("link", "set", self._cable(index), "up")

    def kill_processes(self, index: int) -> None:
        """Kills all that runs inside a host, and waits until it is gone."""
        deadline = time.monotonic() + _KILL_SECONDS
        while (pids := _ip("netns", "pids", self.names[index]).split()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)

    def _cable(self, index: int) -> str:
        return f"{self._base}v{index}"

    def __enter__(self) -> "Namespaces":
        try:
            with _lock():
                _remove_leftovers()
                network = _free_network()
                self.gateway = f"{network}.254"
                self.addresses = [f"{network}.{index + 1}" for index in range(len(self.names))]
                _ip("link", "add", self._bridge, "type", "bridge")
                _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
                _ip("link", "set", self._bridge, "up")
                lines = [f"{address} {name}" for address, name in zip(self.addresses, self.names, strict=True)]
                _edit_hosts_file(lambda text: text + "".join(f"{line}\n" for line in lines))
            for index in range(len(self.names)):
                self._make_host(index)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make_host(self, index: int) -> None:
        name, cable = self.names[index], self._cable(index)
        _ip("netns", "add", name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", cable, "master", self._bridge, "up")
        _ip("-n", name, "addr", "add", f"{self.addresses[index]}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def __exit__(self, *_: object) -> None:
        for index, name in enumerate(self.names):
            if pathlib.Path(f"/run/netns/{name}").exists():
                self.kill_processes(index)
        with _lock():
            _remove(self._base)


def _ip(*arguments: str) -> str:
    """Runs iproute2; what it has to say is in the error."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One process at a time edits the machine's list of hosts and takes a network."""
    _LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK_FILE.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_network() -> str:
    """Returns the first three numbers of a private /24 network that no interface here has."""
    taken = _ip("-4", "-o", "addr", "show")
    for offset in range(256):
        network = f"10.213.{(os.getpid() + offset) % 256}"
        if f" {network}." not in taken:
            return network
    raise OSError("every network of 10.213.0.0/16 is taken")


def _edit_hosts_file(edit: Any) -> None:
    """Rewrites it in place: in a container it is a mount, which nothing can be renamed over."""
    text = _HOSTS_FILE.read_text()
    if text and not text.endswith("\n"):
        text += "\n"
    changed = edit(text)
    if changed != text:
        _HOSTS_FILE.write_text(changed)


def _remove(base: str) -> None:
    """Removes everything that is named after `base`; each thing may be there or not."""
    for path in pathlib.Path("/run/netns").glob(f"{base}n*"):
        _ip("netns", "delete", path.name)
    for interface in re.findall(rf"^\d+: ({base}[bv]\d*)[@:]", _ip("-o", "link", "show"), re.MULTILINE):
        with contextlib.suppress(OSError):  # a cable goes with its namespace, a little later
            _ip("link", "delete", interface)
    _edit_hosts_file(lambda text: re.sub(rf"^\S+ {base}n\d+\n", "", text, flags=re.MULTILINE))


def _remove_leftovers() -> None:
    """Removes what processes that are gone left: their bridges, namespaces and names."""
    names = [path.name for path in pathlib.Path("/run/netns").glob(f"{_PREFIX}*")]
    names += re.findall(rf"\b{_PREFIX}\w+", _ip("-o", "link", "show") + _HOSTS_FILE.read_text())
    bases = {match[0]: int(match[1]) for name in names if (match := re.match(rf"{_PREFIX}(\d+)[a-z]", name))}
    for base, pid in bases.items():
        if not pathlib.Path(f"/proc/{pid}").exists():
            for path in pathlib.Path("/run/netns").glob(f"{base}n*"):
                for inside in _ip("netns", "pids", path.name).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(inside), signal.SIGKILL)
            _remove(base)
