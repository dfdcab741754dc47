"""The arithmetic of docs/performance/scaling.md, by hand."""

import pytest
from scaling_arithmetic import Counted, ScalingConfig, bucket_table, bucketed_seconds, count, ring_seconds, table


def test_parameters_and_statistics_are_those_of_the_network():
    """MobileNetV2 of keras.applications: 3,504,872 trained parameters with its head of 1,000 classes."""
    found = count("mobilenet_v2", 1000, 3)
    assert (found.parameters, found.statistics, found.depthwise) == (3_504_872, 34_112, True)
    sizes, shares = zip(*found.buckets, strict=True)
    assert (len(sizes), sum(sizes), sum(shares)) == (3, 3_504_872, pytest.approx(1.0))


def test_a_ring_moves_the_sum_of_all_pieces_around_twice():
    # 4 members, 400 bytes: pieces of 100, three rounds of adding up, three of handing out.
    assert ring_seconds(400, 4, 100.0, 0.5) == pytest.approx(6 * (1.0 + 0.5))
    assert ring_seconds(400, 1, 100.0, 0.5) == 0


def test_a_row_of_the_tables():
    settings = {
        "replica_batch_size": 60, "gpu_tflops": 6.0, "nvlink_gbytes": 7.0, "network_gbits": (80.0,), "nodes": 2,
        "network_latency_us": 0.0, "efficiency": 0.75, "checkpoint_gbytes": 0.5,
    }  # fmt: skip
    net = Counted(1_000_000, 0, 1.0, False, ((1_000_000, 1.0),))
    near, far = table(ScalingConfig(**settings), {"net": net}).split("\n\n")
    # 6 GFLOP an image: 1,000 images/s; 4 MB: 2 * 7/8 * 4 MB at 7 GB/s are 1 ms, and 4 MB at 10 GB/s 0.4 ms.
    assert near.splitlines()[-1] == "| `net` | 1.0 M | 4 MB | 1,000 | 60 ms | 1.00 ms | 98.4% | 12 MB | 0.02 s |"
    assert far.splitlines()[-1] == "| `net` | 1.4 ms | 98% | 4 |"


def test_a_bucket_is_sent_when_it_is_computed_and_the_line_is_free():
    # Forward until 30, backward until 90. Half of it by 60, sent by 100; the rest then waits for the line until 100.
    assert bucketed_seconds(90.0, [(40.0, 0.5), (5.0, 0.5)]) == pytest.approx(105.0)
    assert bucketed_seconds(90.0, [(10.0, 0.5), (5.0, 0.5)]) == pytest.approx(95.0)
    assert bucketed_seconds(90.0, [(40.0, 1.0)]) == pytest.approx(130.0)


def test_a_row_of_the_table_of_buckets():
    settings = {
        "replica_batch_size": 60, "gpu_tflops": 6.0, "nvlink_gbytes": 7.0, "network_gbits": (), "nodes": 2,
    }  # fmt: skip
    net = Counted(40_000_000, 0, 1.0, False, ((30_000_000, 0.5), (10_000_000, 0.5)))
    # 60 ms a step, 160 MB are 40 ms; in buckets 30 ms from the 40th on, and 10 ms from the 70th.
    assert bucket_table(ScalingConfig(**settings), {"net": net}).splitlines()[-1] == (
        "| `net` | 120, 40 | 100.0, 80.0 ms (+25%) |"
    )
