"""The whole examination: its facts, its figures, its reports, and the command."""

import json
import logging
import math
import os
import subprocess
import sys

import keras
import numpy as np
import planted_checks
import pytest
import tensorflow as tf
from paths import REPO
from planted_checks import planted
from single_checks import damage, doctor_config
from toy_dataset import write_toy_dataset

from tl_distributed import doctor
from tl_distributed.diagnosis import devices, measure
from tl_distributed.diagnosis.checks import Subject, run_check
from tl_distributed.diagnosis.report import FACT, FAILED, OK, WARNING, Finding, as_json, as_text

COUNTS = {"train": 24, "val": 6}


@pytest.fixture(scope="module")
def examined(tmp_path_factory) -> dict[str, Finding]:
    """Every check on four replicas, by name of the finding."""
    folder = tmp_path_factory.mktemp("doctor")
    data_dir = write_toy_dataset(folder / "data", counts=COUNTS)
    subject = Subject(doctor_config(data_dir=data_dir, workdir=str(folder / "runs" / "new"), augment="none"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_LARGEST_SIDE", 512)
        patch.setattr(devices, "_ALL_REDUCE_BYTES", {"CPU": 40_000})
        findings = [finding for check in doctor.CHECKS for finding in run_check(check, subject)]
    keras.config.set_dtype_policy("float32")
    assert not (folder / "runs").exists()  # looking leaves nothing behind
    assert {finding.status for finding in findings} <= {FACT, OK, WARNING}, as_text(findings, "")
    return {finding.name: finding for finding in findings}


def test_facts_are_those_of_this_process(examined):
    assert examined["tensorflow"].value == tf.__version__ and examined["numpy"].value == np.__version__
    assert examined["keras"].value == keras.__version__ and examined["Keras backend"].value == "tensorflow"
    commit = subprocess.run(["git", "-C", REPO, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert (commit or "unknown") in examined["tl_distributed"].value
    assert examined["cores"].data["cores"] == os.cpu_count() >= examined["cores"].data["usable_cores"] >= 1
    assert 0 < examined["memory"].data["free_bytes"] < examined["memory"].data["total_bytes"]
    assert examined["strategy"].value == "MirroredStrategy, 4 replicas (--strategy=auto)"
    assert examined["batch"].value == "16 images in all, 4 a replica"
    assert examined["precision"].value == "float32: --precision=auto, no GPU"
    assert examined["XLA"].value.startswith("off: --xla=auto: on a CPU")
    assert examined["workdir"].data["free_bytes"] > 0
    data = examined["data set"]
    assert "3 classes, 24 train, 6 val: images of 16x16x3" in data.value and data.data["verified_in_full"]


def test_speeds_follow_from_the_raw_times(examined):
    for index in range(1, 5):  # CPU:0 is the host
        data = examined[f"matmul CPU:{index}"].data
        assert len(data["seconds"]) == 10 and min(data["seconds"]) > 0
        operations = data["products"] * data["side"] ** 2 * (2 * data["side"])
        assert data["teraflops_median"] == pytest.approx(operations / np.median(data["seconds"]) / 1e12)
        assert f"{data['teraflops_median']:.3g} TFLOP/s float32" in examined[f"matmul CPU:{index}"].value
    data = examined["all-reduce"].data
    assert data["num_bytes"] == 40_000 and data["num_replicas"] == 4
    expected = 40_000 * 2 * 3 / 4 / np.median(data["seconds"]) / 1e9
    assert data["bus_gigabytes_per_second_median"] == pytest.approx(expected)
    assert f"{expected:.3g} GB/s" in examined["all-reduce"].value


def test_the_engine_learns_the_random_images(examined):
    data = examined["training step"].data
    assert data["losses"][0] == pytest.approx(math.log(10), abs=0.7)  # an untrained guess among ten classes
    assert data["losses"][-1] < data["losses"][0]
    assert data["weights_changed"] and data["replicas_agree"] and not any(data["skipped"])
    assert data["seconds"][0] > max(data["seconds"][1:])  # compilation is in the first one alone


def test_reports_of_it(examined):
    findings = list(examined.values())
    text = as_text(findings, "title")
    assert text.splitlines()[0] == "title" and text.endswith(": training would run.")
    assert all(line.isprintable() and len(line) <= 160 for line in text.splitlines())
    content = json.loads(json.dumps(as_json(findings, "title")))
    assert not content["training_would_fail"] and len(content["findings"]) == len(findings)


@pytest.fixture
def _logger():
    logger = logging.getLogger("tl_distributed")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.usefixtures("_logger")
def test_exit_code_tells_whether_training_would_fail(tmp_path, monkeypatch, capsys):
    path = tmp_path / "report.json"
    cases = {("good",): 0, ("good", "is_killed"): 1}
    for names, code in cases.items():
        monkeypatch.setattr(doctor, "CHECKS", tuple(planted(getattr(planted_checks, name)) for name in names))
        assert doctor.main(doctor_config(json=str(path)), []) == code
        output = capsys.readouterr().out
        assert output.endswith(f"training would {'fail' if code else 'run'}.\n")
        content = json.loads(path.read_text())
        assert content["training_would_fail"] == bool(code) and len(content["findings"]) == len(names)
    assert "SIGKILL, as the system does" in output
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_the_whole_command(data_dir, tmp_path):
    damage(data_dir, "bit")
    command = [
        sys.executable, "-m", "tl_distributed.doctor", f"--data_dir={data_dir}", "--virtual_devices=2",
        "--global_batch_size=8", f"--json={tmp_path}/report.json", f"--workdir={tmp_path}/run",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment)
    assert result.returncode == 1, result.stderr
    content = json.loads((tmp_path / "report.json").read_text())
    statuses = {finding["name"]: finding["status"] for finding in content["findings"]}
    assert [name for name, status in statuses.items() if status == FAILED] == ["data set"]
    assert statuses["matmul CPU:1"] == statuses["all-reduce"] == statuses["training step"] == OK
    assert all(line.isprintable() for line in result.stdout.splitlines())
    assert "1 failed" in result.stdout.splitlines()[-1]
    assert [line.split(maxsplit=1)[1] for line in result.stderr.splitlines()] == [c.name for c in doctor.CHECKS]
    assert not (tmp_path / "run").exists()
