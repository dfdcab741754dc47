"""The scripts of `launch/` on a real SLURM: three nodes, each with a network and made-up GPUs of its own."""

import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import tensorflow as tf
from paths import REPO, SUPPORT
from slurm_cluster import SlurmCluster, why_unavailable
from toy_dataset import write_toy_dataset

pytestmark = pytest.mark.slurm

LAUNCH = REPO / "launch"
SECONDS = 240  # the most that any wait may take on a busy machine
VARIABLES = {"REPOSITORY": str(REPO), "PYTHON": sys.executable, "TF_CPP_MIN_LOG_LEVEL": "3"}
STEPS = 60
TRAIN = [
    "--backbone=baseline_cnn", "--transfer=scratch", "--augment=basic", "--image_size=16", "--epochs=4", "--xla=off",
    "--global_batch_size=24", "--precision=float32", "--dropout=0", "--log_every_steps=1", f"--max_steps={STEPS}",
    "--checkpoint_every_steps=5", "--worker_timeout_seconds=60",
]  # fmt: skip
TWO_NODES = ["--nodes=2", "--cpus-per-task=2"]


@pytest.fixture(scope="module")
def slurm():
    if reason := why_unavailable():
        pytest.skip(reason)
    with SlurmCluster(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where jobs are submitted from; relative paths begin here."""
    path = tmp_path_factory.mktemp("jobs")
    write_toy_dataset(path / "toy", counts={"train": 600, "val": 60, "test": 60}, size=32)
    return path


@pytest.fixture(scope="module")
def uninterrupted(slurm, folder):
    """Workdir of a run on two nodes with two replicas each."""
    flags = [*TRAIN, "--data_dir=toy", "--workdir=uninterrupted", "--virtual_devices=2"]
    job = submit(slurm, folder, "slurm_multi_node.sbatch", *flags, options=TWO_NODES)
    assert end_of(slurm, job) == "COMPLETED", log_of(folder, job)
    return folder / "uninterrupted"


def submit(slurm, folder, script, *flags, options=(), **variables) -> str:
    return slurm.submit(str(LAUNCH / script), *flags, folder=folder, options=options, **VARIABLES, **variables)


def end_of(slurm, job: str) -> str:
    """Waits until a job is over, and returns how it ended."""
    running = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
    slurm.wait_for(lambda: slurm.state(job) not in running, seconds=SECONDS)
    return slurm.state(job)


def log_of(folder, job: str) -> str:
    """Returns what a job has written, which no terminal is needed for."""
    text = "".join(path.read_text() for path in [*folder.glob(f"*-{job}.out"), *folder.glob(f"*-{job}_0.out")])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]", text), repr(text)
    return text


def last_checkpoint(workdir: pathlib.Path) -> int:
    return max((int(path.stem.split("-")[1]) for path in workdir.glob("checkpoints/step-*.index")), default=0)


def wait_for_checkpoint(slurm, folder, job, workdir, *, after: int) -> None:
    def has_come() -> bool:
        assert slurm.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), log_of(folder, job)
        return last_checkpoint(workdir) > after

    slurm.wait_for(has_come, seconds=SECONDS)


def wait_for_requeue(slurm, folder, job, *, restarts: int) -> None:
    """Waits until the job is back in the queue, and lets it begin soon."""
    slurm.wait_for(lambda: slurm.job(job)["Restarts"] == str(restarts), seconds=SECONDS)
    slurm.wait_for(lambda: slurm.state(job) == "PENDING", seconds=SECONDS)
    slurm.begin_soon(job)


def weights_of(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every variable of the last step: weights, statistics, optimizer."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"step-{STEPS}"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    values = {name: np.asarray(reader.get_tensor(name)) for name in names}
    return {name: value for name, value in values.items() if value.dtype.kind in "fiu"}


def assert_same_run(one: pathlib.Path, other: pathlib.Path, **tolerance: float) -> None:
    """Compares weights and the curve of every step."""
    expected, found = weights_of(one), weights_of(other)
    assert len(expected) > 10 and expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)
    curves = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (one, other)]
    losses = [[(row["step"], row["loss"]) for row in rows if "loss" in row] for rows in curves]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(losses[1], losses[0], **tolerance)


def test_two_nodes_train_as_one(slurm, folder, uninterrupted):
    """One process with four replicas on a copy of the data set on another disk, which is gone afterwards."""
    log = log_of(folder, "1")
    for index in (0, 1):
        assert f"({slurm.nodes[index]}:" in log
    assert "2 workers" in log and "6 for each of 4 replicas" in log
    flags = [*TRAIN, "--data_dir=toy", "--workdir=single", "--virtual_devices=4"]
    disk = pathlib.Path("/dev/shm")
    job = submit(slurm, folder, "slurm_single_node.sbatch", *flags, options=["--exclusive"], SLURM_TMPDIR=str(disk))
    assert end_of(slurm, job) == "COMPLETED", log_of(folder, job)
    assert re.search(r"copied toy to (/dev/shm/\S+) in", log_of(folder, job))
    assert re.search(r"Data /dev/shm/\S+: 3 classes", log_of(folder, job))
    assert not list(disk.glob("tl_distributed-*"))
    assert json.loads((folder / "single/config.json").read_text())["config"]["data_dir"] == "toy"
    assert_same_run(uninterrupted, folder / "single", rtol=2e-3, atol=2e-5)


def test_one_task_a_gpu(slurm, folder, uninterrupted):
    """Each task is handed one of a node's GPUs; here they are made up, so that the tasks train on the CPU.

    They read one copy of the data set, which a step before theirs has made.
    """
    flags, disk = [*TRAIN, "--data_dir=toy", "--workdir=per_gpu"], pathlib.Path("/dev/shm")
    options = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-task=1"]
    job = submit(slurm, folder, "slurm_multi_node.sbatch", *flags, options=options, SLURM_TMPDIR=str(disk))
    assert end_of(slurm, job) == "COMPLETED", log_of(folder, job)
    assert log_of(folder, job).count("copied toy to /dev/shm/") == 1 and not list(disk.glob("tl_distributed-*"))
    assert "GPUs a node: 2" in log_of(folder, job) and "4 workers" in log_of(folder, job)
    assert_same_run(uninterrupted, folder / "per_gpu", rtol=2e-3, atol=2e-5)


def test_a_signal_and_the_loss_of_a_node_change_nothing(slurm, folder, uninterrupted):
    """The job is put back into the queue twice, and ends on a node that was spare at first."""
    workdir = folder / "interrupted"
    flags = [*TRAIN, "--data_dir=toy", f"--workdir={workdir}", "--virtual_devices=2"]
    job = submit(slurm, folder, "slurm_multi_node.sbatch", *flags, options=TWO_NODES)
    wait_for_checkpoint(slurm, folder, job, workdir, after=0)
    slurm.run("scancel", "--signal=USR1", job)
    wait_for_requeue(slurm, folder, job, restarts=1)
    stopped = last_checkpoint(workdir)
    assert 0 < stopped < STEPS
    assert f"Stopped at step {stopped}, checkpoint written" in log_of(folder, job)
    assert "Exit code 138: back into the queue" in log_of(folder, job)

    wait_for_checkpoint(slurm, folder, job, workdir, after=stopped)
    slurm.kill_node(1)
    wait_for_requeue(slurm, folder, job, restarts=2)
    lost = last_checkpoint(workdir)
    assert stopped < lost < STEPS
    assert "ended without a word" in log_of(folder, job)

    assert end_of(slurm, job) == "COMPLETED", log_of(folder, job)
    assert f"({slurm.nodes[2]}:" in log_of(folder, job)
    assert f"Goes on from step {lost}." in log_of(folder, job)
    slurm.start_node(1)
    assert_same_run(uninterrupted, workdir, rtol=0)


def test_an_array_trains_a_study_and_ends_in_one_report(slurm, folder):
    flags = [
        "--arms=small:head_units=;wide:head_units=32", "--data_dir=toy", "--workdir=study",
        "--common=backbone=baseline_cnn,transfer=scratch,epochs=1,global_batch_size=60,image_size=16,augment=none",
    ]  # fmt: skip
    job = submit(slurm, folder, "study_array.sbatch", *flags, options=["--array=0-1", "--gpus-per-node=1"])
    slurm.wait_for(lambda: list(folder.glob(f"study-{job}_0.out")), seconds=SECONDS)
    slurm.wait_for(lambda: "Submitted batch job" in log_of(folder, f"{job}_0"), seconds=SECONDS)
    report = re.search(r"Submitted batch job (\d+)", log_of(folder, f"{job}_0"))[1]
    for task in (0, 1):
        assert end_of(slurm, f"{job}_{task}") == "COMPLETED", log_of(folder, f"{job}_{task}")
    slurm.begin_soon(report)
    assert end_of(slurm, report) == "COMPLETED", log_of(folder, report)
    began = datetime.datetime.fromisoformat(slurm.job(report)["StartTime"]).timestamp()
    assert (folder / "study/report.html").stat().st_mtime >= began  # no arm wrote it
    assert "2 of 2 runs are done, 0 failed" in log_of(folder, report)
    assert "Submitted batch job" not in log_of(folder, f"{job}_1")
    page = (folder / "study/report.html").read_text()
    assert "small" in page and "wide" in page


def test_every_task_of_an_array_goes_back_into_the_queue(slurm, folder, tmp_path):
    """The last one has the array's own number, by which SLURM's commands mean all of them.

    The job hands on some variables alone (sbatch --export), as many sites want it.
    """
    python = tmp_path / "python"
    python.write_text("""#!/bin/bash
        case "$*" in --version) echo Python ;; -c*) ;; *--list_arms) printf 'a\\nb\\n' ;; *)
          trap 'exit 138' USR1
          echo "begins with PYTHONPATH=$PYTHONPATH"
          while sleep 0.1; do :; done ;; esac
    """)
    python.chmod(0o755)
    options = ["--array=0-1", f"--export=REPOSITORY={REPO},PYTHON={python}"]
    job = slurm.submit(str(LAUNCH / "study_array.sbatch"), folder=folder, options=options)
    tasks = [f"{job}_{task}" for task in (0, 1)]

    def log(task: str) -> str:
        return "".join(path.read_text() for path in folder.glob(f"*-{task}.out"))

    try:
        slurm.wait_for(lambda: all("begins with" in log(task) for task in tasks), seconds=SECONDS)
        assert all(f"PYTHONPATH={REPO}" in log(task) for task in tasks)
        slurm.run("scancel", "--signal=USR1", "--batch", job)
        for task in tasks:
            slurm.wait_for(lambda task=task: slurm.job(task)["Restarts"] == "1", seconds=SECONDS)
            assert log(task).count("back into the queue") == 1
    finally:
        slurm.run("scancel", job)
        slurm.run("scancel", "--name=report")


@pytest.mark.parametrize(
    ("script", "flag", "options"),
    [
        ("slurm_single_node", "--epoch=2", []),
        ("slurm_multi_node", "--backbone=alexnet", ["--nodes=2"]),
        ("study_array", "--arms=small:head_units=1", ["--array=0"]),
    ],
)
def test_a_wrong_flag_fails_the_job_in_seconds(slurm, folder, script, flag, options):
    job = submit(slurm, folder, f"{script}.sbatch", flag, options=options)
    slurm.wait_for(lambda: slurm.state(job) == "FAILED", seconds=15)
    assert slurm.job(job)["ExitCode"] == "2:0" and slurm.job(job)["Restarts"] == "0"
    assert re.search(rf"^error: .*{flag.partition('=')[0][2:]}", log_of(folder, job), re.MULTILINE)


def test_tasks_that_would_share_gpus_are_refused(slurm, folder):
    options = ["--ntasks-per-node=2", "--gpus-per-node=2"]
    job = submit(slurm, folder, "slurm_multi_node.sbatch", *TRAIN, options=options)
    assert end_of(slurm, job) == "FAILED"
    assert "give --gpus-per-task=1" in log_of(folder, job)


def test_a_cancelled_job_stays_cancelled_and_requeues_have_a_limit(slurm, folder):
    def begin(name: str, **variables: str) -> str:
        flags = [*TRAIN, "--data_dir=toy", f"--workdir={name}", "--max_steps=0", "--epochs=1000"]
        return submit(slurm, folder, "slurm_single_node.sbatch", *flags, **variables)

    cancelled, limited = begin("cancelled"), begin("limited", MAX_REQUEUES="0")
    wait_for_checkpoint(slurm, folder, cancelled, folder / "cancelled", after=0)
    slurm.run("scancel", cancelled)
    wait_for_checkpoint(slurm, folder, limited, folder / "limited", after=0)
    slurm.run("scancel", "--signal=USR1", "--batch", limited)  # as when the time limit is near
    assert end_of(slurm, cancelled) == "CANCELLED"
    assert slurm.job(cancelled)["Restarts"] == "0" and "back into the queue" not in log_of(folder, cancelled)
    assert end_of(slurm, limited) == "FAILED"
    assert slurm.job(limited)["ExitCode"] == f"{128 + signal.SIGUSR1}:0"
    assert "error: exit code 138 after 0 restarts (MAX_REQUEUES)" in log_of(folder, limited)


def test_an_interrupted_cluster_leaves_nothing(slurm):
    """Another one, at the same time."""
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "slurm_cluster.py"), "1"], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a suite may ignore it
    )  # fmt: skip
    configuration = process.stdout.readline().strip().removeprefix("export SLURM_CONF=")

    def left() -> list[str]:
        """Returns what is there of it."""
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        namespaces = [path.name for path in pathlib.Path("/run/netns").glob("*")]
        names = re.findall(
            rf"tld{process.pid}\w*", " ".join([links, *namespaces, pathlib.Path("/etc/hosts").read_text()])
        )
        others = [other for other in psutil.process_iter(["environ"]) if other.pid != os.getpid()]
        daemons = [str(other) for other in others if configuration in (other.info["environ"] or {}).values()]
        return names + daemons + [str(path) for path in [pathlib.Path(configuration).parent] if path.exists()]

    assert len(left()) >= 5
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert left() == []
    assert slurm.run("sinfo", "-h")
