"""What a benchmark's table, JSON and last line say of what was measured."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.benchmarks import report, step, step_contenders
from tl_distributed.benchmarks.processes import Contender, Outcome
from tl_distributed.benchmarks.report import times_as_fast
from tl_distributed.benchmarks.settings import StepConfig

# --- statistics and tables


def test_ratios_are_pair_by_pair_and_above_one_where_ours_is_faster():
    ours, peer = np.array([10.0, 40.0, 30.0]), np.array([5.0, 10.0, 60.0])
    assert times_as_fast(ours, peer, higher_is_better=True) == pytest.approx(ours / peer)
    assert times_as_fast(ours, peer, higher_is_better=False) == pytest.approx(peer / ours)
    with pytest.raises(ValueError):  # turns that have no partner
        times_as_fast([1.0], [1.0, 2.0], higher_is_better=True)


def test_whole_processes_have_no_warm_up():
    layout = report.Layout(title="t", unit="seconds", seconds=True, show_warm_up=False)
    plain = outcome("ours", 0.5, start_seconds=None, warm_up_seconds=None)
    text = report.show([plain, outcome("peer", 0.25)], layout, report.machine())
    assert "warm-up" not in text and "1 (1-1)" in text  # as many seconds each, so as fast


def outcome(name: str, *rates: float, **fields) -> Outcome:
    blocks = [{"seconds": 2.0, "done": 2.0 * rate} for rate in rates]
    made = Outcome(Contender(name=name, module="", settings=()), start_seconds=1.0, warm_up_seconds=2.0, blocks=blocks)
    return dataclasses.replace(made, **fields)


def test_table_and_json_say_the_same(tmp_path, capsys):
    missing = outcome("absent", status="not installed", message="torch is not installed: pip install -e .[bench]")
    outcomes = [outcome("ours", 100, 120, 110), outcome("peer", 50, 40, 55, others_busy_share=0.5), missing]
    layout = report.Layout(title="step: a net", unit="images/s", columns=[("twice", lambda found: str(2))])
    config = StepConfig(output=str(tmp_path / "report.json"))
    report.publish(outcomes, layout, report.machine(), benchmark="step", settings=config, more_facts=[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step: a net"
    (peer,) = [line for line in lines if line.startswith("peer")]
    assert "50 (40-55)" in peer and "2 (2-3)" in peer
    assert any(
        line.startswith("absent") and line.endswith("torch is not installed: pip install -e .[bench]") for line in lines
    )
    assert any("Warning" in line and "peer" in line for line in lines)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["times_as_fast"]["ours"]["peer"] == {"turns": [2, 3, 2], "median": 2, "low": 2, "high": 3}
    assert content["contenders"][0]["median"] == 110 and content["contenders"][0]["warm_up_seconds"] == 2
    assert content["contenders"][2]["status"] == "not installed" and "turns" not in content["contenders"][2]
    assert content["machine"]["packages"]["tensorflow"] == tf.__version__ and content["more_facts"] == [1]
    assert content["machine"]["processor"] and content["settings"]["repeats"] == config.repeats


@pytest.mark.parametrize(
    ("value", "text"), [(1234567.8, "1,234,568"), (52.14, "52.1"), (0.01234, "0.0123"), (999.6, "1,000")]
)
def test_numbers(value, text):
    assert report.number(value) == text


def test_teraflops_follow_from_the_table():
    config = StepConfig(backbone="resnet50", image_size=112, global_batch_size=4, images=8)
    found = step._all_teraflops(config, [outcome("ours", 10.0)])
    assert found["ours"] == pytest.approx(10 * 6 * 3.856e9 / 4 / 1e12)  # a quarter of the area of 224
    forward = step._all_teraflops(dataclasses.replace(config, mode="forward"), [outcome("ours", 10.0)])
    assert forward["ours"] == pytest.approx(found["ours"] / 3)


def test_the_fastest_is_the_one_of_the_highest_median(tmp_path, capsys):
    stock = [outcome("keras_best", 20, 30), outcome("keras_best_xla", 10, 90)]
    ours_first = [outcome("ours", 30, 60), outcome("ours_no_xla", 900, 900), *stock]
    assert step.fastest(ours_first, step_contenders.STOCK_KERAS) == ("keras_best_xla", pytest.approx([3, 60 / 90]))
    assert step.fastest(stock, step_contenders.PEERS) == (None, [])
    config = StepConfig(output=str(tmp_path / "report.json"))
    found = [dataclasses.replace(one, facts={"precision": "float32", "bytes_to_device_per_image": 1}) for one in stock]
    ahead = dataclasses.replace(found[0], contender=Contender(name="tf_keras", module="", settings=()))
    ahead.blocks = outcome("tf_keras", 60, 60).blocks
    mine = dataclasses.replace(ours_first[0], facts=found[0].facts)
    peak = outcome("matmul", status="failed", message="no product")
    step.show_steps([mine, *found, ahead], peak, config, report.machine(), "step")
    printed = capsys.readouterr().out.splitlines()
    assert "ours is 0.75 (0.5-1) times as fast as tf_keras, the fastest peer" in printed
    assert "ours is 1.83 (0.667-3) times as fast as keras_best_xla, the best stock Keras" in printed
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["fastest_peer"] == {"name": "tf_keras", "times_as_fast": [0.5, 1.0]}
    assert content["best_stock_keras"]["name"] == "keras_best_xla"


# --- processes
