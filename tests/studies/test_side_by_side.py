"""Several runs on one node at a time: what each sees, and how they end together."""

import contextlib
import csv
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from paths import REPO
from toy_dataset import write_toy_dataset

from tl_distributed.data.machine import RUNS_ON_NODE
from tl_distributed.errors import UserError
from tl_distributed.studies.devices import Device, confine, devices_of_runs
from tl_distributed.studies.runner import train_in_process
from tl_distributed.studies.side_by_side import SideBySide, StoppedError

SECONDS = 120
COMMON = "backbone=baseline_cnn,transfer=scratch,global_batch_size=30,image_size=8,augment=none,dropout=0,xla=off"


@pytest.mark.parametrize(
    ("visible", "runs", "devices"),
    [
        ("0,1,2,3", 2, ("0", "1")), ("3,5", 2, ("3", "5")), ("GPU-ab, MIG-cd", 2, ("GPU-ab", "MIG-cd")),
        ("0,1", 1, ("",)), ("", 3, ("", "", "")), (None, 2, ("", "")), ("-1", 2, ("", "")), ("NoDevFiles", 2, ("", "")),
        ("0,1,-1,2", 2, ("0", "1")),
    ],
)  # fmt: skip
def test_each_run_sees_one_of_the_gpus_that_the_study_was_given(monkeypatch, visible, runs, devices):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert tuple(device.gpu for device in devices_of_runs(runs)) == devices


@pytest.mark.parametrize(
    ("cores", "runs", "shares"),
    [
        (range(8), 2, [(0, 1, 2, 3), (4, 5, 6, 7)]), ((2, 3, 5, 7, 11), 2, [(2, 3), (5, 7)]),
        (range(2), 3, [(0,), (1,), (0,)]), (range(4), 1, [()]),
    ],
)  # fmt: skip
def test_without_gpus_each_run_has_as_many_cores_as_the_others(monkeypatch, cores, runs, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process_id: set(cores))
    devices = devices_of_runs(runs)
    assert [device.cores for device in devices] == shares and not any(device.gpu for device in devices)


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity of processes here")

COUNT_POOLS = """
import pathlib
import sys

sys.stdin.readline()
import sklearn.cluster  # brings OpenMP
import tensorflow as tf
import threadpoolctl

tf.linalg.matmul(tf.ones([900, 900]), tf.ones([900, 900]))
names = [(path / "comm").read_text().strip() for path in pathlib.Path("/proc/self/task").iterdir()]
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
print(max(pools), sum(name.startswith("tf_Compute") for name in names))
"""


@pytest.mark.slow
@needs_affinity
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="has one core")
def test_openmp_and_tensorflow_have_as_many_threads_as_the_share_has_cores():
    cores = sorted(os.sched_getaffinity(0))
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    threads = {}
    for device in (Device(cores=(cores[0],)), Device(cores=tuple(cores[:2]))):
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT_POOLS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        confine(process.pid, device)
        output, _ = process.communicate("go\n", timeout=SECONDS)
        threads[len(device.cores)] = [int(word) for word in output.split()]
    assert [openmp for openmp, _ in threads.values()] == [1, 2]
    assert threads[1][1] < threads[2][1] == threads[1][1] + 1


@needs_affinity
def test_a_run_is_confined_to_its_share(tmp_path):
    psutil, core, seen = pytest.importorskip("psutil"), min(os.sched_getaffinity(0)), []

    def look() -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it, or what another test has left, has just ended
                if "tl_distributed.studies.child" in child.cmdline():
                    seen.append((child.cpu_affinity(), child.environ().get(RUNS_ON_NODE)))

    arguments, log = [f"--data_dir={tmp_path}/none"], tmp_path / "log"
    assert train_in_process(arguments, log, look, device=Device(cores=(core,), runs=3)) == 2, log.read_text()
    assert seen and all(found == ([core], "3") for found in seen)


def test_each_run_knows_how_many_share_the_memory(monkeypatch):
    for visible in ("", "0,1,2"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [device.runs for device in devices_of_runs(2)] == [2, 2] and devices_of_runs(1)[0].runs == 1


def test_more_runs_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="--runs_per_node=3: there are 2 GPUs in CUDA_VISIBLE_DEVICES=0,1"):
        devices_of_runs(3)


def test_as_many_jobs_as_devices_go_on_at_a_time_each_on_its_own():
    at_work, most, done, lock = set(), [], [], threading.Lock()

    def execute(job: int, device: Device) -> None:
        with lock:
            assert device not in at_work
            at_work.add(device)
            most.append(len(at_work))
        time.sleep(0.02)
        with lock:
            at_work.remove(device)
            done.append(job)

    SideBySide([Device(gpu=name) for name in "012"]).run(range(9), execute)
    assert sorted(done) == list(range(9)) and max(most) == 3


def test_the_end_of_one_stops_the_others_and_is_the_end_of_all():
    together, begun = SideBySide([Device(gpu=name) for name in "01"]), []

    def execute(job: int, device: Device) -> None:
        begun.append(job)
        if job == 0:
            raise SystemExit(138)
        deadline = time.monotonic() + SECONDS
        with pytest.raises(StoppedError):
            while time.monotonic() < deadline:
                together.raise_if_stopped()
        raise StoppedError

    with pytest.raises(SystemExit) as ended:
        together.run(range(5), execute)
    assert ended.value.code == 138 and set(begun) <= {0, 1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 60, "val": 12, "test": 24}
    return write_toy_dataset(tmp_path_factory.mktemp("study") / "toy", counts=counts, size=8)


def study(data_dir, workdir, *flags) -> subprocess.Popen:
    """Starts a study whose children are told of two GPUs, which this machine need not have."""
    command = [sys.executable, "-m", "tl_distributed.study", f"--data_dir={data_dir}", f"--workdir={workdir}", *flags]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,7", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def seen_by(process_id: int) -> str:
    text = pathlib.Path(f"/proc/{process_id}/environ").read_bytes().decode(errors="replace")
    return dict(part.split("=", 1) for part in text.split("\0") if "=" in part).get("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/environ").exists(), reason="looks at processes in /proc")
def test_two_runs_at_a_time_each_on_its_gpu_stop_together_and_go_on(data_dir, tmp_path):
    psutil = pytest.importorskip("psutil")
    arms = "--arms=one:head_units=8;two:head_units=4"
    process = study(data_dir, tmp_path, arms, f"--common={COMMON},epochs=100000,log_every_steps=1", "--runs_per_node=2")
    logs = [tmp_path / f"arms/{name}/all_images/seed_0/metrics.jsonl" for name in ("one", "two")]
    wait_for(lambda: all(log.exists() and log.read_text() for log in logs), process)
    assert sorted(seen_by(child.pid) for child in psutil.Process(process.pid).children()) == ["4", "7"]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, errors
    for log in logs:
        assert "checkpoint written; the same command goes on" in (log.parent / "log.txt").read_text()
    for name, device in (("one", "[47]"), ("two", "[47]")):
        assert re.search(rf"Study: run [12] of 2 on GPU {device}: {name}, all images, seed 0", errors)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_study_of_two_at_a_time_has_the_results_of_one_at_a_time(data_dir, tmp_path):
    arms = ["--arms=one:head_units=8;bad:transfer=frozen,backbone=resnet20,weights=nowhere", "--seeds=2"]
    rows = []
    for name, flags in (("two", ["--runs_per_node=2"]), ("one", [])):
        process = study(data_dir, tmp_path / name, *arms, f"--common={COMMON},epochs=1", *flags)
        out, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, errors
        assert "2 of 4 runs are done, 2 failed" in out
        table = csv.DictReader((tmp_path / name / "results.csv").open())
        rows.append([(row["arm"], row["seed"], row["status"], row["test_loss"]) for row in table])
    assert rows[0] == rows[1]


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
