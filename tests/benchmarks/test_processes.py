"""Contenders in processes of their own, which take turns."""

import dataclasses

import pytest
from paths import PYTHONPATH

from tl_distributed.benchmarks import whole_processes
from tl_distributed.benchmarks.processes import Contender, take_turns
from tl_distributed.errors import UserError

# --- statistics and tables


def toys(tmp_path, *settings):
    journal = str(tmp_path / "journal")
    return [
        Contender(
            name=entry["name"], module="toy_contender", settings=({"journal": journal, **entry},),
            environment={"PYTHONPATH": PYTHONPATH},
        )
        for entry in settings
    ]  # fmt: skip


def test_contenders_take_turns(tmp_path):
    made = toys(tmp_path, {"name": "a", "rate": 3, "seconds": 2.0, "warm_up_seconds": 0.05}, {"name": "b", "rate": 5})
    first, second = take_turns(made, repeats=3, amount=4)
    assert (tmp_path / "journal").read_text().split() == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert first.rates() == [6.0] * 3 and second.rates() == [20.0] * 3
    assert first.warm_up_seconds >= 0.05 and first.facts == {"device": "toy", "name": "a", "is_warm": True}
    assert first.others_busy_share < 0.5


def test_what_cannot_be_measured_is_said_and_the_others_go_on(tmp_path):
    made = toys(
        tmp_path, {"name": "missing", "missing": True}, {"name": "defect", "defect": True}, {"name": "well"},
        {"name": "mortal", "dies_in_block": 2}, {"name": "unable", "unable": True},
    )  # fmt: skip
    missing, defect, well, mortal, unable = take_turns(made, repeats=2, amount=1)
    assert (missing.status, missing.message) == ("not installed", "torch is not installed: pip install -e .[bench]")
    assert (defect.status, defect.message) == ("failed", "ZeroDivisionError: a defect")
    assert len(well.blocks) == 2
    assert (unable.status, unable.message, unable.blocks) == ("not measured", "no such network there", [])
    assert mortal.status == "failed" and mortal.blocks == [] and mortal.message.endswith("ended with 3: last words")


def test_a_setting_that_a_contender_refuses_ends_the_benchmark(tmp_path):
    with pytest.raises(UserError, match="pink: --colour=pink: no such colour"):
        take_turns(toys(tmp_path, {"name": "pink", "mistake": True}), repeats=1, amount=1)


def test_an_unknown_python_is_named(tmp_path):
    (toy,) = toys(tmp_path, {"name": "a"})
    with pytest.raises(UserError, match="/no/python: cannot be run"):
        take_turns([dataclasses.replace(toy, python="/no/python")], repeats=1, amount=1)


def test_several_processes_of_a_contender_work_at_once(tmp_path):
    (toy,) = toys(tmp_path, {"name": "a", "seconds": 1.0})
    other = {**toy.settings[0], "name": "b", "seconds": 4.0}
    (found,) = take_turns([dataclasses.replace(toy, settings=(toy.settings[0], other))], repeats=1, amount=8)
    assert found.blocks == [{"seconds": 4.0, "done": 8}]  # as long as the slower one
    assert sorted((tmp_path / "journal").read_text().split()) == ["a1", "b1"]


def test_whole_processes():
    seconds, printed = whole_processes.run_module("this", [])
    assert seconds > 0 and "Beautiful is better than ugly" in printed
    assert whole_processes.seconds_until("this", [], lambda text: "Beautiful" in text) > 0
    with pytest.raises(UserError, match=r"json\.tool ended with exit code"):
        whole_processes.run_module("json.tool", ["/no/such/file"])
    with pytest.raises(UserError, match="python -m this ended with exit code 0"):
        whole_processes.seconds_until("this", [], lambda text: "never printed" in text)
