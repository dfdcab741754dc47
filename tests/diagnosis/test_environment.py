"""Software, machine and environment variables as the doctor finds them; drivers are played."""

import importlib.metadata
import json
import os

import keras
from single_checks import doctor_config, run

from tl_distributed.diagnosis import environment, gpus
from tl_distributed.diagnosis.checks import Check, Subject, run_check
from tl_distributed.diagnosis.report import FACT, FAILED, OK, WARNING, Finding, as_json, as_text
from tl_distributed.runtime import visible_gpus


def test_requirements_are_compared_with_what_is_installed(monkeypatch):
    declared = ["numpy>=1.26", "pillow>=999", "no-such-package-at-all", "ruff>=999; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    (finding,) = environment.requirements(Subject(doctor_config()))
    assert finding.status == FAILED and finding.data["missing"] == ["no-such-package-at-all"]
    installed = importlib.metadata.version("pillow")
    assert finding.data["outside_range"] == [f"pillow {installed} (takes >=999)"]
    declared[2:3] = []
    assert next(iter(environment.requirements(Subject(doctor_config())))).status == WARNING
    declared[1:2] = []
    (finding,) = environment.requirements(Subject(doctor_config()))
    assert (finding.status, finding.value) == (OK, "all 1 as declared")


def test_another_keras_backend_fails(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    (finding,) = run(environment.keras_backend)
    assert (finding.status, finding.value) == (FAILED, "jax") and "KERAS_BACKEND" in finding.remedy


def test_secrets_are_not_shown(monkeypatch):
    for name in [name for name in os.environ if environment._SHOWN_VARIABLES.match(name)]:
        monkeypatch.delenv(name)
    (nothing,) = run(environment.variables)
    assert nothing.name == "none"
    secret = "hunter2hunter2"
    hidden = {
        "SLURM_JWT": secret, "TF_API_KEY": secret, "NVIDIA_PASSWORD": secret, "TF_PROXY": f"http://me:{secret}@host",
        "TF_EXTRA": f"a --token={secret}", "SLURM_BLOB": f"eyJ{secret}.e30.x",
    }  # fmt: skip
    shown = {"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_ID": "7", "XLA_FLAGS": "--a=b\x1b[31m\n--c", "HOME_OF_X": secret}
    for name, value in {**hidden, **shown}.items():
        monkeypatch.setenv(name, value)
    findings = run(environment.variables)
    assert {finding.name for finding in findings} == {*hidden, *shown} - {"HOME_OF_X"}
    values = {finding.name: finding.value for finding in findings}
    assert {values[name] for name in hidden} == {"(set, not shown)"} and values["CUDA_VISIBLE_DEVICES"] == "(empty)"
    text = as_text(findings, f"--data_dir=s3://me:{secret}@host/x")
    assert secret not in text and secret not in json.dumps(as_json(findings, f"s3://me:{secret}@host"))
    assert all(line.isprintable() for line in text.splitlines()) and "--a=b [31m --c" in text


def test_a_long_value_is_cut(monkeypatch):
    monkeypatch.setenv("NVIDIA_REQUIRE_CUDA", "brand=tesla,driver>=535 " * 100)
    (found,) = [finding for finding in run(environment.variables) if finding.name == "NVIDIA_REQUIRE_CUDA"]
    assert found.value.startswith("brand=tesla,driver>=535 ") and found.value.endswith("... (2,400 characters)")
    assert len(found.value) < 450


def test_a_cluster_that_is_not_used_is_a_warning(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    *_, finding = run(environment.variables)
    assert finding.status == WARNING and "TF_CONFIG" in finding.value


def test_a_cluster_is_shown_as_resolved(monkeypatch):
    flags = {"strategy": "multi_worker", "workers": ("a:1000", "b:1000"), "worker_index": 1}
    *_, finding = run(environment.variables, **flags)
    assert finding.value.startswith("2 workers: a:1000, b:1000; this is worker 1 (b:1000)")


def play_driver(tmp_path, monkeypatch, script: str) -> list[Finding]:
    """Puts a driver and an `nvidia-smi` in place, and returns what is found."""
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder)\n"
    )
    monkeypatch.setattr(visible_gpus, "_DRIVER_FILE", str(version))
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    chatter = ["W0000 cuda_executor.cc Cannot dlopen some GPU libraries.", "something else"]
    check = Check("GPUs", "GPUs", gpus.gpus, essential=False)
    return run_check(check, Subject(doctor_config(), chatter=lambda: chatter))


def test_cards_of_the_driver_that_tensorflow_does_not_see(tmp_path, monkeypatch):
    lines = (
        "0, NVIDIA H200, 550.54.15, 143771, 143000\n1, NVIDIA H200, 550.54.15, 143771, 1000\n2, GB10, 1, [N/A], [N/A]"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = {finding.name: finding for finding in play_driver(tmp_path, monkeypatch, f"cat <<'E'\n{lines}\nE")}
    assert found["NVIDIA driver"].value == "550.54.15"
    assert found["card 0"].value == "NVIDIA H200, 139.6 GiB free of 140.4 GiB, driver 550.54.15"
    assert [found[f"card {index}"].status for index in range(3)] == [FACT, WARNING, FACT]
    assert "other processes" in found["card 1"].remedy
    unseen = found["seen by TensorFlow"]
    assert unseen.status == WARNING and "CUDA_VISIBLE_DEVICES='-1'" in unseen.remedy
    assert unseen.detail == ("W0000 cuda_executor.cc Cannot dlopen some GPU libraries.",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f,1")
    assert "tensorflow[and-cuda]" in visible_gpus.why_unseen(is_cuda_build=True)
    assert "built without CUDA" in visible_gpus.why_unseen(is_cuda_build=False)


def test_a_driver_that_does_not_answer_is_a_warning(tmp_path, monkeypatch):
    message = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    found = {f.name: f for f in play_driver(tmp_path, monkeypatch, f"echo '{message}'; exit 9")}
    assert found["nvidia-smi"].status == WARNING and found["nvidia-smi"].value == message
