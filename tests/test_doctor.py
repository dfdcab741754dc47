"""The doctor: what it measures, what it finds where something was broken on purpose, and how it ends."""

import dataclasses
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import planted_checks
import pytest
import tensorflow as tf
from conftest import REPO
from engine import runtime
from planted_checks import planted
from toy_dataset import write_toy_dataset
from worker_processes import WorkerProcesses

from tl_distributed import doctor
from tl_distributed.data import free_memory
from tl_distributed.diagnosis import devices, environment, measure, storage
from tl_distributed.diagnosis.checks import Check, Subject, run_check
from tl_distributed.diagnosis.report import FACT, FAILED, NOT_RUN, OK, WARNING, Finding, as_json, as_text
from tl_distributed.diagnosis.settings import DoctorConfig
from tl_distributed.diagnosis.supervision import examine
from tl_distributed.training import all_reduce

COUNTS = {"train": 24, "val": 6}


@pytest.fixture
def data_dir(tmp_path) -> str:
    return write_toy_dataset(tmp_path / "data", counts=COUNTS)


def config(**settings) -> DoctorConfig:
    return DoctorConfig(**{"global_batch_size": 16, **settings})


def run(function, *, essential: bool = True, **settings) -> list[Finding]:
    return run_check(Check("Topic", "check", function, essential=essential), Subject(config(**settings)))


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch):
    monkeypatch.setattr(measure, "_SMALLEST_SIDE", 64)
    monkeypatch.setattr(measure, "_PRODUCT_SECONDS", 0.0)
    monkeypatch.setattr(measure, "_STEP_SECONDS", 1e-9)
    monkeypatch.setattr(devices, "_ALL_REDUCE_BYTES", {"CPU": 4000})


# --- all of it


@pytest.fixture(scope="module")
def examined(tmp_path_factory) -> dict[str, Finding]:
    """Every check on four replicas, by name of the finding."""
    folder = tmp_path_factory.mktemp("doctor")
    data_dir = write_toy_dataset(folder / "data", counts=COUNTS)
    subject = Subject(config(data_dir=data_dir, workdir=str(folder / "runs" / "new"), augment="none"))
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
    assert "3 classes, 24 train, 6 val images of 16x16x3" in data.value and data.data["verified_in_full"]


def test_speeds_follow_from_the_raw_times(examined):
    for index in range(4):
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


# --- measurements


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_error_of_a_product_is_within_rounding(dtype):
    assert 0 < measure.matmul_error("CPU:0", dtype) <= 1


@pytest.mark.parametrize("factor", [1.0001, math.nan])
def test_a_device_that_multiplies_wrongly_fails(monkeypatch, factor):
    true_matmul = tf.matmul
    monkeypatch.setattr(tf, "matmul", lambda left, right: true_matmul(left, right) * factor)
    first, *_ = run(devices.matmul, strategy="one_device")
    assert first.status == FAILED and "WRONG" in first.value and first.remedy


def test_products_grow_until_their_start_no_longer_counts(monkeypatch):
    monkeypatch.setattr(measure, "_PRODUCT_SECONDS", 1e9)
    monkeypatch.setattr(measure, "_LARGEST_SIDE", 300)
    speed = measure.measure_matmul("CPU:0", "float32")
    assert (speed.side, speed.products, speed.flops) == (256, 1, 2 * 256**3)
    monkeypatch.setattr(measure, "_STEP_SECONDS", 1e9)
    monkeypatch.setattr(measure, "_MOST_PRODUCTS", 3)
    speed = measure.measure_matmul("CPU:0", "float32")
    assert (speed.products, speed.flops) == (3, 6 * 256**3)


def test_timing_has_median_and_every_step(monkeypatch):
    clock = iter(np.cumsum([0, *np.ravel([(seconds, 5) for seconds in range(1, 11)])]).tolist())
    monkeypatch.setattr(all_reduce.time, "perf_counter", lambda: next(clock))
    timing = all_reduce.time_steps(lambda: None)
    assert timing.seconds == tuple(range(1, 11)) and timing.median == 5.5
    speed = all_reduce.AllReduceSpeed(11 * 10**9, 4, True, timing)
    assert speed.bus_gigabytes_per_second() == pytest.approx((3.0, 1.65, 16.5))
    assert measure.MatmulSpeed(10_000, 1, timing).teraflops() == pytest.approx((2 / 5.5, 0.2, 2.0))


@pytest.mark.parametrize(("replicas", "dtype"), [(2, "float32"), (3, "bfloat16"), (4, "float16")])
def test_all_reduce_is_exact_in_every_type(replicas, dtype):
    speed = all_reduce.measure_all_reduce(runtime(replicas).strategy, dtype, num_elements=1003)
    assert speed.correct and speed.num_replicas == replicas
    assert speed.num_bytes == 1003 * tf.as_dtype(dtype).size


@pytest.mark.parametrize(
    "broken", [lambda self, op, value, options=None: value, lambda self, op, value, options=None: 2 * value]
)
def test_a_sum_that_leaves_replicas_out_fails(monkeypatch, broken):
    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", broken)
    (finding,) = run(devices.all_reduce)
    assert finding.status == FAILED and "WRONG" in finding.value


def test_one_replica_has_nothing_to_sum():
    (finding,) = run(devices.all_reduce, strategy="one_device")
    assert finding.status == FACT and "nothing to sum" in finding.value


@pytest.mark.parametrize(
    ("rate", "message"), [(0.0, "the weights did not change"), (math.nan, "the loss is not finite: 2.")]
)
def test_an_engine_that_does_not_train_fails(monkeypatch, rate, message):
    monkeypatch.setattr(measure, "_RATE", rate)
    (finding,) = run(devices.training_step, strategy="one_device")
    assert finding.status == FAILED and finding.value.startswith(message) and "--xla=off" in finding.remedy
    assert json.loads(json.dumps(doctor.to_json_values(as_json([finding], "")), allow_nan=False))


def test_flags_of_the_run_reach_the_engine():
    (finding,) = run(
        devices.training_step, strategy="one_device", xla="on", precision="mixed_bfloat16", augment="none", mixup=0.2,
        backbone="tiny_norm", unfreeze_from="conv2", transfer="partial", weights="elsewhere", optimizer="lion",
        ema_decay=0.9, clip_norm=1.0, learning_rate=0.0,
    )  # fmt: skip
    assert finding.status == OK, finding
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_replicas_that_differ_are_noticed():
    where = runtime(2)
    with where.strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert measure._replicas_agree(where.strategy, model)
    where.strategy.experimental_local_results(model.layers[0].kernel.value)[1].assign([[7.0], [7.0]])
    assert not measure._replicas_agree(where.strategy, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skipped": (True, True)}, "every one of 2 updates was skipped"),
        ({"replicas_agree": False}, "different weights"),
        ({"skipped": (True, False)}, ""),  # float16 finds its scale
    ],
)
def test_what_is_wrong_with_steps(change, message):
    steps = measure.EngineSteps((2.3, 2.2), (1.0, 1.0), (False, False), (9.0, 0.1), True, True)
    found = devices._what_is_wrong(dataclasses.replace(steps, **change))
    assert message in found and bool(found) == bool(message)


# --- strategy, precision


def test_a_strategy_that_cannot_be_had_fails_and_what_needs_it_is_not_run(data_dir):
    assert len(tf.config.list_logical_devices("CPU")) == 4  # claimed, so that they cannot be split in two
    subject = Subject(config(virtual_devices=2, data_dir=data_dir))
    found = {check.name: run_check(check, subject) for check in doctor.CHECKS if check.topic != environment.SOFTWARE}
    (strategy,) = found["strategy"]
    assert strategy.status == FAILED and "--virtual_devices=2" in strategy.value
    for name in ("precision and XLA", "NCCL", "matmul", "all-reduce", "training step"):
        assert [finding.status for finding in found[name]] == [NOT_RUN], name
    assert [finding.status for finding in found["data set"]] == [OK]


def test_a_batch_that_does_not_divide_fails_with_what_to_do():
    (finding,) = run(devices.strategy, global_batch_size=15)
    assert finding.status == FAILED and finding.value == "--global_batch_size=15 does not divide by the 4 replicas"
    assert finding.remedy == "the nearest that does is 16"


def test_a_process_after_a_death_starts_the_runtime_unless_it_died_of_it():
    assert Subject(config(), died=frozenset({"matmul"})).runtime().num_replicas == 4
    check = Check("Topic", "precision and XLA", devices.precision)
    (finding,) = run_check(check, Subject(config(), died=frozenset({"strategy"})))
    assert finding.status == NOT_RUN


def test_reasons_of_the_automatic_choices(monkeypatch):
    capabilities = {"GPU:0": (9, 0), "GPU:1": (7, 5)}
    cards = [types.SimpleNamespace(name=name) for name in capabilities]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: cards if kind == "GPU" else [])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda card: {"compute_capability": capabilities[card.name]}
    )
    subject = Subject(config())
    started = types.SimpleNamespace(
        precision="mixed_float16", use_xla=True, xla_reason="a reason", devices=("GPU:0", "GPU:1")
    )
    monkeypatch.setattr(subject, "runtime", lambda: started)
    precision, xla = devices.precision(subject)
    assert precision.value == "mixed_float16: --precision=auto, lowest compute capability 7.5 of 2 GPU"
    assert xla.value == "on: a reason" and precision.status == FACT
    subject.config = config(precision="mixed_float16")
    assert next(devices.precision(subject)).value == "mixed_float16: asked for by --precision=mixed_float16"


def test_a_gpu_that_holds_up_the_others_is_a_warning(monkeypatch):
    names = [f"/job:localhost/device:GPU:{index}" for index in range(3)]
    subject = Subject(config())
    extended = types.SimpleNamespace(worker_devices=names)
    started = types.SimpleNamespace(strategy=types.SimpleNamespace(extended=extended))
    monkeypatch.setattr(subject, "runtime", lambda: started)
    monkeypatch.setattr(measure, "matmul_error", lambda device, dtype: 0.1)
    seconds = dict(zip(names, (1.0, 1.0, 2.0), strict=True))
    monkeypatch.setattr(
        measure,
        "measure_matmul",
        lambda device, _: measure.MatmulSpeed(512, 1, all_reduce.Timing((seconds[device],) * 10)),
    )
    *speeds, slow = devices.matmul(subject)
    assert [finding.status for finding in speeds] == [OK] * 3
    assert slow.status == WARNING and slow.value.startswith("GPU:2 slower than the others")


# --- software, machine, environment


def test_requirements_are_compared_with_what_is_installed(monkeypatch):
    declared = ["numpy>=1.26", "pillow>=999", "no-such-package-at-all", "ruff>=999; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    (finding,) = environment.requirements(Subject(config()))
    assert finding.status == FAILED and finding.data["missing"] == ["no-such-package-at-all"]
    installed = importlib.metadata.version("pillow")
    assert finding.data["outside_range"] == [f"pillow {installed} (takes >=999)"]
    declared[2:3] = []
    assert next(iter(environment.requirements(Subject(config())))).status == WARNING
    declared[1:2] = []
    (finding,) = environment.requirements(Subject(config()))
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


def test_a_cluster_that_is_not_used_is_a_warning(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    *_, finding = run(environment.variables)
    assert finding.status == WARNING and "TF_CONFIG" in finding.value


def test_a_cluster_is_shown_as_resolved(monkeypatch):
    flags = {"strategy": "multi_worker", "workers": ("a:1000", "b:1000"), "worker_index": 1}
    *_, finding = run(environment.variables, **flags)
    assert finding.value.startswith("2 workers: a:1000, b:1000; this is worker 1 (b:1000)")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"job/cpu.max": "max 100000\n", "cpu.max": "150000 100000\n"}, 1.5),
        ({"job/cpu.max": "50000 100000\n", "cpu.max": "150000 100000\n"}, 0.5),
        ({"job/cpu.max": "max 100000\n"}, None),
        ({}, None),
    ],
)
def test_quota_is_the_smallest_on_the_way_to_the_root(tmp_path, monkeypatch, files, expected):
    (tmp_path / "job").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    folders = [(str(tmp_path / "job"), 2), (str(tmp_path), 2)]
    monkeypatch.setattr(free_memory, "cgroup_folders", lambda controller: folders)
    assert environment.cpu_quota() == expected


def test_quota_of_the_first_version_of_cgroups(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "cgroup_folders", lambda controller: [(str(tmp_path), 1)])
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    assert environment.cpu_quota() is None
    (tmp_path / "cpu.cfs_quota_us").write_text("250000\n")
    assert environment.cpu_quota() == 2.5


def test_total_memory_is_the_cgroups_where_that_is_less(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    monkeypatch.setattr(free_memory, "cgroup_folders", lambda controller: [(str(tmp_path), 2)])
    assert free_memory.total_memory_bytes() == 1000 and free_memory.free_memory_bytes() == 700


def play_driver(tmp_path, monkeypatch, script: str) -> list[Finding]:
    """Puts a driver and an `nvidia-smi` in place, and returns what is found."""
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder)\n"
    )
    monkeypatch.setattr(environment, "_DRIVER_FILE", str(version))
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    chatter = ["W0000 cuda_executor.cc Cannot dlopen some GPU libraries.", "something else"]
    check = Check("GPUs", "GPUs", environment.gpus, essential=False)
    return run_check(check, Subject(config(), chatter=lambda: chatter))


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
    assert "tensorflow[and-cuda]" in environment._why_unseen(True)
    assert "built without CUDA" in environment._why_unseen(False)


def test_a_driver_that_does_not_answer_is_a_warning(tmp_path, monkeypatch):
    message = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    found = {f.name: f for f in play_driver(tmp_path, monkeypatch, f"echo '{message}'; exit 9")}
    assert found["nvidia-smi"].status == WARNING and found["nvidia-smi"].value == message


# --- data set, workdir


def damage(data_dir: str, kind: str) -> str:
    """Breaks a shard; returns its name."""
    shard = sorted(pathlib.Path(data_dir).glob("train-*"))[1]
    content = shard.read_bytes()
    if kind == "missing":
        shard.unlink()
    elif kind == "cut":
        shard.write_bytes(content[:-5])
    else:
        shard.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    return shard.name


@pytest.mark.parametrize("kind", ["missing", "cut", "bit"])
def test_a_broken_shard_is_named(data_dir, kind):
    name = damage(data_dir, kind)
    (finding,) = run(storage.data_set, data_dir=data_dir)
    assert finding.status == FAILED and name in finding.value and finding.remedy


def test_sizes_alone_cannot_see_a_changed_bit(data_dir):
    damage(data_dir, "bit")
    (finding,) = run(storage.data_set, data_dir=data_dir, verify="sizes")
    assert finding.status == OK and not finding.data["verified_in_full"] and "--verify=full" in finding.value


def test_a_large_set_is_read_in_full_on_demand(data_dir, monkeypatch):
    monkeypatch.setattr(storage, "_READ_IN_FULL_BYTES", 1000)
    for verify, in_full in {"auto": False, "full": True}.items():
        (finding,) = run(storage.data_set, data_dir=data_dir, verify=verify)
        assert finding.data["verified_in_full"] == in_full
        num_bytes = sum(path.stat().st_size for path in pathlib.Path(data_dir).glob("*.tfrecord"))
        assert finding.data["num_bytes"] == num_bytes


def test_counts_that_do_not_add_up_and_sets_without_training_images(data_dir, tmp_path):
    manifest = pathlib.Path(data_dir) / "dataset.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"num_examples": 24', '"num_examples": 23'))
    (finding,) = run(storage.data_set, data_dir=data_dir)
    assert finding.status == FAILED and "split train has 23 examples" in finding.value
    (finding,) = run(storage.data_set, data_dir=write_toy_dataset(tmp_path / "other", counts={"val": 6}))
    assert finding.status == FAILED and "no train split" in finding.value
    (finding,) = run(storage.data_set, data_dir=str(tmp_path / "nowhere"))
    assert finding.status == FAILED and "build_tfrecords" in finding.remedy


def test_a_workdir_that_cannot_be_written_or_has_little_room(tmp_path, monkeypatch):
    (finding,) = run(storage.workdir, workdir=str(tmp_path / "a" / "b"))
    assert finding.status == OK and not list(tmp_path.iterdir())
    monkeypatch.setattr(storage, "_LOW_DISK_BYTES", 1 << 62)
    assert run(storage.workdir, workdir=str(tmp_path))[0].status == WARNING

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse)
    (finding,) = run(storage.workdir, workdir=str(tmp_path / "a"))
    assert finding.status == FAILED and f"{tmp_path} cannot be written (Permission denied)" in finding.value


def test_the_default_workdir_is_that_of_train():
    assert storage.workdir_of(config(backbone="tiny", transfer="scratch")) == "runs/tiny_scratch"


# --- checks that end badly


def test_a_check_that_raises_is_reported_and_what_it_found_is_kept():
    subject = Subject(config())
    begun, failed = run_check(planted(planted_checks.raises), subject)
    assert begun.status == OK and failed.status == FAILED
    assert failed.value == "ZeroDivisionError: first line" and failed.remedy == "send this report"
    assert any("planted_checks.py" in line for line in failed.detail)
    assert run_check(planted(planted_checks.raises, essential=False), subject)[1].status == WARNING
    (failed,) = run_check(planted(planted_checks.user_error), subject)
    assert (failed.value, failed.remedy) == ("--flag=3: too many; not three", "use --flag=2")
    (skipped,) = run_check(planted(planted_checks.not_run), subject)
    assert (skipped.status, skipped.value) == (NOT_RUN, "something else failed")


def test_death_and_hanging_take_no_other_check_along():
    functions = ("good", "aborts", "exits", "hangs", "remembers_the_dead")
    checks = [planted(getattr(planted_checks, name)) for name in functions]
    checks[3] = dataclasses.replace(checks[3], remedy="look at NCCL")
    good, aborted, exited, hung, after = examine(config(), checks, check_seconds=15)
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
    (finding,) = examine(config(), [planted(planted_checks.lasts, limited=False)], check_seconds=0.1)
    assert finding.status == OK


# --- several workers


def start_worker(workers: WorkerProcesses, index: int, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tl_distributed.doctor", *workers.flags_of(index), "--global_batch_size=8", *flags]
    variables = {**os.environ, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


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


# --- the command


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
        assert doctor.main(config(json=str(path)), []) == code
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
