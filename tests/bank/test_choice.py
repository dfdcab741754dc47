"""When a run banks features, where it keeps them, and what is refused: decided before anything is computed."""

import dataclasses
import os
import socket
import subprocess

import numpy as np
import psutil
import pytest
import tensorflow as tf
from tiny_runs import config as run_config
from toy_dataset import write_toy_dataset

from tl_distributed.bank import choice
from tl_distributed.bank.cut import Cut
from tl_distributed.bank.layout import FeatureLayout, feature_format, remove_leftovers
from tl_distributed.bank.settings import BankSettings
from tl_distributed.errors import UserError
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.phases import epochs_within, plan_phases

COUNTS = {"train": 60, "val": 18, "test": 21}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS)


def decide(data_dir: str, workdir, **changes) -> BankSettings:
    """Returns what is resolved for a cut of 64 numbers."""
    settings = {"transfer": "frozen", "weights": "PATH", "augment": "none", "input_mode": "memory", **changes}
    config = run_config(data_dir, workdir, **settings).resolved(native_size=16)
    phases = plan_phases(config, num_examples=COUNTS["train"])
    cut = Cut(None, None, ((64,),), ("float32",))
    cuts = [None if phase.freezing == "full" else cut for phase in phases]
    return choice.choose_bank(
        dataclasses.replace(config.part(BankSettings), bank_dir=f"{workdir}/feature_bank"), cuts,
        epochs_within(phases, config.max_steps), COUNTS, Workers(), why_nothing=config.why_nothing_to_bank(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({}, "on", ""),
        ({"epochs": 1}, "off", "too short"),
        ({"epochs": 1, "feature_bank": "on"}, "on", ""),
        ({"max_steps": 5}, "off", "too short"),
        ({"transfer": "full"}, "off", "--transfer=full freezes nothing"),
        ({"augment": "basic"}, "off", "--bank_views=K"),
        ({"augment": "basic", "bank_views": 2}, "on", ""),
        ({"augment": "basic", "bank_views": 3}, "off", "too short"),
        ({"mixup": 0.2}, "off", "mixed with others in every epoch, unless --mixup=0"),
        ({"transfer": "two_phase", "head_epochs": 2}, "on", ""),
        ({"transfer": "two_phase", "head_epochs": 1}, "off", "too short"),
        ({"feature_bank": "off"}, "off", ""),
    ],
)
def test_auto_banks_where_it_pays(data_dir, tmp_path, caplog, changes, expected, reason):
    caplog.set_level("INFO")
    assert decide(data_dir, tmp_path, **changes).feature_bank == expected
    assert reason in caplog.text
    assert bool(reason) == ("Feature bank: off, since" in caplog.text)


def test_bank_stays_on_disk_where_memory_is_short(data_dir, tmp_path, monkeypatch):
    num_bytes = sum(COUNTS.values()) * 64 * 4
    for free, mode in ((num_bytes * 4, "memory"), (num_bytes * 4 - 4, "disk")):
        monkeypatch.setattr(choice, "free_memory_bytes", lambda free=free: free)
        assert decide(data_dir, tmp_path).bank_mode == mode
    assert decide(data_dir, tmp_path, bank_mode="memory").bank_mode == "memory"
    assert decide(data_dir, tmp_path, bank_dtype="bfloat16").bank_mode == "memory"


def test_no_room_on_the_disk(data_dir, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    usage = dataclasses.make_dataclass("Usage", ["free"])(100)
    monkeypatch.setattr(choice.psutil, "disk_usage", lambda path: usage)
    assert decide(data_dir, tmp_path).feature_bank == "off"
    assert "--bank_dir names another" in caplog.text
    with pytest.raises(UserError, match=r"--feature_bank=on: .* has 1e-07 GB left, the bank takes 2.53e-05 GB"):
        decide(data_dir, tmp_path, feature_bank="on")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_bank": "on", "transfer": "full"}, "--feature_bank=on: --transfer=full freezes nothing"),
        ({"feature_bank": "on", "augment": "basic"}, "--feature_bank=on: augmentation .* --bank_views=K"),
        ({"feature_bank": "on", "augment": "strong", "bank_views": 2}, "--feature_bank=on: .* --mixup=0 --cutmix=0"),
        ({"bank_views": 2}, "--bank_views=2 has no effect without augmentation"),
        ({"bank_views": 2, "augment": "basic", "feature_bank": "off"}, "--bank_views=2 has no effect with --feature"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data_dir, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run_config(data_dir, tmp_path, **{"transfer": "frozen", "weights": "PATH", "augment": "none", **changes})


def test_layout_joins_and_splits():
    layout = FeatureLayout(((2, 3), (4,)), ("float32", "bfloat16"), "float32")
    first = tf.reshape(tf.range(12, dtype=tf.float32), (2, 2, 3)) / 7
    second = tf.cast(tf.reshape(tf.range(8, dtype=tf.float32), (2, 4)) / 3, tf.bfloat16)
    rows = layout.join([first, second])
    assert (rows.shape, rows.dtype, layout.row_bytes) == ((2, 10), tf.float32, 40)
    for found, expected in zip(layout.split(rows), (first, second), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert feature_format(layout, "folder").shape == (10,)


def test_a_layer_that_says_another_shape_than_it_returns_is_told():
    layout = FeatureLayout(((17, 4),), ("float32",), "float32")
    with pytest.raises(UserError, match=r"returns \[16, 4\] of an image where it says \[17, 4\]"):
        tf.function(layout.join)([tf.zeros((2, 16, 4))])


def test_only_unfinished_files_of_dead_builds_of_this_machine_are_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host, shard = socket.gethostname(), "train-00000-of-00002.tfrecord"
    kept = [f"{shard}.{host}.{os.getpid()}.tmp", f"{shard}.elsewhere.{dead.pid}.tmp", "notes.tmp", shard]
    for name in [*kept, f"{shard}.{host}.{dead.pid}.tmp", f"bank.json.{host}.{dead.pid}.tmp"]:
        (tmp_path / name).touch()
    remove_leftovers(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_leftover_that_another_worker_has_just_removed_is_no_error(tmp_path, monkeypatch):
    """The tasks of a node come to it at the same time."""
    leftover = tmp_path / f"train-00000-of-00002.tfrecord.{socket.gethostname()}.1.tmp"
    leftover.touch()
    monkeypatch.setattr(psutil, "pid_exists", lambda process: leftover.unlink())
    remove_leftovers(str(tmp_path))
    assert not list(tmp_path.iterdir())
