"""Starts several workers of one run, each a process: on the loopback device, or each in a host of its own."""

import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

from network_namespaces import Namespaces
from paths import PYTHONPATH, SUPPORT

SECONDS = 240  # the most that any wait may take on a busy machine


def free_port_range(count: int) -> int:
    """Returns the first of `count` ports in a row that are free, below the range from which clients' are drawn."""
    while True:
        first = random.randrange(20000, 32000)
        try:
            for port in range(first, first + count):
                socket.create_server(("", port)).close()
        except OSError:
            continue
        return first


class WorkerProcesses:
    """A context manager: what still runs at its end is killed."""

    def __init__(self, folder: pathlib.Path, script: str, count: int, *, hosts: Namespaces | None = None):
        """Runs `tests/<script>`, worker n in host n where there are `hosts`; logs lie in `folder`."""
        self.folder, self._script, self._hosts = folder, script, hosts
        self.control_port = free_port_range(count + 1)
        names = hosts.addresses if hosts else ["127.0.0.1"] * count
        self.addresses = [f"{names[index]}:{self.control_port + 1 + index}" for index in range(count)]
        self.processes: dict[int, subprocess.Popen] = {}

    def start(self, index: int, *flags: str, **environment: str) -> subprocess.Popen:
        """Starts one worker."""
        path = PYTHONPATH
        environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment}
        command = [sys.executable, str(SUPPORT / self._script), *flags]
        if self._hosts:
            command = self._hosts.command(index, command)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{index}.log").open("wb") as log:
            self.processes[index] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self.processes[index]

    def start_all(self, *flags: str) -> "WorkerProcesses":
        """Starts every worker with `--workers` and `--worker_index`."""
        for index in range(len(self.addresses)):
            self.start(index, *self.flags_of(index), *flags)
        return self

    def flags_of(self, index: int) -> list[str]:
        return ["--strategy=multi_worker", f"--workers={','.join(self.addresses)}", f"--worker_index={index}"]

    def tf_config_of(self, index: int) -> str:
        return json.dumps({"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}})

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Waits for all, so long for each; returns their exit codes by index."""
        return [self.processes[index].wait(timeout=seconds) for index in sorted(self.processes)]

    def log(self, index: int) -> str:
        return (self.folder / f"{index}.log").read_text()

    def wait_until(self, condition) -> None:
        """Waits until `condition()` holds; all workers have to live until then."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            for index, process in self.processes.items():
                assert process.poll() is None, self.log(index)
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def __enter__(self) -> "WorkerProcesses":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
