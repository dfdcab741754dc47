"""Studies from Python: the plan is the command's, and the tables are what the runs left."""

import pathlib
import sys

import numpy as np
import pytest
from finished_runs import trainer
from toy_dataset import write_toy_dataset

import tl_distributed as tl
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies import runner
from tl_distributed.studies.plan import StudyConfig, make_plan

ARMS = {
    "cnn": {"backbone": "baseline_cnn", "transfer": "scratch"},
    "deep": {"backbone": "resnet20", "transfer": "scratch", "head_units": (64, 32)},
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 60, "val": 30, "test": 40}
    return write_toy_dataset(tmp_path_factory.mktemp("study") / "toy", counts=counts, size=8)


def accuracy(config) -> float:
    return {"baseline_cnn": 0.5, "resnet20": 0.75}[config.backbone] + 0.05 * config.seed


@pytest.fixture
def study(data_dir, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(runner, "train_in_process", trainer(accuracy, calls))
    monkeypatch.chdir(tmp_path)
    done = tl.study(ARMS, common={"epochs": 4}, seeds=2, data_dir=data_dir, workdir="study")
    monkeypatch.chdir("/")  # as a program may: what is done stays where it is
    return done, calls


def test_the_plan_is_the_commands(study):
    text = "cnn:backbone=baseline_cnn,transfer=scratch;deep:backbone=resnet20,transfer=scratch,head_units=64,32"
    config, _ = parse_arguments(StudyConfig, [f"--arms={text}", "--common=epochs=4", "--seeds=2"])
    plan = make_plan(config)
    assert study[0].plan.runs and [str(run) for run in study[0].plan.runs] == [str(run) for run in plan.runs]
    assert [set(arm.arguments) for arm in study[0].plan.arms] == [set(arm.arguments) for arm in plan.arms]
    assert {(config.backbone, config.epochs, config.head_units) for config in study[1]} == {
        ("baseline_cnn", 4, ()),
        ("resnet20", 4, (64, 32)),
    }


def test_table_and_pairs_are_those_of_the_runs(study, tmp_path):
    done, _ = study
    assert [(row["arm"], row["runs"], row["images_per_class"]) for row in done.table] == [
        ("cnn", 2, "all"),
        ("deep", 2, "all"),
    ]
    for row, first in zip(done.table, (0.5, 0.75), strict=True):
        assert row["test_accuracy"] == pytest.approx(first + 0.025)
        assert row["test_accuracy_std"] == pytest.approx(np.std([first, first + 0.05], ddof=1))
        assert [run.results["test_accuracy"] for run in done.runs[row["arm"]]] == pytest.approx([first, first + 0.05])
    (pair,) = done.pairs
    assert {pair["first"], pair["second"]} == {"cnn", "deep"} and abs(pair["difference"]) == pytest.approx(0.25)
    assert pair["low"] < pair["difference"] < pair["high"]
    assert pathlib.Path(done.workdir, "report.html").samefile(tmp_path / "study/report.html") and done.failures == {}
    assert all(pathlib.Path(run.workdir).is_dir() for runs in done.runs.values() for run in runs)


def test_the_report_does_not_take_a_programs_arguments_for_the_studys(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiment.py", "--of_the_program=3"])
    monkeypatch.setattr(runner, "train_in_process", trainer(accuracy, []))
    tl.study({"cnn": ARMS["cnn"]}, data_dir=data_dir, workdir=tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "called by: experiment.py, through tl.study" in text
    assert "python -m tl_distributed.study" not in text and "of_the_program" not in text


@pytest.mark.parametrize("flags", [{"list_arms": True}, {"list_runs": True}, {"report_only": True, "arm_index": 0}])
def test_flags_by_which_nothing_is_trained_train_nothing(flags, data_dir, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(runner, "train_in_process", trainer(accuracy, calls))
    with pytest.raises(tl.UserError, match=f"--{next(iter(flags))}"):
        tl.study(ARMS, data_dir=data_dir, workdir=tmp_path, **flags)
    assert not calls


def test_tables_are_shown(study):
    text, page = str(study[0].table), study[0].table._repr_html_()
    assert text.splitlines()[0].split()[:3] == ["arm", "images_per_class", "runs"] and "0.525" in text
    assert page.count("<tr>") == 3 and "<td>cnn</td>" in page


def test_failed_runs_are_told(data_dir, tmp_path, monkeypatch):
    outcome = lambda config: accuracy(config) if config.backbone == "resnet20" else "out of luck"  # noqa: E731
    monkeypatch.setattr(runner, "train_in_process", trainer(outcome, []))
    done = tl.study(ARMS, common={"epochs": 4}, data_dir=data_dir, workdir=tmp_path / "study")
    assert (done.num_asked, done.num_failed) == (2, 1)
    assert done.failures == {"cnn, all images, seed 0": "out of luck"} and done.runs["cnn"] == []


@pytest.mark.parametrize(("arms", "line"), [
    ({"../x": ARMS["cnn"]}, "its name begins with a letter"),
    ({"cnn": {**ARMS["cnn"], "seed": 3}}, "--seed is the study's own"),
    ({"cnn": {"transfer": "scratch"}}, "must say the backbone"),
    ({"cnn": {**ARMS["cnn"], "epoch": 3}}, "arm cnn: .*epoch"),
    ({}, "no arms"),
    ([ARMS["cnn"]], "arms takes the flags of each way by its name"),
    ({"cnn": "backbone=baseline_cnn"}, "arms takes the flags of each way by its name"),
])  # fmt: skip
def test_arms_that_cannot_be_meant(arms, line, data_dir):
    with pytest.raises(tl.UserError, match=line):
        tl.study(arms, data_dir=data_dir)


def test_a_stopped_study(data_dir, tmp_path, monkeypatch):
    def stopped(arguments, log, while_waiting):
        raise SystemExit(143)

    monkeypatch.setattr(runner, "train_in_process", stopped)
    with pytest.raises(tl.Stopped, match="SIGTERM"):
        tl.study(ARMS, data_dir=data_dir, workdir=tmp_path / "study")


def test_a_size_that_no_class_has_is_refused(data_dir, tmp_path):
    with pytest.raises(tl.UserError, match=r"--images_per_class=90: no class of --data_dir=\S+ has more than \d\d "):
        tl.study(ARMS, images_per_class=[10, 90], data_dir=data_dir, workdir=tmp_path / "study")
    assert not (tmp_path / "study").exists()
