"""The study's runs with real training, in processes of their own: comparing, failing, stopping."""

import csv
import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from paths import REPO
from toy_dataset import write_toy_dataset


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 120, "val": 30, "test": 60}
    return write_toy_dataset(tmp_path_factory.mktemp("study") / "toy", counts=counts, size=8)


@pytest.mark.slow
def test_command_trains_compares_and_goes_on(data_dir, tmp_path):
    """Two arms in processes of their own, of which one fails; the second start trains nothing."""
    command = [
        sys.executable, "-m", "tl_distributed.study", f"--data_dir={data_dir}", f"--workdir={tmp_path / 'study'}",
        "--arms=cnn:backbone=baseline_cnn,transfer=scratch;bad:backbone=resnet20,transfer=frozen,weights=nowhere",
        "--common=epochs=2,global_batch_size=30,image_size=8,augment=none,dropout=0", "--images_per_class=20",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    assert first.returncode == 1, first.stderr
    assert "1 of 2 runs are done, 1 failed." in first.stdout
    assert "Study: run 1 of 2: cnn, 20 images a class, seed 0" in first.stderr
    assert "--weights=nowhere" in first.stderr
    assert "Traceback" not in first.stderr
    results = json.loads((tmp_path / "study/arms/cnn/20_per_class/seed_0/results.json").read_text())
    row = next(csv.DictReader((tmp_path / "study/results.csv").open()))
    assert float(row["test_accuracy"]) == results["test_accuracy"]
    assert int(row["images_seen"]) == 4 * 30
    before = (tmp_path / "study/arms/cnn/20_per_class/seed_0/results.json").stat().st_mtime_ns
    second = subprocess.run([*command, "--report_only"], capture_output=True, text=True, cwd=REPO, check=False)
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "study/arms/cnn/20_per_class/seed_0/results.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_study_stops_its_run_which_keeps_a_checkpoint(data_dir, tmp_path, number):
    """Also where the study has no time to say so."""
    run, log = tmp_path / "run", tmp_path / "log.txt"
    arguments = [
        "--backbone=baseline_cnn", "--transfer=scratch", "--epochs=100000", "--image_size=8", "--log_every_steps=1",
        "--augment=none", "--global_batch_size=30", f"--data_dir={data_dir}", f"--workdir={run}",
    ]  # fmt: skip
    script = (
        "import pathlib, sys; from tl_distributed.studies.runner import train_in_process; "
        "train_in_process(sys.argv[2:], pathlib.Path(sys.argv[1]), lambda: None)"
    )
    study = subprocess.Popen(
        [sys.executable, "-c", script, str(log), *arguments], cwd=REPO, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )  # fmt: skip
    _wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text(), study)
    study.send_signal(number)
    _wait_for(lambda: "checkpoint written; the same command goes on" in log.read_text())
    study.wait(timeout=60)
    assert list((run / "checkpoints").glob("step-*.index"))


@pytest.mark.slow
def test_a_cluster_stops_the_arm_that_it_trains(data_dir, tmp_path):
    """SLURM's warning reaches both, the study and its run; another machine trains the other arm."""
    command = [
        sys.executable, "-m", "tl_distributed.study", f"--data_dir={data_dir}", f"--workdir={tmp_path}",
        "--arm_index=1", "--arms=first:head_units=8;second:head_units=",
        "--common=backbone=baseline_cnn,transfer=scratch,epochs=100000,global_batch_size=30,image_size=8,augment=none",
    ]  # fmt: skip
    study = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "arms/second/all_images/seed_0"
    _wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text(), study)
    for process in (psutil.Process(study.pid).children()[0], study):
        process.send_signal(signal.SIGUSR1)
    assert study.wait(timeout=90) == 128 + signal.SIGUSR1, study.stderr.read()
    assert "checkpoint written; the same command goes on" in (run / "log.txt").read_text()
    assert list((run / "checkpoints").glob("step-*.index")) and not (run / "failure.json").exists()
    assert not (tmp_path / "arms/first").exists() and not (tmp_path / "report.html").exists()


def _wait_for(condition, process=None):
    deadline = time.monotonic() + 90
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
