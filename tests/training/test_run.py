"""Whole runs on a tiny model: the files that they leave, resuming, and how they end when something is wrong."""

import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from blank_charts import real_charts
from paths import PYTHONPATH, SUPPORT
from tiny_runs import assert_identical, config
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.errors import UserError
from tl_distributed.training import run_phases
from tl_distributed.training.phase_run import PhaseRun
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.selection import Validation

COUNTS = {"train": 60, "val": 18, "test": 21}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run from scratch, and one in two phases from its weights."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "transfer": "two_phase", "weights": str(folder / "scratch"), "head_epochs": 2, "epochs": 3,
        "finetune_learning_rate": 0.003, "finetune_warmup_fraction": 0.0, "ema_decay": 0.9, "label_smoothing": 0.1,
        "clip_norm": 1.0, "mixup": 0.2,
    }  # fmt: skip
    with real_charts():  # they are files of the contract
        scratch = train_and_evaluate(config(data_dir, folder / "scratch"))
        two_phase = train_and_evaluate(config(data_dir, folder / "two_phase", **settings))
    return folder, scratch, two_phase


def test_run_leaves_every_file_of_the_contract(finished):
    folder, _, results = finished
    workdir = folder / "two_phase"
    saved = json.loads((workdir / "results.json").read_text())
    assert saved["test_accuracy"] == results["test_accuracy"]
    assert saved["num_examples"] == {"val": COUNTS["val"], "test": COUNTS["test"]}
    assert saved["steps"] == 15 + 23  # 2 x 60 / 8 and 3 x 60 / 8, rounded up
    assert set(saved["per_class"]) == set(CLASS_NAMES)
    matrix = np.array(saved["confusion_matrix"])
    assert matrix.sum() == COUNTS["test"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(saved["test_accuracy"])
    assert {"learning_curves.png", "confusion_matrix.png"} <= {path.name for path in (workdir / "plots").iterdir()}
    written = json.loads((workdir / "config.json").read_text())
    assert written["config"]["transfer"] == "two_phase"
    assert written["versions"]["tensorflow"] == tf.__version__
    assert not list(workdir.rglob("*.tmp"))


def test_metrics_have_one_row_a_log_point_and_validation_at_epoch_ends(finished):
    folder, _, _ = finished
    rows = [json.loads(line) for line in (folder / "two_phase" / "metrics.jsonl").read_text().splitlines()]
    validated = [row["step"] for row in rows if "val_accuracy" in row]
    assert validated == [8, 15, 15 + 8, 15 + 15, 15 + 23]
    assert [row["phase"] for row in rows if "val_accuracy" in row] == ["head"] * 2 + ["main"] * 3
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 39))
    assert all(np.isfinite([row["loss"], row["gradient_norm"], row["learning_rate"]]).all() for row in trained)
    assert trained[0]["learning_rate"] == pytest.approx(0.01)
    assert trained[15]["learning_rate"] == pytest.approx(0.003)


def test_runs_learn_and_packaged_model_reproduces_the_accuracy(finished, data_dir):
    from tl_distributed.inference.scoring import score_model

    folder, scratch, two_phase = finished
    assert scratch["test_accuracy"] > 0.8
    for name, results in (("scratch", scratch), ("two_phase", two_phase)):
        score = score_model(str(folder / name), data_dir, split="test", batch_size=5)
        assert score["accuracy"] == pytest.approx(results["test_accuracy"])
        assert score["loss"] == pytest.approx(results["test_loss"], abs=1e-3)


def test_head_phase_leaves_the_backbone_alone(finished, data_dir, tmp_path):
    folder, _, _ = finished
    settings = {"transfer": "frozen", "weights": str(folder / "scratch"), "max_steps": 5}
    train_and_evaluate(config(data_dir, tmp_path / "frozen", **settings))
    before = {layer.path: layer.numpy() for layer in _backbone_weights(folder / "scratch")}
    after = {layer.path: layer.numpy() for layer in _backbone_weights(tmp_path / "frozen")}
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(value, after[path])


def _backbone_weights(workdir) -> list:
    model = keras.models.load_model(workdir / "model.keras")
    return [weight for weight in model.weights if "head" not in weight.path]


@pytest.mark.parametrize(("input_mode", "later_modes"), [
    ("memory", ("device", "disk")), pytest.param("disk", ("memory", "disk"), marks=pytest.mark.slow),
])  # fmt: skip
def test_stopped_and_resumed_equals_uninterrupted(data_dir, tmp_path, input_mode, later_modes):
    settings = {"dropout": 0.3, "ema_decay": 0.9, "optimizer": "adamw"}
    train_and_evaluate(config(data_dir, tmp_path / "whole", input_mode=input_mode, **settings))
    # Within an epoch, within the next, then to the end.
    for stop, mode in zip((3, 11, 0), (input_mode, *later_modes), strict=True):
        train_and_evaluate(config(data_dir, tmp_path / "parts", max_steps=stop, input_mode=mode, **settings))
    assert_identical(tmp_path / "whole", tmp_path / "parts")
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps))


def _start(data_dir: str, workdir, *flags: str, **options) -> subprocess.Popen:
    command = [
        sys.executable, str(SUPPORT / "train_tiny.py"), "--backbone=tiny_norm", "--transfer=scratch", "--epochs=60",
        f"--data_dir={data_dir}", f"--workdir={workdir}", "--global_batch_size=8", "--checkpoint_every_steps=10",
        "--strategy=one_device", "--xla=off", "--augment=basic", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **{**pipes, **options})


def _wait_for_checkpoint(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "checkpoint").exists():  # written last
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_kill_9_and_ctrl_c_lose_nothing(data_dir, tmp_path):
    whole = _start(data_dir, tmp_path / "whole")
    killed = _start(data_dir, tmp_path / "parts")
    _wait_for_checkpoint(killed, tmp_path / "parts")
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    interrupted = _start(data_dir, tmp_path / "parts", "--resume=must")
    before = set((tmp_path / "parts" / "checkpoints").iterdir())
    deadline = time.monotonic() + 120
    while set((tmp_path / "parts" / "checkpoints").iterdir()) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 128 + signal.SIGINT, errors
    assert "checkpoint written" in errors
    assert "Traceback" not in errors
    last = _start(data_dir, tmp_path / "parts", "--resume=must")
    _, errors = last.communicate(timeout=240)
    assert last.returncode == 0, errors
    assert whole.wait(timeout=240) == 0
    assert_identical(tmp_path / "whole", tmp_path / "parts")
    one, other = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts"))
    assert one["test_loss"] == other["test_loss"]
    assert one["best_step"] == other["best_step"]


def test_a_closed_terminal_leaves_a_checkpoint(data_dir, tmp_path):
    """The kernel sends SIGHUP, and whatever is written to the terminal from then on is an error."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # wide enough for a bar

    def own_terminal():
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` of the tests themselves would have it ignore
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    streams = {"stdin": end, "stdout": end, "stderr": end, "preexec_fn": own_terminal}
    process = _start(data_dir, tmp_path / "run", "--epochs=100000", **streams)
    os.close(end)
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "checkpoint").exists():
        assert process.poll() is None and time.monotonic() < deadline
        if select.select([terminal], [], [], 0.02)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    position = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (checkpoints / f"step-{position}.index").exists()  # where it stopped


def test_finished_run_is_not_run_again_and_resumed_one_needs_no_pretrained_file(finished, data_dir, tmp_path):
    folder, scratch, _ = finished
    again = train_and_evaluate(config(data_dir, folder / "scratch"))
    assert again["test_loss"] == scratch["test_loss"]
    weights = tmp_path / "weights.keras"
    weights.write_bytes((folder / "scratch" / "model.keras").read_bytes())
    settings = {"transfer": "frozen", "weights": str(weights), "epochs": 1}
    stopped = train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=2, **settings))
    assert not stopped["finished"]
    weights.unlink()
    assert train_and_evaluate(config(data_dir, tmp_path / "run", **settings))["finished"]


def test_averages_are_what_is_saved_and_scored(data_dir, tmp_path):
    settings = {"backbone": "tiny", "max_steps": 3, "learning_rate": 0.05, "dropout": 0.0}
    plain = train_and_evaluate(config(data_dir, tmp_path / "plain", **settings))
    averaged = train_and_evaluate(config(data_dir, tmp_path / "averaged", ema_decay=0.999, **settings))
    assert plain["test_loss"] != averaged["test_loss"]
    reader = tf.train.load_checkpoint(str(tmp_path / "averaged" / "checkpoints"))
    saved = keras.models.load_model(tmp_path / "averaged" / "model.keras").get_weights()
    kept = [reader.get_tensor(f"averages/{index}/.ATTRIBUTES/VARIABLE_VALUE") for index in range(len(saved))]
    for weight, average in zip(saved, kept, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-6)


def test_divergence_names_the_steps_and_what_to_try(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"between steps 0 and \d+; try a lower --learning_rate"):
        train_and_evaluate(config(data_dir, tmp_path / "run", optimizer="sgd", learning_rate=1e30, log_every_steps=4))


def test_early_stopping_ends_a_phase(data_dir, tmp_path):
    results = train_and_evaluate(
        config(data_dir, tmp_path / "run", epochs=50, learning_rate=0.0, early_stopping_epochs=2)
    )
    assert results["steps"] == 23  # the first epoch is the best one, and two more bring nothing
    again = train_and_evaluate(
        config(data_dir, tmp_path / "run", epochs=50, learning_rate=0.0, early_stopping_epochs=2)
    )
    assert again["steps"] == 23


def test_validation_every_few_epochs_and_at_the_end(data_dir, tmp_path):
    settings = {"learning_rate": 0.0, "validate_every_epochs": 2, "keep_checkpoints": 10}
    train_and_evaluate(config(data_dir, tmp_path / "run", epochs=5, **settings))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    validated = [row["step"] for row in map(json.loads, lines) if "val_loss" in row]
    assert validated == [15, 30, 38]  # of 60 images in batches of 8: two epochs, four, five
    kept = {path.stem for path in (tmp_path / "run" / "checkpoints").glob("step-*.index")}
    assert kept == {"step-15", "step-30", "step-38"}
    stopped = train_and_evaluate(config(data_dir, tmp_path / "early", epochs=50, early_stopping_epochs=3, **settings))
    assert stopped["steps"] == 45  # the first two epochs are the best, and the four after them bring nothing


def test_a_phase_that_ends_between_validations_counts_the_epochs_that_it_had(data_dir, tmp_path):
    """The first validation, after three epochs, is the best; those of the ends, at seven and eight, are one between."""
    settings = {"learning_rate": 0.0, "schedule": "constant", "validate_every_epochs": 3, "early_stopping_epochs": 6}
    train_and_evaluate(config(data_dir, tmp_path / "run", epochs=7, **settings))
    longer = train_and_evaluate(config(data_dir, tmp_path / "run", epochs=8, **settings))
    assert longer["steps"] == 60
    longest = train_and_evaluate(config(data_dir, tmp_path / "run", epochs=12, **settings))
    assert longest["steps"] == 68  # nine epochs


def test_a_last_update_that_diverges_is_told_where_no_epoch_is_left(data_dir, tmp_path):
    settings = {"backbone": "tiny", "optimizer": "sgd", "schedule": "constant", "global_batch_size": 60, "epochs": 1}
    with pytest.raises(UserError, match=r"loss of the val split is NaN or infinite after step 1, .*--learning_rate"):
        train_and_evaluate(config(data_dir, tmp_path / "run", learning_rate=1e30, **settings))
    assert not {"results.json", "model.keras", "report.html"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_other_settings_in_the_same_workdir_are_refused(finished, data_dir):
    folder, _, _ = finished
    with pytest.raises(UserError, match=r"other settings \(epochs 3 there, 2 here\)"):
        train_and_evaluate(config(data_dir, folder / "scratch", epochs=2))
    with pytest.raises(UserError, match="--resume=never"):
        train_and_evaluate(config(data_dir, folder / "scratch", resume="never"))


def test_a_run_of_an_earlier_version_goes_on(finished, data_dir, tmp_path):
    """What the earlier version had no flag for has its default."""
    folder, _, _ = finished
    shutil.copytree(folder / "scratch", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["config"]["min_steps"]
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"other settings \(min_steps 0 there, 7 here\)"):
        train_and_evaluate(config(data_dir, tmp_path / "run", min_steps=7))
    assert train_and_evaluate(config(data_dir, tmp_path / "run"))["finished"]


def test_resume_must_needs_a_checkpoint(data_dir, tmp_path):
    with pytest.raises(UserError, match="--resume=must"):
        train_and_evaluate(config(data_dir, tmp_path / "nothing", resume="must"))


def test_missing_data_set_is_named(tmp_path):
    with pytest.raises(UserError, match="build_tfrecords"):
        train_and_evaluate(config(str(tmp_path / "nowhere"), tmp_path / "run"))


def test_two_replicas_train_and_evaluate_the_same(data_dir, tmp_path):
    """On virtual devices of the CPU; without BatchNorm, whose statistics are per replica."""
    one = train_and_evaluate(config(data_dir, tmp_path / "one", backbone="tiny", global_batch_size=12, dropout=0.0))
    many = train_and_evaluate(
        config(data_dir, tmp_path / "many", backbone="tiny", global_batch_size=12, dropout=0.0, strategy="mirrored")
    )
    assert many["num_examples"] == one["num_examples"]
    assert many["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)


def test_shards_are_read_from_a_copy_and_the_data_set_keeps_its_name(data_dir, tmp_path):
    settings = {"transfer": "scratch", "max_steps": 4}
    expected = train_and_evaluate(config(data_dir, tmp_path / "original", **settings))
    original, copy = tmp_path / "original_data", tmp_path / "copy"
    for folder in (original, copy):
        shutil.copytree(data_dir, folder)
    for shard in original.glob("*.tfrecord"):
        shard.unlink()
    made = config(str(original), tmp_path / "run", data_copy_dir=str(copy), **settings)
    assert train_and_evaluate(made)["test_loss"] == expected["test_loss"]
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["data_dir"] == str(original)
    (copy / "dataset.json").write_text((copy / "dataset.json").read_text().replace('"dark"', '"night"'))
    for no_copy in (copy, tmp_path / "gone"):
        with pytest.raises(UserError, match=f"--data_copy_dir={no_copy} is no copy of"):
            train_and_evaluate(config(data_dir, tmp_path / "other", data_copy_dir=str(no_copy), **settings))


class _DiedError(Exception):
    """In place of a kill."""


def test_a_run_that_dies_while_it_writes_its_page_has_not_finished(finished, data_dir, tmp_path, monkeypatch):
    folder, scratch, _ = finished
    shutil.copytree(folder / "scratch", tmp_path / "run")
    for name in ("results.json", "report.html"):
        (tmp_path / "run" / name).unlink()

    def dies(*_):
        raise _DiedError

    with monkeypatch.context() as patch, pytest.raises(_DiedError):
        patch.setattr(run_phases, "write_run_page", dies)
        train_and_evaluate(config(data_dir, tmp_path / "run"))
    results = train_and_evaluate(config(data_dir, tmp_path / "run"))
    assert (tmp_path / "run/report.html").exists() and results["test_loss"] == scratch["test_loss"]


def test_the_best_weights_are_those_of_the_positions_best_step(data_dir, tmp_path, monkeypatch):
    """A run that dies between a validation and its checkpoint ends without the weights of that lost future."""
    settings = {"epochs": 5, "checkpoint_every_steps": 9, "steps_per_loop": 1}
    accuracies, save = iter([0.1, 0.2, 0.9]), PhaseRun._save
    monkeypatch.setattr(PhaseRun, "_validate", lambda self, progress: Validation(next(accuracies), 1.0))

    def dies(self):
        if self.position.step >= 27:
            raise _DiedError
        save(self)

    monkeypatch.setattr(PhaseRun, "_save", dies)
    with pytest.raises(_DiedError):
        train_and_evaluate(config(data_dir, tmp_path / "run", **settings))
    monkeypatch.setattr(PhaseRun, "_save", save)
    monkeypatch.setattr(PhaseRun, "_validate", lambda self, progress: Validation(0.05, 1.0))
    best = tmp_path / "run" / "checkpoints" / "best"
    assert {path.stem for path in best.glob("step-*.index")} == {"step-8", "step-15", "step-23"}  # two are named
    results = train_and_evaluate(config(data_dir, tmp_path / "run", **settings))
    assert results["best_step"] == 15
    weights = tf.train.load_checkpoint(str(best / "step-15"))
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    kernel = next(weight for weight in model.weights if weight.path.endswith("conv1/kernel"))
    names = [name for name, shape in weights.get_variable_to_shape_map().items() if shape == list(kernel.shape)]
    assert any(np.array_equal(weights.get_tensor(name), kernel.numpy()) for name in names)


def test_early_stopping_needs_a_validation_split(tmp_path):
    data = write_toy_dataset(tmp_path / "data", counts={"train": 16, "test": 4})
    message = r"--early_stopping_epochs=2 goes by validation, and .* has no val split"
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config(data, tmp_path / "run", early_stopping_epochs=2))


@pytest.mark.parametrize(
    "name", ["lr[0.1]", pytest.param("a*", marks=pytest.mark.slow), pytest.param("what?", marks=pytest.mark.slow)]
)
def test_a_workdir_is_no_pattern(data_dir, tmp_path, name):
    settings = {"epochs": 4, "transfer": "scratch", "keep_checkpoints": 1}
    expected = train_and_evaluate(config(data_dir, tmp_path / "plain", **settings))
    train_and_evaluate(config(data_dir, tmp_path / name, max_steps=10, **settings))
    found = train_and_evaluate(config(data_dir, tmp_path / name, **settings))
    assert found["test_loss"] == expected["test_loss"] and found["best_step"] == expected["best_step"]
    kept = [path.name for path in (tmp_path / name / "checkpoints").iterdir() if path.suffix == ".index"]
    assert kept == [f"step-{found['steps']}.index"]
