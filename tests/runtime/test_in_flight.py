"""Calls at once: in order, no more than were allowed, and really at once."""

import threading
import types

import pytest

from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.in_flight import map_in_flight


@pytest.mark.parametrize("in_flight", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order(in_flight, count):
    assert list(map_in_flight(lambda item: 10 * item, range(count), in_flight=in_flight)) == [
        10 * item for item in range(count)
    ]


def test_two_calls_run_at_once_and_the_first_alone_in_the_callers_thread():
    both, threads = threading.Barrier(2, timeout=30), {}

    def call(item: int) -> int:
        threads[item] = threading.current_thread()
        if item:
            both.wait()  # until the other one of a pair is here too
        return item

    assert list(map_in_flight(call, range(5), in_flight=2)) == list(range(5))
    assert [item for item in range(5) if threads[item] is threading.current_thread()] == [0]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_no_more_is_drawn_than_is_in_flight(in_flight):
    drawn = []

    def items():
        for item in range(10):
            drawn.append(item)
            yield item

    for done, _ in enumerate(map_in_flight(lambda item: item, items(), in_flight=in_flight), start=1):
        assert len(drawn) < done + in_flight


def test_an_error_comes_in_its_place():
    def call(item: int) -> float:
        return 1 / (3 - item)

    results = map_in_flight(call, range(6), in_flight=2)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("num_replicas", "local_devices", "expected"),
    [
        (1, ("/device:CPU:0",), 2),
        (1, ("/device:GPU:0",), 1),
        (2, ("/device:CPU:1", "/device:CPU:2"), 1),
        (4, ("/job:worker/task:0/device:CPU:0",), 1),  # of four workers: their sums and gathers keep one order
    ],
)
def test_only_one_replica_alone_infers_two_batches_at_once(num_replicas, local_devices, expected):
    extended = types.SimpleNamespace(worker_devices=local_devices)
    strategy = types.SimpleNamespace(num_replicas_in_sync=num_replicas, extended=extended)
    assert Runtime(strategy, "float32", False, "", ()).batches_in_flight == expected
