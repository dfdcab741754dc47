"""A study on two workers: real processes on loopback, each of which starts its part of every run."""

import csv
import json
import signal

import numpy as np
import pytest
from toy_dataset import write_toy_dataset
from worker_processes import WorkerProcesses, free_port_range

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster import Cluster
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.studies import runner, together
from tl_distributed.training.run import train_and_evaluate

SETTINGS = {
    "transfer": "scratch", "epochs": 20, "global_batch_size": 8, "image_size": 8, "augment": "none", "dropout": 0.0,
    "steps_per_loop": 1, "xla": "off", "precision": "float32", "input_mode": "memory",
}  # fmt: skip
CNN = "cnn:backbone=baseline_cnn"
BAD = "bad:backbone=resnet20,transfer=frozen,weights=nowhere"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 60, "val": 12, "test": 24}
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=counts, size=8)


@pytest.mark.slow  # two workers, three starts
def test_a_study_on_two_workers_stops_together_and_goes_on(data_dir, tmp_path):
    workdir, port = tmp_path / "study", free_port_range(1)
    common = ",".join(f"{name}={value}" for name, value in {**SETTINGS, "virtual_devices": 2}.items())
    flags = [f"--data_dir={data_dir}", f"--workdir={workdir}", f"--common={common}", f"--study_port={port}"]
    run = workdir / "arms" / "cnn" / "all_images" / "seed_0"
    with WorkerProcesses(tmp_path / "first", "study_process.py", 2) as workers:
        workers.start_all(*flags, f"--arms={CNN}")
        workers.wait_until(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text())
        workers.processes[1].send_signal(signal.SIGUSR1)
        assert workers.wait() == [128 + signal.SIGUSR1] * 2, workers.log(0) + workers.log(1)
    for name in ("log.txt", "log.worker1.txt"):
        assert "checkpoint written; the same command goes on" in (run / name).read_text()
    assert not (run / "failure.json").exists() and not (workdir / "report.html").exists()
    with WorkerProcesses(tmp_path / "second", "study_process.py", 2) as workers:
        workers.start_all(*flags, f"--arms={BAD};{CNN}")
        assert workers.wait() == [1, 1], workers.log(0) + workers.log(1)
        log = workers.log(0)
        assert "Study: run 2 of 2: cnn" in log and "bad, all images, seed 0 failed: " in log
        assert "1 of 2 runs are done, 1 failed" in log
        assert "Study: run" not in workers.log(1) and "Report:" not in workers.log(1)
        assert "Traceback" not in log + workers.log(1)
    assert "Goes on from step" in (run / "log.txt").read_text()
    assert (
        "--weights=nowhere" in json.loads((run.parents[2] / "bad/all_images/seed_0/failure.json").read_text())["reason"]
    )
    rows = {row["arm"]: row for row in csv.DictReader((workdir / "results.csv").open())}
    assert (rows["bad"]["status"], rows["cnn"]["status"]) == ("failed", "done")
    assert (workdir / "report.html").exists()
    written = json.loads((run / "config.json").read_text())
    assert (written["workers"], written["replicas"]) == (2, 4)
    alone = Config(
        **SETTINGS, backbone="baseline_cnn", strategy="mirrored", data_dir=data_dir, workdir=str(tmp_path / "alone")
    )
    expected = train_and_evaluate(alone)
    assert json.loads((run / "results.json").read_text())["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-3)
    np.testing.assert_allclose(float(rows["cnn"]["test_accuracy"]), expected["test_accuracy"])


class TwoWorkers(Workers):
    """The other one has nothing of its own to say, except the exit code of its part of the run."""

    count = 2

    def __init__(self, other_code: int):
        self._other_code = other_code

    def exchange(self, topic, value):
        return [value, {"exit code": self._other_code, "reason": "it broke" if self._other_code else None}.get(topic)]


def train_once(tmp_path, code: int, other_code: int):
    def train(arguments, log, while_waiting):
        log.write_text("error: mine\n" if code else "fine\n")
        return code

    return runner._train_once(str(tmp_path), [], train, lambda: None, TwoWorkers(other_code))


def test_a_run_that_failed_on_any_worker_failed(tmp_path):
    assert train_once(tmp_path, 0, 0) is None
    assert train_once(tmp_path, 2, 0) == "mine"
    assert train_once(tmp_path, 0, 75) == "it broke"
    assert json.loads((tmp_path / "failure.json").read_text()) == {"exit_code": 75, "reason": "it broke"}
    assert train_once(tmp_path, 0, 0) is None
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize(("code", "other_code", "expected"), [(0, 143, 143), (138, 75, 138)])
def test_a_run_that_was_stopped_on_any_worker_stops_the_study(tmp_path, code, other_code, expected):
    with pytest.raises(SystemExit) as ended:
        train_once(tmp_path, code, other_code)
    assert ended.value.code == expected and not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize("port", [100, 101, 99])
def test_a_port_of_the_runs_is_refused(port):
    cluster = Cluster(("a:101", "b:102"), 0, 100)
    if port == 99:
        assert together._beside_the_runs(cluster, 0).control_port == 99
        return
    with pytest.raises(UserError, match=f"--study_port: {port} is no port, or one of the runs' own"):
        together._beside_the_runs(cluster, port)
