"""One run at a time in a workdir, and a finished run that is trained on."""

import json
import logging
import shlex
import shutil
import zipfile

import keras
import numpy as np
import pytest
from tiny_backbone import register_tiny_backbones
from tiny_runs import assert_identical, config
from toy_dataset import write_toy_dataset

from tl_distributed.data.order import ORDER_VERSION
from tl_distributed.errors import UserError
from tl_distributed.files import file_lock
from tl_distributed.inference.kept_head import head_of_classes
from tl_distributed.inference.model_info import ModelInfo, store_inside
from tl_distributed.runtime.workers import Workers
from tl_distributed.training import workdir_lock
from tl_distributed.training.phase_run import PhaseRun
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.workdir_lock import holder_of, locked_workdir

register_tiny_backbones()
CONSTANT = {"schedule": "constant", "ema_decay": 0.9, "dropout": 0.3, "warmup_epochs": 0.5}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 60, "val": 15, "test": 15}
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=counts)


def rows_of(workdir) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "images_per_second", "per_second")
    return [{name: value for name, value in row.items() if not any(time in name for time in times)} for row in rows]


def test_a_second_run_is_refused_and_named_the_first(data_dir, tmp_path):
    with locked_workdir(str(tmp_path / "run"), Workers()):
        holder = holder_of(str(tmp_path / "run"))
        with pytest.raises(UserError, match=rf"in use by process {holder['process']} on .*, since .*--workdir"):
            train_and_evaluate(config(data_dir, tmp_path / "run"))
    assert holder_of(str(tmp_path / "run")) is None
    assert not (tmp_path / "run").exists()  # nothing came of it


def test_the_chief_alone_locks(tmp_path):
    other = Workers()
    other.index = 1
    with locked_workdir(str(tmp_path), Workers()), locked_workdir(str(tmp_path), other):
        assert holder_of(str(tmp_path)) is not None


@pytest.mark.parametrize(("restart", "job", "goes_on"), [("1", "12", True), ("0", "12", False), ("1", "13", False)])
def test_a_requeued_job_goes_on_behind_its_lost_node(tmp_path, monkeypatch, caplog, restart, job, goes_on):
    """The file server may keep the lock of a node that has died for minutes."""
    with file_lock(str(tmp_path / "lock"), slurm_job="12", slurm_restart=0):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        if goes_on:
            with caplog.at_level(logging.INFO), locked_workdir(str(tmp_path), Workers()):
                assert "an earlier start of this SLURM job" in caplog.text
        else:
            with pytest.raises(UserError, match="in use"), locked_workdir(str(tmp_path), Workers()):
                pass


def test_without_locks_it_says_so_and_trains(data_dir, tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.INFO):
        train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=1))
    assert caplog.text.count("is not locked (No locks available): see to it that no other training uses it.") == 1


def test_another_workdir_is_suggested(data_dir, tmp_path):
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=1))
    with pytest.raises(UserError, match=rf"\(seed 0 there, 1 here\).* e\.g\. --workdir={tmp_path}/run-seed_1, "):
        train_and_evaluate(config(data_dir, tmp_path / "run", seed=1))
    (tmp_path / "run-seed_1").mkdir()
    with pytest.raises(UserError, match=f"--workdir={tmp_path}/run-2, "):
        train_and_evaluate(config(data_dir, tmp_path / "run", seed=1))


@pytest.fixture(scope="module")
def long_run(data_dir, tmp_path_factory):
    """Asked for its five epochs at once."""
    workdir = tmp_path_factory.mktemp("long") / "run"
    return workdir, train_and_evaluate(config(data_dir, workdir, epochs=5, **CONSTANT))


@pytest.fixture(scope="module")
def short_run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("short") / "run"
    train_and_evaluate(config(data_dir, workdir, epochs=2, **CONSTANT))
    return workdir


class _KilledError(Exception):
    """In place of a kill."""


def test_a_longer_run_is_as_if_asked_for_at_once(data_dir, tmp_path, long_run, short_run, monkeypatch):
    expected_workdir, expected = long_run
    shutil.copytree(short_run, tmp_path / "run")

    def killed(self):
        raise _KilledError

    with monkeypatch.context() as patch:  # before its first checkpoint: it is not taken for finished
        patch.setattr(PhaseRun, "run", killed)
        with pytest.raises(_KilledError):
            train_and_evaluate(config(data_dir, tmp_path / "run", epochs=5, **CONSTANT))
    assert not json.loads((tmp_path / "run/results.json").read_text())["finished"]
    results = train_and_evaluate(config(data_dir, tmp_path / "run", epochs=5, **CONSTANT))
    assert_identical(expected_workdir, tmp_path / "run")
    names = ("steps", "epochs", "finished", "best_step", "val_accuracy", "test_loss", "confusion_matrix", "images_seen")
    assert [results[name] for name in names] == [expected[name] for name in names]
    assert rows_of(tmp_path / "run") == rows_of(expected_workdir)
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["epochs"] == 5
    models = [keras.models.load_model(path / "model.keras") for path in (expected_workdir, tmp_path / "run")]
    for left, right in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(left, right)
    before = (tmp_path / "run/results.json").read_bytes()
    train_and_evaluate(config(data_dir, tmp_path / "run", epochs=5, **CONSTANT))  # finished
    assert (tmp_path / "run/results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"schedule": "cosine"}, "its rate follows --schedule=cosine, which ends with its 1 epochs"),
        ({"schedule": "constant", "warmup_epochs": 2}, "its 1 epochs are all warm-up"),
    ],
)
def test_a_run_that_cannot_be_longer_says_why_and_how(data_dir, tmp_path, settings, why):
    train_and_evaluate(config(data_dir, tmp_path / "a run", epochs=1, max_steps=2, **settings))
    with pytest.raises(UserError) as refused:
        train_and_evaluate(config(data_dir, tmp_path / "a run", epochs=4, **settings))
    assert why in str(refused.value)
    flags = [f"--weights={tmp_path}/a run", "--transfer=full", f"--workdir={tmp_path}/a run-epochs_4"]
    assert [word for word in shlex.split(str(refused.value)) if word in flags] == flags


def test_a_run_that_stopped_early_is_over(data_dir, tmp_path, caplog):
    settings = {"schedule": "constant", "learning_rate": 0.0, "early_stopping_epochs": 1}
    first = train_and_evaluate(config(data_dir, tmp_path / "run", epochs=8, **settings))
    with caplog.at_level(logging.INFO):
        again = train_and_evaluate(config(data_dir, tmp_path / "run", epochs=9, **settings))
    assert "stopped early, as --early_stopping_epochs asks: more --epochs change nothing" in caplog.text
    assert again["steps"] == first["steps"] == 15


def test_a_lock_that_cannot_be_made_is_said(tmp_path, caplog):
    (tmp_path / workdir_lock.LOCK_FILE).mkdir()  # as on a disk that can only be read, which root may write to
    with caplog.at_level(logging.INFO), locked_workdir(str(tmp_path), Workers()):
        assert "its lock cannot be made (Is a directory)" in caplog.text


def test_training_on_from_a_run_keeps_its_head(data_dir, tmp_path, short_run, caplog):
    settings = {"transfer": "frozen", "weights": str(short_run), "learning_rate": 0.0, "max_steps": 1}
    expected = json.loads((short_run / "results.json").read_text())["test_loss"]
    with caplog.at_level(logging.INFO):
        kept = train_and_evaluate(config(data_dir, tmp_path / "kept", **settings))
    assert kept["test_loss"] == pytest.approx(expected, rel=1e-5)
    assert "model.keras is kept, since the classes are the same" in caplog.text
    assert json.loads((tmp_path / "kept/config.json").read_text())["config"]["reset_head"] is False
    with caplog.at_level(logging.INFO):
        reset = train_and_evaluate(config(data_dir, tmp_path / "reset", reset_head=True, **settings))
    assert reset["test_loss"] != pytest.approx(expected, rel=1e-3)
    assert "the head is new: --reset_head" in caplog.text


@pytest.mark.parametrize(
    ("stored", "ours", "reason"),
    [
        (("ant", "bee"), ("ant", "bee"), ""),
        (("bee", "ant"), ("ant", "bee"), "the file's was trained on these classes in another order"),
        (("ant",), ("ant", "bee"), "the file's was trained on other classes"),
        ((), ("ant", "bee"), "it is not known which classes the file's was trained on"),
        (("ant", "bee"), (), "it is not known which classes the file's was trained on"),
    ],
)
def test_why_a_head_is_new(tmp_path, stored, ours, reason):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
        file.writestr("metadata.json", "{}")
    store_inside(str(tmp_path / "model.keras"), ModelInfo(stored, None, (8, 8, 3)))
    assert head_of_classes(ours)(str(tmp_path / "model.keras")) == reason


@pytest.mark.parametrize("before", [None, 1])
def test_a_run_of_another_order_does_not_go_on(data_dir, tmp_path, before):
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=2))
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("order_version") == ORDER_VERSION
    path.write_text(json.dumps(saved if before is None else {**saved, "order_version": before}))
    with pytest.raises(UserError, match=rf"order_version 1 there, {ORDER_VERSION} here\).*--workdir=.*run-2") as raised:
        train_and_evaluate(config(data_dir, tmp_path / "run"))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_run_of_before_the_flags_trained_batch_norm_and_had_no_warm_up(data_dir, tmp_path):
    weights = tmp_path / "scratch"
    train_and_evaluate(config(data_dir, weights, epochs=1))
    tuned = {"transfer": "full", "weights": str(weights), "finetune_learning_rate": 0.01, "batch_norm": "train"}
    tuned["finetune_warmup_fraction"] = 0.0
    train_and_evaluate(config(data_dir, tmp_path / "run", **tuned, max_steps=3))
    written = json.loads((tmp_path / "run/config.json").read_text())
    del written["config"]["batch_norm"], written["config"]["finetune_warmup_fraction"]
    (tmp_path / "run/config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"train there, frozen here; finetune_warmup_fraction 0\.0 there, 0\.1"):
        train_and_evaluate(
            config(data_dir, tmp_path / "run", **{**tuned, "batch_norm": None, "finetune_warmup_fraction": 0.1})
        )
    assert train_and_evaluate(config(data_dir, tmp_path / "run", **tuned))["finished"]


def test_fine_tuning_leaves_batch_norm_as_it_was(data_dir, tmp_path):
    train_and_evaluate(config(data_dir, tmp_path / "scratch", epochs=1))
    tuned = {"transfer": "full", "weights": str(tmp_path / "scratch"), "finetune_learning_rate": 0.01, "epochs": 1}
    train_and_evaluate(config(data_dir, tmp_path / "run", **tuned))
    before, after = (
        {weight.path: weight.numpy() for weight in keras.saving.load_model(tmp_path / name / "model.keras").weights}
        for name in ("scratch", "run")
    )
    assert before.keys() == after.keys()
    same = {path for path, value in before.items() if np.array_equal(value, after[path])}
    assert same and same == {path for path in before if path.startswith("bn")}


@pytest.mark.parametrize(
    ("resume", "line"), [("auto", "has checkpoints and no config.json"), ("never", "--resume=never")]
)
def test_checkpoints_of_unknown_settings_are_not_gone_on_with(data_dir, tmp_path, short_run, resume, line):
    shutil.copytree(short_run, tmp_path / "run")
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(UserError, match=line):
        train_and_evaluate(config(data_dir, tmp_path / "run", epochs=2, **CONSTANT, seed=5, resume=resume))


def test_a_finished_run_without_its_checkpoints_is_not_trained_over(data_dir, tmp_path, short_run):
    """They are what takes the room."""
    workdir, settings = tmp_path / "run", {"epochs": 2, **CONSTANT}
    shutil.copytree(short_run, workdir)
    shutil.rmtree(workdir / "checkpoints")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    results = train_and_evaluate(config(data_dir, workdir, **settings))
    assert results["test_loss"] == json.loads((workdir / "results.json").read_text())["test_loss"]
    with pytest.raises(UserError, match=r"holds a run with other settings \(seed 0 there, 5 here\)"):
        train_and_evaluate(config(data_dir, workdir, **settings, seed=5))
    with pytest.raises(UserError, match="cannot be trained for longer, since its checkpoints are gone"):
        train_and_evaluate(config(data_dir, workdir, **{**settings, "epochs": 3}))
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match=r"has results and no config\.json"):
        train_and_evaluate(config(data_dir, workdir, **settings))


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_a_damaged_file_of_a_run_is_one_line(data_dir, tmp_path, short_run, name):
    workdir = tmp_path / "run"
    shutil.copytree(short_run, workdir)
    (workdir / name).write_text('{"config": ')
    with pytest.raises(UserError, match=f"{workdir}/{name}: damaged, no JSON object"):
        train_and_evaluate(config(data_dir, workdir, epochs=2, **CONSTANT))
