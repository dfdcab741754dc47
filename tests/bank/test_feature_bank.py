"""Training from banked features: the same as without, built once, kept through kills, never taken for another's."""

import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import PYTHONPATH, SUPPORT
from tiny_runs import config as run_config
from tiny_runs import final_weights
from toy_dataset import write_toy_dataset

from tl_distributed.bank import build as bank_build
from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.bank.layout import FeatureLayout, bank_shards, note_build_seconds, open_bank_split
from tl_distributed.data.dataset import load_splits, load_subset
from tl_distributed.data.order import BatchOrder
from tl_distributed.data.records import SPLITS, read_manifest
from tl_distributed.data.shards import shard_paths
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.freezing import freeze_for
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch
from tl_distributed.pixels.seeds import per_image_seeds
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.phases import plan_phases
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.start import start_model
from tl_distributed.training.trained_part import open_phase

COUNTS = {"train": 60, "val": 18, "test": 21}
CUTS = {"tiny": "conv2", "tiny_norm": "conv2", "resnet20": "stage3_block2_2_conv"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS)


@pytest.fixture(scope="module")
def pretrained(data_dir, tmp_path_factory):
    """Returns a function from a backbone to the workdir of a short run from scratch, for its weights."""
    folder, done = tmp_path_factory.mktemp("pretrained"), {}

    def get(backbone: str, seed: int = 0) -> str:
        if (backbone, seed) not in done:
            workdir = folder / f"{backbone}_{seed}"
            train_and_evaluate(run_config(data_dir, workdir, backbone=backbone, epochs=1, seed=seed))
            done[backbone, seed] = str(workdir)
        return done[backbone, seed]

    return get


def train_into(workdir: pathlib.Path, data_dir: str, pretrained, **changes) -> dict:
    """Trains with a bank, or as its changes say."""
    settings = {
        "transfer": "frozen", "augment": "none", "epochs": 2, "dropout": 0.0, "feature_bank": "on",
        "finetune_learning_rate": 0.003, **changes,
    }  # fmt: skip
    backbone = settings.setdefault("backbone", "tiny_norm")
    settings.setdefault("weights", pretrained(backbone))
    # A trained head leaves gradients so small that Adam makes much of how they were rounded.
    settings.setdefault("reset_head", settings["weights"] not in ("none", "imagenet"))
    if settings["transfer"] == "partial":
        settings.setdefault("unfreeze_from", CUTS[backbone])
    return train_and_evaluate(run_config(settings.pop("data_dir", data_dir), workdir, **settings))


@pytest.fixture
def train(data_dir, tmp_path, pretrained):
    """Returns a function that trains into a folder of the test."""
    return lambda name, **changes: train_into(tmp_path / name, data_dir, pretrained, **changes)


@pytest.fixture(scope="module")
def begun(data_dir, tmp_path_factory, pretrained):
    """Returns the workdir of a run that stopped after two steps, its bank finished; to be copied."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    train_into(workdir, data_dir, pretrained, max_steps=2)
    return workdir


def rows_of(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_runs(first: pathlib.Path, second: pathlib.Path) -> None:
    # Adam divides by the root of the squared gradient: tiny differences of tiny gradients count in full.
    rtol, atol = 1e-3, 2e-5
    for one, other in zip(final_weights(first), final_weights(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
    for one, other in zip(rows_of(first), rows_of(second), strict=True):
        assert one.keys() == other.keys()
        for key in ("step", "loss", "accuracy", "gradient_norm", "learning_rate", "val_loss", "val_accuracy"):
            if key in one:
                assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), (one["step"], key)
    weights = [keras.models.load_model(folder / "model.keras").get_weights() for folder in (first, second)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("backbone", "transfer", "banked", "unbanked"),
    [
        ("tiny_norm", "partial", {}, {}),
        ("tiny_norm", "frozen", {"bank_mode": "disk", "input_mode": "disk"}, {"input_mode": "disk"}),
        # Replicas' BatchNorm statistics are their own, so the second count of replicas is compared without.
        pytest.param("tiny", "partial", {"strategy": "mirrored"}, {}, marks=pytest.mark.slow),
        pytest.param("resnet20", "partial", {}, {}, marks=pytest.mark.slow),
        pytest.param("resnet20", "frozen", {"strategy": "mirrored"}, {}, marks=pytest.mark.slow),
        pytest.param("tiny_norm", "two_phase", {"xla": "on"}, {}, marks=pytest.mark.slow),
        pytest.param(
            "tiny_norm", "partial", {"images_per_class": 13}, {"images_per_class": 13}, marks=pytest.mark.slow
        ),
        pytest.param("resnet20", "partial", {"layer_decay": 0.5}, {"layer_decay": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_banked_training_equals_unbanked(train, tmp_path, data_dir, backbone, transfer, banked, unbanked):
    settings = {"backbone": backbone, "transfer": transfer, "global_batch_size": 12}
    if transfer == "two_phase":
        settings |= {"unfreeze_from": CUTS[backbone], "head_epochs": 2, "label_smoothing": 0.1, "clip_norm": 1.0}
    with_bank = train("banked", **settings, **banked)
    without = train("unbanked", **settings, **unbanked, feature_bank="off")
    assert_same_runs(tmp_path / "banked", tmp_path / "unbanked")
    assert with_bank["test_loss"] == pytest.approx(without["test_loss"], rel=1e-4)
    assert with_bank["confusion_matrix"] == without["confusion_matrix"]
    images, labels = read_images(data_dir, "test")
    whole = keras.models.load_model(tmp_path / "banked" / "model.keras").predict(images, verbose=0)
    assert -np.log(whole[np.arange(len(labels)), labels]).mean() == pytest.approx(with_bank["test_loss"], rel=1e-4)
    assert (whole.argmax(1) == labels).mean() == pytest.approx(with_bank["test_accuracy"])
    assert not (tmp_path / "unbanked" / "feature_bank").exists()


def test_dropout_draws_the_same_and_averages_follow(train, tmp_path):
    settings = {"transfer": "partial", "dropout": 0.5, "ema_decay": 0.9}
    train("banked", **settings)
    train("unbanked", **settings, feature_bank="off")
    assert_same_runs(tmp_path / "banked", tmp_path / "unbanked")


def read_bank(folder: pathlib.Path, split: str, shape: tuple[int, ...], dtype) -> tuple[np.ndarray, np.ndarray]:
    """Reads features and labels as the format's description says, without the code under test."""
    rows, labels = [], []
    for path in sorted(folder.glob(f"{split}-*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            labels.append(int.from_bytes(record[:4], "little"))
            rows.append(np.frombuffer(record[4:], dtype).reshape(shape))
    return np.array(rows), np.array(labels)


def read_images(data_dir: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    info = read_manifest(data_dir)
    for path in shard_paths(data_dir, info, split):
        for record in tf.data.TFRecordDataset(path):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            images.append(np.frombuffer(feature["image"].bytes_list.value[0], np.uint8).reshape(info.image_shape))
            labels.append(feature["label"].int64_list.value[0])
    return np.array(images), np.array(labels)


def frozen_part(workdir: str, layer: str) -> keras.Model:
    """Returns stock Keras's model from normalised pixels, of any size, to the output of a layer of a saved run."""
    saved = keras.models.load_model(pathlib.Path(workdir) / "model.keras")
    inner = next(part for part in saved.layers if isinstance(part, keras.Model))
    inputs = x = keras.Input((None, None, 3))
    for part in inner.layers[1:]:
        x = part(x)
        if part.name == layer:
            return keras.Model(inputs, x)
    raise AssertionError(layer)


def folder_of(bank_dir: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the folder of the only bank of a split."""
    (folder,) = [path for path in bank_dir.iterdir() if json.loads((path / "bank.json").read_text())["split"] == split]
    return folder


@pytest.mark.parametrize(("bank_dtype", "tolerance"), [("auto", 1e-5), ("bfloat16", 2.0**-8)])
def test_bank_holds_what_stock_keras_computes(train, tmp_path, data_dir, pretrained, bank_dtype, tolerance):
    import ml_dtypes

    train("run", transfer="partial", image_size=24, bank_dtype=bank_dtype, max_steps=1)
    model = frozen_part(pretrained("tiny_norm"), "relu1")
    dtype = np.float32 if bank_dtype == "auto" else ml_dtypes.bfloat16
    for split, count in COUNTS.items():
        found, labels = read_bank(folder_of(tmp_path / "run" / "feature_bank", split), split, (12, 12, 8), dtype)
        images, expected_labels = read_images(data_dir, split)
        resized = tf.image.resize(images.astype(np.float32), (24, 24)) / 127.5 - 1.0
        expected = model.predict(resized, verbose=0)
        assert len(found) == count
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(found.astype(np.float32), expected, rtol=tolerance, atol=tolerance)


def test_views_are_the_augmented_images_and_evaluation_sees_plain_ones(train, tmp_path, data_dir, pretrained):
    train("run", augment="basic", bank_views=2, seed=3)
    bank_dir = tmp_path / "run" / "feature_bank"
    folder = folder_of(bank_dir, "train")
    model = frozen_part(pretrained("tiny_norm"), "head_pooling")
    images, labels = read_images(data_dir, "train")
    for view in range(2):
        seeds = per_image_seeds(tf.constant(3), tf.constant(view), tf.range(COUNTS["train"]))
        pixels, _ = augment_batch(
            tf.constant(images), tf.constant(labels, tf.int32), seeds,
            settings=NAMED_AUGMENTATIONS["basic"], image_size=16, num_classes=3,
        )  # fmt: skip
        found, _ = read_bank(folder, f"train-view{view:02d}", (16,), np.float32)
        np.testing.assert_allclose(found, model(pixels / 127.5 - 1.0), rtol=1e-4, atol=1e-5)
    plain, _ = read_bank(folder_of(bank_dir, "val"), "val", (16,), np.float32)
    images, _ = read_images(data_dir, "val")
    np.testing.assert_allclose(plain, model(images / np.float32(127.5) - 1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["memory", pytest.param("disk", marks=pytest.mark.slow)])
def test_epochs_show_the_views_in_turn(train, tmp_path, data_dir, mode):
    train("run", augment="basic", bank_views=3, max_steps=1)
    folder = folder_of(tmp_path / "run" / "feature_bank", "train")
    layout = FeatureLayout(((16,),), ("float32",), "float32")
    shards = bank_shards(str(folder), data_dir, read_manifest(data_dir), "train", 3)
    split = open_bank_split(shards, str(folder), layout, mode=mode)
    views = [
        {row.tobytes() for row in read_bank(folder, f"train-view{view:02d}", (16,), np.float32)[0]} for view in range(3)
    ]
    feed = split.train_feed(BatchOrder(global_batch_size=20, num_replicas=1, seed=0), first_step=0)
    read = tf.function(lambda step: feed.replica_batch(step, 0, *feed.host_inputs()))
    for epoch in range(4):
        seen = set()
        for step in range(3 * epoch, 3 * epoch + 3):
            seen |= {row.tobytes() for row in read(tf.constant(step, tf.int64))[0].numpy()}
        assert seen == views[epoch % 3]


def test_second_run_reuses_a_bank(train, tmp_path, caplog):
    banks = tmp_path / "banks"
    caplog.set_level("INFO")
    common = {"bank_dir": str(banks), "max_steps": 1, "transfer": "partial"}
    train("first", **common)
    times = {path.name: path.stat().st_mtime_ns for path in banks.glob("*/*.tfrecord")}
    assert len(times) == 6
    caplog.clear()
    train("again", **common, learning_rate=0.5, epochs=5, seed=1, dropout=0.4)
    assert "found there, complete" in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in banks.glob("*/*.tfrecord")} == times


@pytest.mark.slow
def test_seconds_count_the_bank_once_and_also_where_it_was_there(train, tmp_path, monkeypatch):
    """What a method costs does not depend on which run of a study came first."""
    common = {"bank_dir": str(tmp_path / "banks"), "transfer": "two_phase", "unfreeze_from": "conv2", "head_epochs": 1}
    monkeypatch.setattr(
        bank_build, "note_build_seconds", lambda *_, worker: note_build_seconds(*_[:2], 1000.0, worker=worker)
    )
    for name, stops in (("built", (0,)), ("reused", (2, 0)), ("resumed", (6, 8, 0))):
        for stop in stops:
            results = train(name, **common, max_steps=stop)
        assert 4000 <= results["seconds"] < 4000 + 100, name  # two shards of train in each of two phases


def test_another_bank_is_never_taken(data_dir, tmp_path, pretrained, monkeypatch):
    banks = tmp_path / "banks"
    monkeypatch.setattr(bank_build.BankBuilder, "build", lambda *_, **__: None)

    def open_bank(data_dir: str = data_dir, **changes) -> dict[str, int]:
        """Returns how many banks there are of each split."""
        settings = {
            "transfer": "partial", "weights": pretrained("tiny_norm"), "augment": "none", "unfreeze_from": "conv2",
            "bank_dir": str(banks), "feature_bank": "on", "bank_mode": "stream", **changes,
        }  # fmt: skip
        config = run_config(data_dir, tmp_path / "run", **settings).resolved(native_size=16)
        where = engine.runtime(precision=config.precision)
        model = start_model(config, get_backbone(config.backbone), where, num_classes=3, load_weights=True)
        (phase,) = plan_phases(config, num_examples=COUNTS["train"])
        freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from=config.unfreeze_from)
        cut, info = cut_at_frozen(model), read_manifest(data_dir)
        images = load_splits(data_dir, info, SPLITS, input_mode="memory")
        if (few := config.images_per_class) != 0:
            images["train"] = load_subset(data_dir, info, "train", images_per_class=few, seed=config.seed)
        open_phase(
            phase, cut, model, images,
            config=config, info=info, normalization="tf", runtime=where, stop=StopRequest(Workers()),
        )  # fmt: skip
        return collections.Counter(json.loads(path.read_text())["split"] for path in banks.glob("*/bank.json"))

    other_data = write_toy_dataset(tmp_path / "other", counts={**COUNTS, "val": 17})
    everything, training = {"train": 1, "val": 1, "test": 1}, {"train": 1, "val": 0, "test": 0}
    views, few = {"augment": "basic", "bank_views": 1}, {"images_per_class": 5}
    expected = collections.Counter(everything)
    assert open_bank() == expected
    for change, fresh in (
        ({"weights": pretrained("tiny_norm", 1)}, everything),
        ({"image_size": 20}, everything),
        ({"data_dir": other_data}, everything),
        ({"unfreeze_from": "bn2"}, everything),
        ({"bank_dtype": "bfloat16"}, everything),
        ({"precision": "mixed_bfloat16"}, everything),
        (views, training),
        ({**views, "crop_padding_pixels": 2}, training),
        ({**views, "seed": 7}, training),
        ({**views, "bank_views": 2}, training),
        (few, training),
        ({**few, "seed": 7}, training),
        ({"images_per_class": 6}, training),
        ({**few, **views}, training),
    ):
        expected.update(fresh)
        assert open_bank(**change) == expected, change
    for change in ({}, {"seed": 7, "pooling": "max", "head_units": (4,), "xla": "on"}, {"images_per_class": 1000}):
        assert open_bank(**change) == expected, change


def start(data_dir: str, workdir: pathlib.Path, weights: str) -> subprocess.Popen:
    command = [
        sys.executable, str(SUPPORT / "train_tiny.py"), "--backbone=tiny_norm", "--transfer=frozen", "--augment=none",
        f"--weights={weights}", f"--data_dir={data_dir}", f"--workdir={workdir}", "--global_batch_size=8",
        "--strategy=one_device", "--precision=float32", "--xla=off", "--feature_bank=on", "--max_steps=2",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_shards(process: subprocess.Popen, workdir: pathlib.Path, count: int) -> list[pathlib.Path]:
    deadline = time.monotonic() + 120
    while len(found := list(workdir.glob("feature_bank/*/*.tfrecord"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


@pytest.mark.slow
def test_killed_and_interrupted_builds_go_on(pretrained, tmp_path):
    data = write_toy_dataset(tmp_path / "data", counts={"train": 4000, "val": 100, "test": 100}, num_shards=100)
    workdir, weights = tmp_path / "run", pretrained("tiny_norm")
    killed = start(data, workdir, weights)
    finished = wait_for_shards(killed, workdir, 3)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in workdir.glob("feature_bank/*/*.tfrecord")}
    assert len(finished) < 300
    interrupted = start(data, workdir, weights)
    wait_for_shards(interrupted, workdir, len(finished) + 3)
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 128 + signal.SIGINT, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    last = start(data, workdir, weights)
    _, errors = last.communicate(timeout=240)
    assert last.returncode == 0, errors
    missing = int(re.search(r"(\d+) shards are to be built", errors)[1])
    assert 0 < missing <= 300 - len(finished) - 3
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    whole = start(data, tmp_path / "whole", weights)
    _, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    for split, count in (("train", 4000), ("val", 100), ("test", 100)):
        built, expected = (folder_of(run / "feature_bank", split) for run in (workdir, tmp_path / "whole"))
        assert built.name == expected.name  # the key does not depend on the process
        assert {path.name for path in built.iterdir()} == {path.name for path in expected.iterdir()}  # nothing left
        features, labels = read_bank(built, split, (16,), np.float32)
        expected_features, expected_labels = read_bank(expected, split, (16,), np.float32)
        assert len(features) == count
        np.testing.assert_array_equal(labels, expected_labels)
        # Batches begin elsewhere, so sums may be rounded otherwise.
        np.testing.assert_allclose(features, expected_features, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted(train, tmp_path, pretrained):
    weights = tmp_path / "weights.keras"
    weights.write_bytes((pathlib.Path(pretrained("tiny_norm")) / "model.keras").read_bytes())
    settings = {
        "transfer": "two_phase", "unfreeze_from": "conv2", "head_epochs": 1, "dropout": 0.3, "weights": str(weights),
    }  # fmt: skip
    train("whole", **settings)
    for stop in (3, 12, 0):  # in the head's phase, in the main one, to the end
        train("parts", **settings, max_steps=stop)
        weights.unlink(missing_ok=True)  # the checkpoint's weights are the bank's, too
    for one, other in zip(final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts"), strict=True):
        np.testing.assert_array_equal(one, other)
    names = [{path.name for path in (tmp_path / name / "feature_bank").iterdir()} for name in ("whole", "parts")]
    assert names[0] == names[1]
    assert len(names[0]) == 2 * 3  # phases, splits


def test_resumed_run_keeps_what_auto_chose_at_its_start(train, tmp_path):
    train("run", feature_bank="auto", max_steps=5)
    train("run", feature_bank="auto")
    written = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert written["feature_bank"] == "off"  # too short at the start
    assert not (tmp_path / "run" / "feature_bank").exists()


@pytest.mark.parametrize(
    ("damage", "mode"),  # checksums are checked when a bank is read from end to end, not record by record
    [("cut short", "memory"), ("cut short", "disk"), ("flipped bit", "memory"), ("record lost", "memory"),
     ("record lost", "disk")],
)  # fmt: skip
def test_damaged_bank_is_named(train, begun, tmp_path, mode, damage):
    shutil.copytree(begun, tmp_path / "run")
    folder = folder_of(tmp_path / "run" / "feature_bank", "train")
    path = next(folder.glob("train-*.tfrecord"))
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        content = content[:-5]
    elif damage == "flipped bit":
        content[40] ^= 1
    else:
        content = content[: -(16 * 4 + 4 + 16)]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"delete {re.escape(str(folder))}"):
        train("run", bank_mode=mode)
