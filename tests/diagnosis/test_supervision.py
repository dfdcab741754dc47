"""Checks that end badly, hang or die, and several workers that examine together."""

import dataclasses
import json
import os
import subprocess
import sys

import planted_checks
import pytest
from paths import REPO
from planted_checks import planted
from single_checks import doctor_config
from worker_processes import WorkerProcesses

from tl_distributed.diagnosis.checks import Subject, run_check
from tl_distributed.diagnosis.report import FAILED, NOT_RUN, OK, WARNING
from tl_distributed.diagnosis.supervision import examine


def test_a_check_that_raises_is_reported_and_what_it_found_is_kept():
    subject = Subject(doctor_config())
    begun, failed = run_check(planted(planted_checks.raises), subject)
    assert begun.status == OK and failed.status == FAILED
    assert failed.value == "ZeroDivisionError: first line" and failed.remedy == "send this report"
    assert any("planted_checks.py" in line for line in failed.detail)
    assert run_check(planted(planted_checks.raises, essential=False), subject)[1].status == WARNING
    (failed,) = run_check(planted(planted_checks.user_error), subject)
    assert (failed.value, failed.remedy) == ("--flag=3: too many; not three", "use --flag=2")
    (skipped,) = run_check(planted(planted_checks.not_run), subject)
    assert (skipped.status, skipped.value) == (NOT_RUN, "something else failed")


@pytest.mark.slow
def test_death_and_hanging_take_no_other_check_along():
    functions = ("good", "aborts", "exits", "hangs", "remembers_the_dead")
    checks = [planted(getattr(planted_checks, name)) for name in functions]
    checks[3] = dataclasses.replace(checks[3], remedy="look at NCCL")
    good, aborted, exited, hung, after = examine(doctor_config(), checks, check_seconds=15)
    assert good.status == OK and f"process {os.getpid()}" != good.value
    assert aborted.status == FAILED and aborted.value == "the process died of SIGABRT"
    assert "F external/driver.cc:7 Check failed: status == OK" in aborted.detail
    assert any("in aborts" in line for line in aborted.detail)  # where Python stood
    assert exited.value == "worker 1 ended without a word (the process ended with exit code 75)"
    assert exited.detail == ("error: worker 1 ended without a word",)
    assert hung.value == "no end after 15 s (--check_seconds)" and hung.remedy == "look at NCCL"
    assert any("in hangs" in line for line in hung.detail)
    assert after.value == "aborts,exits,hangs"


def test_a_check_without_limit_may_last():
    (finding,) = examine(doctor_config(), [planted(planted_checks.lasts, limited=False)], check_seconds=0.1)
    assert finding.status == OK


def start_worker(workers: WorkerProcesses, index: int, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tl_distributed.doctor", *workers.flags_of(index), "--global_batch_size=8", *flags]
    variables = {**os.environ, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_two_workers_look_at_one_another(data_dir, tmp_path):
    workers = WorkerProcesses(tmp_path / "logs", "", 2)
    processes = [
        start_worker(workers, index, f"--data_dir={data_dir}", f"--json={tmp_path}/r.json", f"--workdir={tmp_path}/run")
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for index, name in enumerate(("r.json", "r.worker1.json")):
        found = {finding["name"]: finding for finding in json.loads((tmp_path / name).read_text())["findings"]}
        assert found["worker"]["data"]["index"] == index and "of 2; 1 replica here" in found["worker"]["value"]
        assert found["all-reduce"]["data"]["num_replicas"] == 2
        assert found["training step"]["status"] == OK


def test_a_worker_that_is_not_there_fails_within_the_time(data_dir, tmp_path):
    workers = WorkerProcesses(tmp_path / "logs", "", 2)
    process = start_worker(workers, 0, f"--data_dir={data_dir}", "--worker_timeout_seconds=2")
    output = process.communicate(timeout=300)[0]
    lines = [line for line in output.splitlines() if line.startswith(("  FAILED", "  not run"))]
    assert "strategy" in lines[0] and workers.addresses[1] in output
    assert [line.split()[0] for line in lines] == ["FAILED", "not", "not", "not", "not", "not"]
