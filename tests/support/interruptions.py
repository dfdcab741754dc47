"""What may happen to a run of several workers, and how they then have to end."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator

from network_namespaces import Namespaces, why_unavailable
from worker_processes import WorkerProcesses

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster_workers import LostWorkerError

_LOST, _MEND = LostWorkerError.exit_code, UserError.exit_code
_DISK_BYTES = 32 * 2**20


@dataclasses.dataclass(frozen=True)
class Site:
    """Where runs take place.

    Attributes:
      hosts: One for each worker, or `None`: all on the loopback device.
      disk: Folder of the workdirs, a small file system of its own if `disk_is_small`.
    """

    hosts: Namespaces | None
    disk: pathlib.Path
    disk_is_small: bool

    def fill_disk(self) -> None:
        """Leaves not a byte free."""
        with (self.disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (2**20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free_disk(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def make_site(folder: pathlib.Path, num_workers: int) -> Iterator[Site]:
    """Makes what this machine allows: hosts of their own and a small disk as root, else neither."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        hosts = None if why_unavailable() else stack.enter_context(Namespaces(num_workers))
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk)]
        small = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        if small:
            stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        yield Site(hosts, disk, small)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interruption:
    """One kind.

    Attributes:
      act: Does it to one of the workers.
      undo: What whoever restarts the run has to do first.
      codes: What the worker that was hit exits with, and the others.
      early_codes: The same where training had not begun: which worker comes too late at the start is an error to mend,
        and a signal ends a process that has nothing to save.
      possible: Whether the site allows it.
    """

    act: Callable[[Site, WorkerProcesses, int], None]
    undo: Callable[[Site, WorkerProcesses, int], None] = lambda site, workers, culprit: None
    codes: tuple[set[int], set[int]]
    early_codes: tuple[set[int], set[int]]
    possible: Callable[[Site], bool] = lambda site: True

    def as_documented(self, culprit: int, codes: list[int], *, training: bool) -> bool:
        """Tells whether the workers' exit codes are what docs/reference/exit_codes.md says."""
        pairs = [self.codes] if training else [self.codes, self.early_codes]
        return any(
            all(code in (hit if index == culprit else rest) for index, code in enumerate(codes)) for hit, rest in pairs
        )


def _send(number: int) -> Callable[[Site, WorkerProcesses, int], None]:
    def act(site: Site, workers: WorkerProcesses, culprit: int) -> None:
        workers.processes[culprit].send_signal(number)

    return act


def _kill_all(site: Site, workers: WorkerProcesses, culprit: int) -> None:
    for process in workers.processes.values():
        process.kill()


def _stopped_by(number: int) -> dict[str, tuple[set[int], set[int]]]:
    return {"codes": ({128 + number}, {128 + number}), "early_codes": ({-number}, {_LOST, _MEND})}


_KILLED, _LOST_EARLY = {-signal.SIGKILL}, {_LOST, _MEND}

INTERRUPTIONS = {
    "kill -9 of one": Interruption(
        act=_send(signal.SIGKILL), codes=(_KILLED, {_LOST}), early_codes=(_KILLED, _LOST_EARLY)
    ),
    "kill -9 of all": Interruption(act=_kill_all, codes=(_KILLED, _KILLED), early_codes=(_KILLED, _KILLED)),
    "SIGTERM to one": Interruption(act=_send(signal.SIGTERM), **_stopped_by(signal.SIGTERM)),
    "SIGUSR1 to one": Interruption(act=_send(signal.SIGUSR1), **_stopped_by(signal.SIGUSR1)),
    "freeze of one": Interruption(
        act=_send(signal.SIGSTOP), undo=_send(signal.SIGKILL),
        codes=(_KILLED, {_LOST}), early_codes=(_KILLED, _LOST_EARLY),
    ),
    "cut link": Interruption(
        act=lambda site, workers, culprit: site.hosts.cut(culprit),
        undo=lambda site, workers, culprit: site.hosts.restore(culprit),
        codes=({_LOST}, {_LOST}), early_codes=(_LOST_EARLY, _LOST_EARLY),
        possible=lambda site: site.hosts is not None,
    ),
    "full disk": Interruption(
        act=lambda site, workers, culprit: site.fill_disk(),
        undo=lambda site, workers, culprit: site.free_disk(),
        codes=({_MEND}, {_MEND}), early_codes=({_MEND}, {_MEND}),
        possible=lambda site: site.disk_is_small,
    ),
}  # fmt: skip
