"""Measurements on devices: right, long enough, and wrong ones noticed."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine import runtime
from single_checks import run

from tl_distributed import doctor
from tl_distributed.diagnosis import devices, measure
from tl_distributed.diagnosis.report import FACT, FAILED, OK, as_json
from tl_distributed.runtime import all_reduce


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
