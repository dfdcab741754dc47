"""A signal that comes while weights are evaluated: obeyed before the next batch, and nothing is lost or done twice."""

import json
import os
import signal
import threading
import types

import pytest
from tiny_runs import assert_identical, config
from toy_dataset import write_toy_dataset

from tl_distributed.data.memory_split import MemorySplit
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.evaluation import Evaluator
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.watched import EvaluationStoppedError, WatchedEvaluator

SETTINGS = {"epochs": 2, "early_stopping_epochs": 2, "input_mode": "memory"}
RESULTS = ("best_step", "steps", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
EVALUATIONS = ("validation", "last validation", "validation of the best", "test of the best")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts={"train": 60, "val": 90, "test": 90})


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train_and_evaluate(config(data_dir, workdir, **SETTINGS))
    return workdir


def rows_of(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row.get(name) for name in ("step", "phase", "loss", "val_loss", "val_accuracy")} for row in rows]


@pytest.fixture
def kill_in(monkeypatch):
    """Returns a function: in the evaluation of that number a signal comes after a batch; returns the batches of each.

    -1: in each.
    """

    def patch(hit: int, signal_number: int) -> list[int]:
        batches_of, evaluate, drawn = MemorySplit.eval_batches, Evaluator.evaluate, []

        def counted(self, *arguments, **options):
            drawn.append(0)
            return evaluate(self, *arguments, **options)

        def signalled(self, *arguments, **options):
            for batch in batches_of(self, *arguments, **options):
                if drawn and drawn[-1] == 1 and hit in (len(drawn) - 1, -1):
                    os.kill(os.getpid(), signal_number)
                if drawn:
                    drawn[-1] += 1
                yield batch

        monkeypatch.setattr(MemorySplit, "eval_batches", signalled)
        monkeypatch.setattr(Evaluator, "evaluate", counted)
        return drawn

    return patch


@pytest.mark.parametrize("hit", range(4), ids=EVALUATIONS)
def test_it_is_obeyed_at_once_and_the_evaluation_is_done_anew(data_dir, tmp_path, whole, monkeypatch, kill_in, hit):
    drawn = kill_in(hit, signal.SIGUSR1)
    with pytest.raises(SystemExit) as ended:
        train_and_evaluate(config(data_dir, tmp_path / "run", **SETTINGS))
    assert ended.value.code == 128 + signal.SIGUSR1
    assert drawn[:-1] == [12] * hit and 2 <= drawn[-1] <= 4  # of 12 batches: what was under way
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.undo()
    train_and_evaluate(config(data_dir, tmp_path / "run", resume="must", **SETTINGS))
    assert_identical(whole, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(whole)
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "run", whole))
    assert {name: found[name] for name in RESULTS} == {name: expected[name] for name in RESULTS}


def test_a_validation_that_is_stopped_twice_is_still_left(data_dir, tmp_path, kill_in):
    kill_in(-1, signal.SIGTERM)
    for resume in ("never", "must"):
        with pytest.raises(SystemExit):
            train_and_evaluate(config(data_dir, tmp_path / "run", resume=resume, **SETTINGS))
        position = Checkpoints(str(tmp_path / "run"), keep=2, workers=Workers()).latest_position()
        assert (position.step, position.best_score) == (8, None) and position.is_validation_left


class TwoThreads(Workers):
    """One of two workers, each a thread, which tell each other their values."""

    def __init__(self, index: int, barrier: threading.Barrier, values: list):
        self.index, self.count, self._barrier, self._values = index, 2, barrier, values

    def exchange(self, topic, value):
        self._values[self.index] = value
        self._barrier.wait(20)
        given = list(self._values)
        self._barrier.wait(20)
        return given


class CountingEvaluator:
    """Evaluates nothing, in 100 batches; the signal reaches one worker after the third."""

    def __init__(self, signalled: StopRequest | None):
        self.batches, self._signalled = 0, signalled

    def evaluate(self, split, *, batch_size, on_batch):
        for _ in range(100):
            self.batches += 1
            if self.batches == 3 and self._signalled:
                self._signalled._note(signal.SIGUSR1, None)
            on_batch(batch_size)


def test_all_workers_stop_after_the_same_batch():
    barrier, values, evaluators, ended = threading.Barrier(2), [None, None], [], []
    split = types.SimpleNamespace(num_examples=800)

    def work(index: int) -> None:
        workers = TwoThreads(index, barrier, values)
        stop = StopRequest(workers)
        evaluators.append(CountingEvaluator(stop if index == 1 else None))
        evaluate = WatchedEvaluator(evaluators[-1], {"val": split}, batch_size=8, stop=stop, workers=workers)
        assert evaluate("test") is None
        with pytest.raises(EvaluationStoppedError):
            evaluate("val")
        ended.append(stop.signal_number)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended == [signal.SIGUSR1] * 2
    assert evaluators[0].batches == evaluators[1].batches < 20
