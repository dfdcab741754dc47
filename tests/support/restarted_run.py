"""A training of several workers that is started again and again, and what can be seen of it from outside."""

import json
import pathlib
import sys
import time
from collections.abc import Callable

from interruptions import Site
from worker_processes import WorkerProcesses


class Run:
    """One training of several workers, in one workdir, started as often as it takes."""

    def __init__(self, site: Site, logs: pathlib.Path, workdir_name: str, flags: list[str], num_workers: int):
        """Keeps the logs of every start in a folder of their own under `logs`."""
        self.workdir, self._logs, self._starts = site.disk / workdir_name, logs, 0
        self._flags = [*flags, f"--workdir={self.workdir}"]
        self.workers = WorkerProcesses(logs, "train_counting.py", num_workers, hosts=site.hosts)
        self._metrics_before = 0

    def start(self) -> None:
        """Starts all workers, always by the same command."""
        self._metrics_before = self._metrics_inode()
        self.workers.folder = self._logs / f"start_{self._starts}"
        self._starts += 1
        self.workers.start_all(*self._flags)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds, or a worker has ended."""
        while not condition() and all(process.poll() is None for process in self.workers.processes.values()):
            time.sleep(0.01)

    def wait_for_step(self, steps_ahead: int) -> None:
        """Waits until this start has done so many steps, or a worker has ended."""
        self.wait_for(lambda: self.trains() and self.last_step() - self.resumed_at() >= steps_ahead)

    def wait_seconds(self, seconds: float) -> None:
        """Waits so long, or until a worker has ended."""
        until = time.monotonic() + seconds
        self.wait_for(lambda: time.monotonic() > until)

    def wait_until_gone(self, seconds: float, spared: frozenset[int] | set[int] = frozenset()) -> list[int | None]:
        """Waits for all processes but the spared; one that still runs after `seconds` is killed. Returns exit codes."""
        deadline = time.monotonic() + seconds
        waited = {index: process for index, process in self.workers.processes.items() if index not in spared}
        while any(process.poll() is None for process in waited.values()):
            if time.monotonic() > deadline:
                print(f"HANGS: killed after {seconds:g} s, see {self.workers.folder}", file=sys.stderr)
                for process in waited.values():
                    process.kill()
            time.sleep(0.01)
        return [process.poll() for _, process in sorted(self.workers.processes.items())]

    def trains(self) -> bool:
        """Tells whether this start of it has opened its metrics and dropped what a former one left."""
        return self._metrics_inode() != self._metrics_before

    def last_step(self) -> int:
        """Returns the last step in metrics.jsonl, by whichever start."""
        return max((row["step"] for row in read_rows(self.workdir)), default=0)

    def resumed_at(self) -> int:
        """Returns the step of the checkpoint that this start went on from."""
        for line in self.workers.log(0).splitlines():
            if "Goes on from step " in line:
                return int(line.split("Goes on from step ")[1].split(".")[0])
        return 0

    def _metrics_inode(self) -> int:
        path = self.workdir / "metrics.jsonl"
        return path.stat().st_ino if path.exists() else 0


def read_rows(workdir: pathlib.Path) -> list[dict]:
    """Returns the rows of a metrics.jsonl, without a last line that is still being written."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
