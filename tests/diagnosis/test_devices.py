"""Strategy, precision and XLA as the doctor finds them."""

import types

import tensorflow as tf
from single_checks import doctor_config, run

from tl_distributed import doctor
from tl_distributed.diagnosis import devices, environment, measure
from tl_distributed.diagnosis.checks import Check, Subject, run_check
from tl_distributed.diagnosis.report import FACT, FAILED, NOT_RUN, OK, WARNING
from tl_distributed.runtime import all_reduce


def test_a_strategy_that_cannot_be_had_fails_and_what_needs_it_is_not_run(data_dir):
    assert len(tf.config.list_logical_devices("CPU")) == 5  # claimed, so that they cannot be split in two
    subject = Subject(doctor_config(virtual_devices=2, data_dir=data_dir))
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
    assert Subject(doctor_config(), died=frozenset({"matmul"})).runtime().num_replicas == 4
    check = Check("Topic", "precision and XLA", devices.precision)
    (finding,) = run_check(check, Subject(doctor_config(), died=frozenset({"strategy"})))
    assert finding.status == NOT_RUN


def test_reasons_of_the_automatic_choices(monkeypatch):
    capabilities = {"GPU:0": (9, 0), "GPU:1": (7, 5)}
    cards = [types.SimpleNamespace(name=name) for name in capabilities]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: cards if kind == "GPU" else [])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda card: {"compute_capability": capabilities[card.name]}
    )
    subject = Subject(doctor_config())
    started = types.SimpleNamespace(
        precision="mixed_float16", use_xla=True, xla_reason="a reason", devices=("GPU:0", "GPU:1")
    )
    monkeypatch.setattr(subject, "runtime", lambda: started)
    precision, xla = devices.precision(subject)
    assert precision.value == "mixed_float16: --precision=auto, lowest compute capability 7.5 of 2 GPU"
    assert xla.value == "on: a reason" and precision.status == FACT
    subject.config = doctor_config(precision="mixed_float16")
    assert next(devices.precision(subject)).value == "mixed_float16: asked for by --precision=mixed_float16"


def test_a_gpu_that_holds_up_the_others_is_a_warning(monkeypatch):
    names = [f"/job:localhost/device:GPU:{index}" for index in range(3)]
    subject = Subject(doctor_config())
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
