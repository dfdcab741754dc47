"""What the logs say of speed: the split of a step's time, and scaling against one replica."""

import dataclasses
import json
import shutil
import time

import engine
import numpy as np
import pytest
import tensorflow as tf
from tiny_backbone import register_tiny_backbones
from tiny_runs import config
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.training import speed
from tl_distributed.training.loop import LoopTimes, TrainLoop
from tl_distributed.training.run import train_and_evaluate

register_tiny_backbones()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts={"train": 60, "val": 18, "test": 21})


class Clock:
    """A loop that only has times."""

    times = LoopTimes()


def speedometer(loop, **changes) -> speed.Speedometer:
    settings = {
        "global_batch_size": 12, "num_replicas": 3, "all_reduce_seconds": 0.125, "one_replica_images_per_second": None,
        **changes,
    }  # fmt: skip
    return speed.Speedometer(loop, **settings)


def test_the_parts_of_a_step_add_up_and_each_interval_counts_for_itself():
    loop = Clock()
    meter = speedometer(loop, one_replica_images_per_second=10.0)
    assert set(meter.since_last().values()) == {None}
    loop.times = LoopTimes(steps=4, seconds=2.0, input_wait_seconds=0.5)
    assert meter.since_last() == {
        "images_per_second": 24.0, "images_per_second_per_replica": 8.0, "step_seconds": 0.5,
        "input_wait_seconds": 0.125, "all_reduce_seconds": 0.125, "compute_seconds": 0.25, "scaling_efficiency": 0.8,
    }  # fmt: skip
    loop.times = LoopTimes(steps=6, seconds=4.0, input_wait_seconds=0.5)
    assert meter.since_last() == {
        "images_per_second": 12.0, "images_per_second_per_replica": 4.0, "step_seconds": 1.0,
        "input_wait_seconds": 0.0, "all_reduce_seconds": 0.125, "compute_seconds": 0.875, "scaling_efficiency": 0.4,
    }  # fmt: skip
    assert meter.in_all()["images_per_second"] == 18.0


def test_what_cannot_be_told_is_null_and_no_part_is_negative():
    loop = Clock()
    loop.times = LoopTimes(steps=2, seconds=0.1, input_wait_seconds=None)
    figures = speedometer(loop).in_all()
    assert figures["input_wait_seconds"] is None and figures["compute_seconds"] == 0.0
    assert "scaling_efficiency" not in figures


@pytest.mark.parametrize("slow", ["input", "step"])
def test_waiting_for_input_is_told_from_the_step(data_dir, monkeypatch, slow):
    """Twenty steps, of which either the input or the step takes 30 ms; the other has a step's time to keep up."""
    split = load_splits(data_dir, read_manifest(data_dir), ("train",), input_mode="disk")["train"]
    where = engine.runtime()
    made = engine.make_engine(where, backbone="tiny")

    def sleeps(value):
        def body(value):
            time.sleep(0.03)
            return value

        return tf.ensure_shape(tf.numpy_function(body, [value], value.dtype), value.shape)

    if slow == "step":
        inner = made.step.replica_step
        monkeypatch.setattr(made.step, "replica_step", lambda *batch: inner(*batch[:-1], sleeps(batch[-1])))
    feed = split.train_feed(BatchOrder(global_batch_size=engine.BATCH, num_replicas=1, seed=0), first_step=0)
    if slow == "input":
        batches = tf.data.Dataset.from_tensors(next(feed.iterator)).repeat()
        batches = batches.map(lambda images, labels: (images, sleeps(labels)))
        feed = dataclasses.replace(feed, iterator=iter(batches))
    loop = TrainLoop(made.step, feed, where, steps_per_loop=10)
    for first in (0, 10, 20):
        loop.run(first, first + 10)
    figures = speedometer(loop, num_replicas=1, all_reduce_seconds=0.0).in_all()
    assert figures["step_seconds"] >= 0.03
    share = figures["input_wait_seconds"] / figures["step_seconds"]
    assert share > 0.6 if slow == "input" else share < 0.3, figures


def test_memory_mode_cannot_tell_input_from_the_step():
    made = engine.make_engine(engine.runtime(), backbone="tiny")
    made.train(3)
    assert made.loop.times.steps == 2 and made.loop.times.input_wait_seconds is None


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_all_reduce_has_the_size_of_the_gradients(monkeypatch, replicas):
    measured, measure = [], speed.measure_all_reduce
    monkeypatch.setattr(speed, "measure_all_reduce", lambda *a, **k: measured.append(measure(*a, **k)) or measured[-1])
    where = engine.runtime(replicas)
    made = engine.make_engine(where, freezing="partial")
    seconds = speed.all_reduce_seconds(made.step, where, "bfloat16")
    if replicas == 1:
        assert seconds == 0 and not measured
        return
    count = sum(np.prod(weight.shape) for weight in made.model.trainable_weights)
    assert measured[0].num_bytes == 2 * count and measured[0].correct
    assert seconds == measured[0].timing.median > 0


def test_a_wrong_sum_does_not_go_unnoticed(monkeypatch):
    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", lambda self, op, value, options=None: value)
    where = engine.runtime(2)
    with pytest.raises(UserError, match=r"sums are wrong; python -m tl_distributed\.doctor"):
        speed.all_reduce_seconds(engine.make_engine(where, backbone="tiny").step, where, "float32")


@pytest.fixture(scope="module")
def reference(data_dir, tmp_path_factory):
    """Workdir of a run of one replica with a batch of 4, in two phases."""
    folder = tmp_path_factory.mktemp("runs")
    scratch = folder / "scratch"
    train_and_evaluate(config(data_dir, scratch, max_steps=1))
    train_and_evaluate(config(data_dir, folder / "one", **two_phases(scratch), global_batch_size=4))
    return folder / "one"


def two_phases(weights) -> dict:
    return {"transfer": "two_phase", "weights": str(weights), "head_epochs": 1, "epochs": 2, "log_every_steps": 1}


def test_rows_and_results_say_how_well_it_scales(data_dir, tmp_path, reference):
    settings = two_phases(reference.parent / "scratch")
    results = train_and_evaluate(
        config(
            data_dir, tmp_path / "many", **settings, global_batch_size=16, strategy="mirrored",
            scaling_reference=str(reference), checkpoint_every_steps=3,
        )
    )  # fmt: skip
    one = json.loads((reference / "results.json").read_text())
    replicas = len(json.loads((tmp_path / "many" / "config.json").read_text())["devices"])
    assert replicas == 4 and one["scaling_efficiency"] is None
    rows = [json.loads(line) for line in (tmp_path / "many" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("images_per_second")]
    for row in rows:
        expected = row["images_per_second"] / (4 * one["speed_by_phase"][row["phase"]]["images_per_second"])
        assert row["scaling_efficiency"] == pytest.approx(expected)
        assert row["images_per_second_per_replica"] == pytest.approx(row["images_per_second"] / 4)
        assert row["input_wait_seconds"] is None and row["all_reduce_seconds"] > 0
        parts = row["all_reduce_seconds"] + row["compute_seconds"]
        assert parts == pytest.approx(max(row["step_seconds"], row["all_reduce_seconds"]))
    assert {row["phase"] for row in rows} == {"head", "main"}
    assert any(row["checkpoint_blocking_seconds"] for row in rows)
    assert any(row["checkpoint_write_seconds"] for row in rows)
    main = results["speed_by_phase"]["main"]
    assert results["scaling_efficiency"] == main["scaling_efficiency"] > 0
    assert results["images_per_second_per_replica"] == main["images_per_second_per_replica"]
    assert results["checkpoints_written"] >= 4  # 12 steps, one every three, and best weights
    assert results["checkpoint_blocking_seconds"] > 0 and results["checkpoint_write_seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 8}, r"not comparable \(batch of a replica 4 there, 8 here\)"),
        ({"image_size": 8}, r"not comparable \(image_size 16 there, 8 here\)"),
        ({"head_epochs": 1, "transfer": "full"}, r"not comparable \(transfer two_phase there, full here\)"),
        ({"scaling_reference": "nowhere"}, r"--scaling_reference=nowhere: no config\.json there"),
    ],
)
def test_a_run_that_is_not_comparable_is_refused(data_dir, tmp_path, reference, changes, message):
    settings = {**two_phases(reference.parent / "scratch"), "scaling_reference": str(reference), **changes}
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config(data_dir, tmp_path / "run", **{"global_batch_size": 4, **settings}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config", {"replicas": 2}, "that run had 2 replicas"),
        ("config", {"devices": ["/device:GPU:0 (A)"]}, r"device GPU \(A\) there, CPU here"),
        ("results", {"speed_by_phase": {"head": {"images_per_second": 9.0}}}, "no speed of the phase main"),
        ("results", {"speed_by_phase": {"head": {"images_per_second": None}}}, "no speed of the phase head"),
    ],
)
def test_a_reference_has_one_replica_of_the_same_kind_and_a_speed(data_dir, tmp_path, reference, file, change, message):
    shutil.copytree(reference, tmp_path / "one")
    path = tmp_path / "one" / f"{file}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    settings = {**two_phases(reference.parent / "scratch"), "scaling_reference": str(tmp_path / "one")}
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config(data_dir, tmp_path / "run", global_batch_size=4, **settings))
