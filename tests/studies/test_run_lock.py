"""Two studies of one folder, and what a killed one leaves behind."""

import json
import pathlib
import signal
import threading
import time

import pytest
from finished_runs import trainer
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.files import file_lock, read_json, write_json
from tl_distributed.runtime.workers import Workers
from tl_distributed.studies import run_lock
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.studies.runner import open_study, run_plan
from tl_distributed.training.workdir_lock import LOCK_FILE

RUN = "arms/cnn/all_images/seed_0"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 12, "val": 6, "test": 6}
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=counts, size=8, num_shards=1)


def study(data_dir, workdir, train, settings="epochs=2") -> int:
    plan = make_plan(StudyConfig(arms=f"cnn:backbone=baseline_cnn,transfer=scratch,{settings}"))
    info = read_manifest(data_dir)
    open_study(str(workdir), plan, info)
    return run_plan(
        plan, info, data_dir=data_dir, data_copy_dir="", workdir=str(workdir), train=train, workers=Workers(),
        cluster_arguments=[],
    )  # fmt: skip


def test_a_second_study_is_refused_and_touches_nothing(data_dir, tmp_path):
    def while_the_first_trains(arguments, log, while_waiting):
        before = sorted(path for path in tmp_path.rglob("*") if path.name != "plan.json")
        with pytest.raises(UserError, match=f"{tmp_path}/{RUN} is in use by process .*; wait for its end, or choose"):
            study(data_dir, tmp_path, lambda *_: pytest.fail("trained"))
        assert sorted(path for path in tmp_path.rglob("*") if path.name != "plan.json") == before
        return trainer(lambda _: 0.8, [])(arguments, log, while_waiting)

    assert study(data_dir, tmp_path, while_the_first_trains) == 0
    assert not list(tmp_path.rglob("*.lock")) and not (tmp_path / RUN / "failure.json").exists()


def test_a_study_waits_for_the_training_that_a_killed_one_left(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_POLL_SECONDS", 0.01)
    (tmp_path / RUN).mkdir(parents=True)
    ended = []

    def ends():
        with file_lock(str(tmp_path / RUN / LOCK_FILE)):
            locked.set()
            time.sleep(0.3)
            ended.append(1)

    locked, calls = threading.Event(), []
    thread = threading.Thread(target=ends)
    thread.start()
    locked.wait()

    def train(*arguments):
        assert ended
        return trainer(lambda _: 0.8, calls)(*arguments)

    assert study(data_dir, tmp_path, train) == 0 and len(calls) == 1
    thread.join()


def test_a_training_that_does_not_end_is_named(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_WAIT_SECONDS", 0.0)
    (tmp_path / RUN).mkdir(parents=True)
    with file_lock(str(tmp_path / RUN / LOCK_FILE)), pytest.raises(UserError, match=f"{RUN} is in use by process "):
        study(data_dir, tmp_path, lambda *_: pytest.fail("trained"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_run_that_was_told_to_stop_has_not_failed(data_dir, tmp_path, number):
    with pytest.raises(SystemExit) as stopped:
        study(data_dir, tmp_path, lambda *_: 128 + number)
    assert stopped.value.code == 128 + number and not (tmp_path / RUN / "failure.json").exists()


def test_more_epochs_of_a_constant_arm_are_trained_on(data_dir, tmp_path):
    calls = []

    def train(arguments, log: pathlib.Path, while_waiting):
        code = trainer(lambda _: 0.8, calls)(arguments, log, while_waiting)
        write_json(f"{calls[-1].workdir}/config.json", {"config": {"epochs": calls[-1].epochs}})
        return code

    for settings, trained in [
        ("epochs=2,schedule=constant", 1), ("epochs=3,schedule=constant", 2), ("epochs=3,schedule=constant", 2),
    ]:  # fmt: skip
        assert study(data_dir, tmp_path, train, settings) == 0
        assert len(calls) == trained
    assert read_json(f"{tmp_path}/plan.json")["arms"]["cnn"]["epochs"] == 3
    with pytest.raises(UserError, match=r"other settings \(epochs 3 there, 2 here\)"):
        study(data_dir, tmp_path, train, "epochs=2,schedule=constant")
    assert json.loads((tmp_path / RUN / "results.json").read_text())["finished"]
    with pytest.raises(UserError, match="schedule constant there, cosine here"):
        study(data_dir, tmp_path, train, "epochs=4,schedule=cosine")
