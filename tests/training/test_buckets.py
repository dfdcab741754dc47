"""Gradients that travel in parts: the same training, and the first parts on their way before the backward pass ends."""

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf
from executed_graphs import Executed, needed_within_an_iteration
from gpu_kernels import GPU, lower, values_of, without_kernel
from placed_runs import trained
from tiny_runs import assert_identical, config
from toy_dataset import write_toy_dataset

from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.splits import Batch
from tl_distributed.models import build as build_module
from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS
from tl_distributed.training.forward import ForwardBackward
from tl_distributed.training.loop import TrainLoop
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.step import TrainStep

PROGRAMS = ("StatefulPartitionedCall", "PartitionedCall")


def made(buckets: int, *, replicas: int = 2, **options) -> engine.Engine:
    where = engine.runtime(replicas, xla=options.pop("xla", False), precision=options.pop("precision", "float32"))
    changes = {
        "augment": NAMED_AUGMENTATIONS["strong"], "clip_norm": 0.5, "weight_decay": 0.1, "ema_decay": 0.9,
        "label_smoothing": 0.1, **options.pop("settings", {}),
    }  # fmt: skip
    options = {"optimizer": lambda: keras.optimizers.Adam(0.0), "learning_rate": 0.01, "dropout": 0.3, **options}
    return engine.make_engine(where, step_settings=engine.settings(gradient_buckets=buckets, **changes), **options)


def state(run: engine.Engine) -> list[np.ndarray]:
    return [*run.weights(), *(average.numpy() for average in run.step.averages.values())]


def assert_same_training(one: engine.Engine, other: engine.Engine, *, rtol: float) -> None:
    np.testing.assert_allclose(other.train(6), one.train(6), rtol=rtol, atol=1e-6)
    for left, right in zip(state(other), state(one), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=10 * rtol * np.abs(right).max())


@pytest.mark.parametrize(
    ("precision", "dtype", "xla", "rtol"),
    [
        ("float32", "float32", False, 1e-5),
        ("mixed_float16", "float16", False, 1e-3),
        pytest.param("float32", "float32", True, 1e-5, marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", "float32", True, 1e-2, marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
def test_training_is_that_of_one_bucket(precision, dtype, xla, rtol):
    """With mixup, dropout, BatchNorm, averages, clipping, smoothing and decay."""
    runs = [
        made(buckets, xla=xla, precision=precision, settings={"all_reduce_dtype": dtype}) for buckets in (1, 3)
    ]  # fmt: skip
    assert [len(run.step.forward_backward.buckets) for run in runs] == [1, 3]
    assert_same_training(*runs, rtol=rtol)


@pytest.mark.parametrize("freezing", ["partial", "frozen"])
def test_frozen_layers_send_nothing(freezing):
    runs = [made(buckets, freezing=freezing) for buckets in (1, 3)]
    sizes = [len(bucket) for bucket in runs[1].step.forward_backward.buckets]
    assert sizes == ([2, 3] if freezing == "partial" else [2])
    assert_same_training(*runs, rtol=1e-5)


@keras.saving.register_keras_serializable("buckets")
class Block(keras.layers.Layer):
    """Its call says nothing of training, which the layers inside are told all the same."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.norm, self.drop = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)

    def call(self, images):
        return self.drop(self.norm(images))


def test_layers_within_one_of_ones_own_know_that_they_train(monkeypatch):
    def build(size: int) -> keras.Model:
        inputs = keras.Input((size, size, 3))
        x = Block(name="block")(keras.layers.Conv2D(8, 3, strides=2, use_bias=False)(inputs))
        return keras.Model(inputs, keras.layers.Conv2D(8, 3)(x))

    monkeypatch.setitem(BACKBONES, "block", Backbone(name="block", normalization="tf"))
    monkeypatch.setitem(build_module._BUILD_FUNCTIONS, "block", build)
    where = engine.runtime(2)
    one, several = (
        engine.make_engine(where, backbone="block", step_settings=engine.settings(gradient_buckets=buckets))
        for buckets in (1, 2)
    )
    np.testing.assert_allclose(several.train(2), one.train(2), rtol=1e-5)
    for left, right in zip(several.weights(), one.weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert np.abs(several.model.get_layer("block").norm.moving_mean).min() > 0


def test_the_tail_behind_a_bank_trains_in_buckets():
    where = engine.runtime(2)
    rows, features = [], np.random.default_rng(0).normal(size=(40, 8 * 8 * 8)).astype(np.float32)
    for buckets in (1, 2):
        tail = cut_at_frozen(engine.make_engine(where, freezing="partial").model).tail
        settings = engine.settings(
            features=FeatureLayout(((8, 8, 8),), ("float32",), "float32"), gradient_buckets=buckets,
            rate_multipliers={id(variable): 1.0 for variable in tail.trainable_variables},
        )  # fmt: skip
        step = TrainStep(tail, lambda: keras.optimizers.Adam(0.0), lambda _: tf.constant(0.01), settings, where)
        assert len(step.forward_backward.buckets) == buckets
        split = MemorySplit(features, engine.toy_images()[1])
        feed = split.train_feed(BatchOrder(global_batch_size=engine.BATCH, num_replicas=2, seed=0), first_step=0)
        rows.append(engine.Engine(tail, step, TrainLoop(step, feed, where, steps_per_loop=1), split).train(5))
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-5)


def test_an_overflow_skips_the_whole_update():
    run = made(3, precision="mixed_float16")
    run.train(2)
    run.step.loss_scale.scale.assign(2.0**100)
    before = state(run)
    assert run.train(1)[0, 3] == 1
    for new, old in zip(state(run), before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_one_replica_has_one_program():
    assert type(made(3, replicas=1).step.forward_backward) is ForwardBackward
    assert type(made(1).step.forward_backward) is ForwardBackward


def test_one_trace_serves_all_replicas():
    run = made(3, replicas=4)
    segments, traces = run.step.forward_backward.segments, []
    for segment in segments:
        call = segment._call
        segment._call = lambda *arguments, call=call: traces.append(1) or call(*arguments)
    run.train(2)
    assert len(traces) == len(segments) == 3
    assert run.step.forward_backward._concrete.captured_inputs == []


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Executed:
    """Graphs of a loop with three buckets on two devices, under XLA."""
    settings = engine.settings(gradient_buckets=3, ema_decay=0.9, clip_norm=1.0)
    return trained(2, "memory", tmp_path_factory.mktemp("toy"), xla=True, dropout=0.2, step_settings=settings)


def test_a_bucket_waits_for_no_program_of_the_layers_below(executed):
    nodes = {node.name: node for device, node in executed.nodes() if device == "CPU:1"}
    programs = {name for name, node in nodes.items() if node.op in PROGRAMS and "update" not in name}
    sums = [name for name, node in nodes.items() if node.op == "AddN"]  # on the first device, for both
    before = [needed_within_an_iteration(executed, name) for name in sums]
    # Two forward programs and that of the last segment; then a backward program each, and one that packs.
    assert sorted(len(names & programs) for names in before) == [3, 5, 7]
    # The sums come one after the other, and nothing that computes waits for one.
    assert sorted(len(names & set(sums)) for names in before) == [0, 1, 2]
    assert not any(needed_within_an_iteration(executed, name) & set(sums) for name in programs)


def test_every_program_is_compiled(executed):
    programs = [node for device, node in executed.nodes() if device == "CPU:1" and node.op in PROGRAMS]
    assert len(programs) >= 8 and all(node.attr["_XlaMustCompile"].b for node in programs)


def test_the_loop_never_waits_for_a_device(executed):
    assert not [one for one in executed.transfers() if one.in_loop and one.source != "CPU:0" and one.target == "CPU:0"]


def test_what_stays_outside_has_a_kernel_on_gpus(executed):
    assert without_kernel((node for device, node in executed.nodes() if device != "CPU:0"), GPU) == []


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_programs_of_every_segment_lower(precision):
    run = made(3, xla=True, precision=precision)
    step, replica_id = tf.constant(0, tf.int64), tf.constant(0)
    images = tf.zeros([4, engine.IMAGE_SIZE, engine.IMAGE_SIZE, 3], tf.uint8)
    labels = tf.zeros([4], tf.int32)
    *inner, last = run.step.forward_backward.segments

    def there_and_back(segment):
        def run(taken, trainable, non_trainable):
            with tf.GradientTape() as tape:
                tape.watch(trainable)
                output, *_ = segment.forward(step, replica_id, taken, trainable, non_trainable)
            return segment.pack(tape.gradient(output, trainable))

        return run

    def weights_of(segment):
        return values_of(segment.segment.trainable), values_of(segment.segment.non_trainable)

    def taken_by(segment):
        (tensor,) = segment.segment.inputs
        return tf.zeros([len(labels), *tensor.shape[1:]], tensor.dtype)

    programs = [
        lower(there_and_back(one), Batch(images, labels) if one is inner[0] else taken_by(one), *weights_of(one))
        for one in inner
    ]
    programs.append(
        lower(
            last.whole, step, replica_id, taken_by(last), tf.zeros([len(labels), engine.NUM_CLASSES]), labels, [],
            *weights_of(last), tf.constant(1.0),
        )
    )  # fmt: skip
    assert len(programs) == 3 and all("HloModule" in program for program in programs)


@pytest.mark.slow
def test_a_run_that_goes_on_equals_one_in_one_piece(tmp_path):
    data_dir = write_toy_dataset(tmp_path / "data", counts={"train": 24, "val": 8, "test": 8})
    given = {"strategy": "mirrored", "gradient_buckets": 2, "epochs": 2, "dropout": 0.2, "ema_decay": 0.9}
    train_and_evaluate(config(data_dir, tmp_path / "whole", **given))
    train_and_evaluate(config(data_dir, tmp_path / "parts", max_steps=4, **given))
    train_and_evaluate(config(data_dir, tmp_path / "parts", **given))
    assert_identical(tmp_path / "whole", tmp_path / "parts")
