"""Runs several trainings at the same time, each on a part of the node that is its own."""

import concurrent.futures
import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from tl_distributed.studies.devices import Device

_Job = TypeVar("_Job")


class StoppedError(Exception):
    """Raised in a job that another one's end has stopped."""


class SideBySide:
    """Jobs that share devices: as many go on at a time as there are devices.

    Each waits in a thread of its own for a process: a thread that ends early would have the process told that its
    parent died (`child.py`), so a thread lives as long as its job.
    """

    def __init__(self, devices: Iterable[Device]):
        """`devices`: what each job is given."""
        self._free: queue.SimpleQueue[Device] = queue.SimpleQueue()
        self._count = 0
        for device in devices:
            self._free.put(device)
            self._count += 1
        self._stopped = threading.Event()

    def raise_if_stopped(self) -> None:
        """Raises `StoppedError` in a job once another one has ended in an exception; call it while waiting."""
        if self._stopped.is_set():
            raise StoppedError

    def run(self, jobs: Iterable[_Job], execute: Callable[[_Job, Device], None]) -> None:
        """Calls `execute(job, device)` for each job, in their order as devices get free.

        Raises:
          BaseException: The first one of a job; no job begins after it, and those that go on are told to stop.
        """
        first: list[BaseException] = []
        lock = threading.Lock()

        def one(job: _Job) -> None:
            if self._stopped.is_set():
                return
            device = self._free.get()
            try:
                execute(job, device)
            except StoppedError:
                pass
            except BaseException as error:
                with lock:
                    first.append(error)
                self._stopped.set()
            finally:
                self._free.put(device)

        with concurrent.futures.ThreadPoolExecutor(self._count) as pool:
            try:
                concurrent.futures.wait([pool.submit(one, job) for job in jobs])
            except BaseException:  # a second signal
                self._stopped.set()
                raise
        if first:
            raise first[0]
