"""The script that starts a run on this machine."""

import os
import signal
import subprocess
import sys
import time

import pytest
from paths import REPO
from toy_dataset import write_toy_dataset
from worker_processes import free_port_range


def start(*flags: str, **variables: str | None) -> subprocess.Popen:
    """Starts the script; a variable that is `None` is not set."""
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.Popen(
        ["bash", str(REPO / "launch/local.sh"), *flags], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_and_stop_together(tmp_path):
    data_dir = write_toy_dataset(tmp_path / "toy", counts={"train": 60, "val": 18, "test": 21}, size=8)
    process = start(
        "--backbone=baseline_cnn", "--transfer=scratch", "--augment=none", "--image_size=8", "--epochs=100000",
        "--global_batch_size=12", f"--data_dir={data_dir}", f"--workdir={tmp_path / 'run'}", "--xla=off",
        "--log_every_steps=1", WORKERS="2", PORT=str(free_port_range(3)),
    )  # fmt: skip
    metrics, deadline = tmp_path / "run/metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 128 + signal.SIGUSR1, output
    assert output.count("checkpoint written; the same command goes on") == 2
    assert list((tmp_path / "run/checkpoints").glob("step-*.index"))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORKERS": "two"}, "error: WORKERS=two is not a number of processes"),
        ({"WORKERS": "2", "CUDA_VISIBLE_DEVICES": "0,1,2"}, "error: 3 GPUs cannot be shared evenly by WORKERS=2"),
        ({}, "error: Unknown command line flag 'epoch'"),
    ],
)
def test_mistakes_end_with_a_line(variables, message):
    process = start("--epoch=2", **variables)
    assert message in process.communicate(timeout=60)[0]
    assert process.returncode == 2


@pytest.mark.parametrize("hidden", ["-1", "NoDevFiles", ""])
def test_hidden_gpus_are_none(hidden):
    process = start(WORKERS="2", CUDA_VISIBLE_DEVICES=hidden, PYTHON="/bin/true")
    assert process.communicate(timeout=60)[0] == "" and process.returncode == 0


@pytest.mark.parametrize(("code", "said"), [(6, "No devices were found"), (9, "NVIDIA-SMI has failed: no driver.")])
def test_what_nvidia_smi_says_of_no_gpu_is_no_gpu(tmp_path, code, said):
    """It says so on standard output."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n")
    command.chmod(0o755)
    variables = {"CUDA_VISIBLE_DEVICES": None, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "/bin/true"}
    process = start(WORKERS="2", **variables)
    assert process.communicate(timeout=60)[0] == "" and process.returncode == 0


def test_a_virtual_environment_is_found_from_any_folder(tmp_path):
    """The quickstart goes to the repository's folder after it has made it."""
    code = f'source "{REPO}/launch/environment.sh"; cd /; echo "$VENV"'
    done = subprocess.run(
        ["bash", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "VENV": "own"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/own\n"
