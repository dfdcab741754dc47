"""What lands where, with a part of the CPU as the host and others as the devices: as it would be with GPUs.

A GPU works through a queue. The host runs ahead of it unless something in the loop waits for the GPU: a tensor that
comes back from it, or a control edge, for which TensorFlow waits until all that the GPU has been given is done.
"""

import engine
import numpy as np
import pytest
import tensorflow as tf
from executed_graphs import Executed, executed_graphs
from placed_runs import trained

from tl_distributed.bank.build import BankBuilder, FeatureSettings, HeldImages
from tl_distributed.bank.choice import layout_of
from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.bank.layout import part_shards
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.evaluation import Evaluator

HOST = "CPU:0"
COUNTERS = {"Less", "LoopCond", "RandomIndexShuffle", "IteratorGetNext"}


MODES = ("memory", "device", "disk")
PLAIN = [(replicas, False, mode) for replicas in (1, 2) for mode in MODES]
COMPILED = [(replicas, True, mode) for replicas in (2, 1) for mode in MODES]


@pytest.mark.parametrize(
    ("replicas", "xla", "mode"),
    [*PLAIN, COMPILED[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in COMPILED[1:])],
)
def test_the_loop_never_waits_for_a_device(replicas, xla, mode, tmp_path):
    executed = trained(replicas, mode, tmp_path, xla=xla, dropout=0.2)
    back = [one for one in executed.transfers() if one.in_loop and one.source != HOST and one.target == HOST]
    assert not back
    places = {(node.op, device) for device, node in executed.nodes() if node.op in COUNTERS}
    assert ("Less", HOST) in places and ("LoopCond", HOST) in places
    assert {device for op, device in places if op in ("RandomIndexShuffle", "IteratorGetNext", "Less")} == {HOST}


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_a_device_is_sent_its_own_bytes_and_scalars(mode, tmp_path):
    executed = trained(2, mode, tmp_path)
    sent = [one for one in executed.transfers() if one.in_loop and one.source == HOST and one.dtype != "control"]
    images = [one for one in sent if one.dtype == "uint8"]
    assert sorted(one.target for one in images) == ["CPU:1", "CPU:2"]  # one tensor each
    assert {one.operation.split()[0] for one in images} <= {"GatherV2", "EnsureShape"}  # of a slice
    assert {one.dtype for one in sent} <= {"uint8", "int32", "int64", "bool"}


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_slices_on_the_host_and_brings_nothing_back_in_between(replicas):
    where = engine.runtime(replicas)
    made = engine.make_engine(where)
    evaluator = Evaluator(made.model, features=None, image_size=engine.IMAGE_SIZE, normalization="tf", runtime=where)
    with executed_graphs() as executed:
        evaluator.evaluate(made.split, batch_size=8)
    assert_sliced_on_the_host(executed, replicas)


def test_the_bank_slices_on_the_host(tmp_path):
    where = engine.runtime(2)
    made = engine.make_engine(where, freezing="partial")
    cut = cut_at_frozen(made.model)
    features = FeatureSettings(image_size=engine.IMAGE_SIZE, normalization="tf", augment=None, seed=0)
    builder = BankBuilder(cut.prefix, layout_of(cut, "auto"), features, where)
    shards = part_shards(str(tmp_path), "train", made.split.num_examples, 0)
    with executed_graphs() as executed:
        builder.build(shards[0], HeldImages(made.split), label="train", batch_size=8, stop=StopRequest(Workers()))
    assert_sliced_on_the_host(executed, 2)


def assert_sliced_on_the_host(executed: Executed, replicas: int) -> None:
    transfers = [one for one in executed.transfers() if one.dtype != "control"]
    images = [one for one in transfers if one.dtype == "uint8"]
    assert sorted(one.target for one in images) == [f"CPU:{1 + index}" for index in range(replicas)]
    whole = {"_Arg"} if replicas == 1 else set()  # the slice of everything is optimised away
    assert {one.operation.split()[0] for one in images} <= {"StridedSlice", *whole}
    assert not [one for one in transfers if one.source != HOST and one.target == HOST]


def test_a_counter_on_a_device_is_noticed(monkeypatch, tmp_path):
    """The instrument itself: the loop of before, with its counter left to the strategy's device."""
    monkeypatch.setattr("tl_distributed.training.loop.HOST", "CPU:1")
    executed = trained(1, "memory", tmp_path)
    assert "CPU:1" in {device for device, node in executed.nodes() if node.op == "Less"}
    assert [one for one in executed.transfers() if one.in_loop and one.source != HOST and one.target == HOST]


def test_one_trace_serves_all_replicas():
    made = engine.make_engine(engine.runtime(4))
    traces = []
    compute = made.step.forward_backward.compute
    made.step.forward_backward.compute = lambda *given: traces.append(1) or compute(*given)
    made.train(2)
    assert len(traces) == 1
    assert all(place is not None for place in made.step.update._captured)  # no copy of another replica's
    assert made.step.forward_backward._concrete.captured_inputs == []
    assert np.isfinite(made.weights()[0]).all()


@pytest.mark.parametrize("backbone", ["tiny", "resnet20"])
def test_operations_outside_the_programs_are_few_whatever_the_net(backbone):
    made = engine.make_engine(engine.runtime(xla=True), backbone=backbone)
    steps = (tf.constant(value, tf.int64) for value in (0, 1))
    graph = made.loop._run_steps.get_concrete_function(*steps).graph
    (loop,) = [operation for operation in graph.get_operations() if operation.type in ("While", "StatelessWhile")]
    body = graph._get_function(loop.get_attr("body").name).cached_definition
    assert len(body.node_def) <= 75  # on the host, of small numbers; a dozen are the key of an epoch's order
