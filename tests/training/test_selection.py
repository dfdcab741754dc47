"""Which epoch a run ends with: by each measure, of equal ones by the loss, and through a resume."""

import json
import math

import numpy as np
import pytest
from tiny_runs import assert_identical, config
from toy_dataset import write_toy_dataset

from tl_distributed.errors import UserError
from tl_distributed.reporting.scores import figures_of, score_examples
from tl_distributed.training.phase_run import PhaseRun
from tl_distributed.training.position import Position
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.selection import Validation, validation_of
from tl_distributed.training.task_choice import resolved_by_task
from tl_distributed.training.tasks import Classification


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 24, "val": 10, "test": 9}
    return write_toy_dataset(tmp_path_factory.mktemp("selection") / "toy", counts=counts)


@pytest.mark.parametrize(
    ("new", "best", "better"),
    [
        ((0.5, 1.0), (None, None), True),
        ((0.5, 1.0), (0.4, 0.1), True),
        ((0.5, 1.0), (0.6, 9.0), False),
        ((0.5, 1.0), (0.5, 1.1), True),
        ((0.5, 1.0), (0.5, 1.0), False),
        ((0.5, 1.0), (0.5, None), False),  # of an older version, which took the first
        ((0.5, math.nan), (None, None), False),
        ((math.nan, 1.0), (0.1, 1.0), False),
    ],
)
def test_a_later_epoch_is_taken_where_it_is_better(new, best, better):
    assert Validation(*new).is_better_than(*best) == better


@pytest.mark.parametrize(
    ("select_by", "score"),
    [("val_accuracy", 0.9), ("val_balanced_accuracy", 0.7), ("val_loss", -0.3)],
)
def test_every_measure_is_larger_where_it_is_better(select_by, score):
    figures = {"accuracy": 0.9, "loss": 0.3, "balanced_accuracy": 0.7}
    assert validation_of(select_by, figures, smaller_is_better=Classification().smaller_is_better) == (score, 0.3)


def test_top5_accuracy_chooses_where_validation_has_it(tmp_path):
    asked = config("", tmp_path, select_by="val_top5_accuracy")
    assert resolved_by_task(asked, Classification(), num_classes=6).select_by == "val_top5_accuracy"
    labels = np.arange(6)
    figures = figures_of(score_examples(labels, np.full((6, 6), 1 / 6)), num_classes=6)
    assert validation_of("val_top5_accuracy", figures, smaller_is_better=()).score == pytest.approx(5 / 6)
    with pytest.raises(UserError, match="--select_by=val_top5_accuracy: task classification has val_accuracy, "):
        resolved_by_task(asked, Classification(), num_classes=5)


@pytest.mark.parametrize(
    "select_by",
    ["val_accuracy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("val_loss", "val_balanced_accuracy"))],
)
def test_the_kept_epoch_is_the_best_of_the_log_also_after_a_resume(data_dir, tmp_path, select_by):
    settings = {"select_by": select_by, "epochs": 4, "learning_rate": 0.05, "checkpoint_every_steps": 5}
    results = train_and_evaluate(config(data_dir, tmp_path / "whole", **settings))
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "val_loss" in row]
    sign = -1 if select_by == "val_loss" else 1
    best = max(rows, key=lambda row: (sign * row[select_by], -row["val_loss"]))
    assert results["best_step"] == best["step"] and results["val_loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    assert results["val_balanced_accuracy"] == pytest.approx(best["val_balanced_accuracy"])
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=8, **settings))
    again = train_and_evaluate(config(data_dir, tmp_path / "run", **settings))
    assert (again["best_step"], again["test_loss"]) == (results["best_step"], results["test_loss"])
    assert_identical(tmp_path / "whole", tmp_path / "run")


def test_a_lower_loss_breaks_a_tie_and_does_not_put_off_an_early_stop(data_dir, tmp_path, monkeypatch):
    found = iter([Validation(0.5, 1.0), Validation(0.5, 0.8), Validation(0.5, 0.9), Validation(0.9, 0.1)])
    monkeypatch.setattr(PhaseRun, "_validate", lambda self, progress: next(found))
    results = train_and_evaluate(config(data_dir, tmp_path / "run", epochs=9, early_stopping_epochs=2))
    assert (results["steps"], results["best_step"]) == (9, 6)


def test_positions_of_older_checkpoints_are_read():
    text = (
        '{"step": 9, "phase": 1, "phase_first_step": 4, "best_val_accuracy": 0.5, "best_step": 6, "stale_epochs": 1, '
    )
    text += '"phase_best_val_accuracy": -1.0, "seconds": 2.5, "banks_counted": 1}'
    assert Position.from_json(text) == Position(
        step=9, phase=1, phase_first_step=4, best_score=0.5, best_step=6, stale_epochs=1, validated_epochs=None,
        seconds=2.5, banks_counted=1,
    )  # fmt: skip


def test_a_measure_of_validation_needs_such_a_split(tmp_path):
    data = write_toy_dataset(tmp_path / "data", counts={"train": 16, "test": 4})
    with pytest.raises(UserError, match=r"--select_by=val_loss goes by validation, and .* has no val split"):
        train_and_evaluate(config(data, tmp_path / "run", select_by="val_loss"))
