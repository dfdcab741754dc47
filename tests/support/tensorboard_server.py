"""A real TensorBoard on a free loopback port, read through the HTTP data API that its web page uses."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

_START_SECONDS = 60
_LOAD_SECONDS = 30


class TensorBoardClient:
    """Asks one server; a run is the folder's path below the log folder, with "/" between parts."""

    def __init__(self, address: str):
        self._address = address

    def get(self, path: str, **query: Any) -> Any:
        """Returns the parsed JSON of e.g. `data/plugin/scalars/tags`."""
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: Any) -> bytes:
        with urllib.request.urlopen(f"{self._address}/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return answer.read()

    def tags(self, plugin: str) -> dict[str, set[str]]:
        """Returns {run: tags} of the plugin `scalars`, `images` or `text`."""
        return {run: set(tags) for run, tags in self.get(f"data/plugin/{plugin}/tags").items()}

    def scalar_points(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Returns the (step, value) points of a curve."""
        return [(step, value) for _, step, value in self.get("data/plugin/scalars/scalars", run=run, tag=tag)]

    def hparams_rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the HParams table: `{"name", "hparams": {...}, "metrics": {tag: value}}`.

        The table is asked for as the page does: first which metrics there are, then their values.
        """
        experiment = self._post("data/plugin/hparams/experiment", {"experimentName": ""})
        names = [info["name"] for info in experiment.get("metricInfos", [])]
        request = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "colParams": [{"metric": name} for name in names],
            "startIndex": 0,
            "sliceSize": 100,
        }
        groups = self._post("data/plugin/hparams/session_groups", request)["sessionGroups"]
        return [
            {
                "name": group["name"],
                "hparams": group["hparams"],
                "metrics": {_metric_name(value["name"]): value["value"] for value in group["metricValues"]},
            }
            for group in groups
        ]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self._address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


def _metric_name(name: dict[str, str]) -> str:
    return "/".join(filter(None, (name.get("group", ""), name["tag"])))


@contextlib.contextmanager
def serve(log_folder: str, *, expected_runs: int = 1, fast_loading: bool = True) -> Iterator[TensorBoardClient]:
    """Starts `tensorboard --logdir=log_folder` and waits until it has loaded `expected_runs` runs.

    Args:
      log_folder: What to show.
      expected_runs: Runs (folders with events) to wait for.
      fast_loading: False reads the files with TensorBoard's Python reader instead of its data server.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--logdir={log_folder}", "--host=127.0.0.1", f"--port={port}", "--reload_interval=1"]
    flags.append(f"--load_fast={'auto' if fast_loading else 'false'}")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        client = TensorBoardClient(f"http://127.0.0.1:{port}")
        _wait_for_runs(client, server, expected_runs)
        yield client
    finally:
        server.terminate()
        server.communicate(timeout=30)


def _wait_for_runs(client: TensorBoardClient, server: subprocess.Popen, expected_runs: int) -> None:
    deadline = time.monotonic() + _START_SECONDS + _LOAD_SECONDS
    runs: list[str] = []
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"tensorboard ended: {server.stdout.read().decode()}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            runs = client.get("data/runs")
            if len(runs) >= expected_runs:
                time.sleep(1.5)  # one more reload: a run is listed with its first event
                return
        time.sleep(0.2)
    raise TimeoutError(f"tensorboard shows {runs}, expected {expected_runs} runs")
