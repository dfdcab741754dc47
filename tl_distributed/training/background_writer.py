"""A thread that writes while training goes on: jobs in their order, at most two of them under way."""

import collections
import concurrent.futures
import time
from collections.abc import Callable

_MOST_JOBS = 2  # the best weights and the checkpoint that names them come at the same step


class BackgroundWriter:
    """Runs jobs one after another in a thread of its own; after one that fails no other is begun.

    What waits is done before the process exits, however it does so, except by a signal that kills it or `os._exit`.

    Attributes:
      seconds: That the finished jobs took.
      finished: How many of them there are.
    """

    def __init__(self) -> None:
        self.seconds, self.finished = 0.0, 0
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._jobs: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._failure: BaseException | None = None

    def make_room(self) -> None:
        """Waits until one more job may be submitted: each holds a copy of what it writes.

        Raises:
          BaseException: What a job raised.
        """
        while len(self._jobs) >= _MOST_JOBS:
            concurrent.futures.wait([self._jobs.popleft()])
        self.raise_failure()

    def submit(self, job: Callable[[], None]) -> None:
        """Hands a job over; the time to wait for room is before its copy is made."""
        self._jobs.append(self._executor.submit(self._run, job))

    def wait(self) -> None:
        """Waits for all jobs.

        Raises:
          BaseException: What a job raised.
        """
        self.finish()
        self.raise_failure()

    def finish(self) -> BaseException | None:
        """Waits for all jobs; returns what one of them raised."""
        concurrent.futures.wait(self._jobs)
        self._jobs.clear()
        return self._failure

    def raise_failure(self) -> None:
        """Raises what a job raised; costs nothing."""
        if self._failure is not None:
            raise self._failure

    def _run(self, job: Callable[[], None]) -> None:
        if self._failure is not None:  # a checkpoint must not name best weights that were not written
            return
        start = time.perf_counter()
        try:
            job()
        except BaseException as error:  # for the thread that trains
            self._failure = error
            return
        self.seconds += time.perf_counter() - start
        self.finished += 1
