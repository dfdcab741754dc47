"""The main job by its commands, as a user runs them: on real images and ImageNet weights, and in every mode at once."""

import json
import os
import subprocess
import sys

import pytest
from paths import REPO
from real_images import write_some

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import read_manifest


def command(module: str, *flags: str) -> str:
    """Runs a command in a process of its own; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", module, *flags], capture_output=True, text=True, cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=1200, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def small_cifar10(real_data_dir, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cifar10_small")
    write_some(real_data_dir, folder / "images", train_per_class=60, test_per_class=100)
    images, data = f"--input={folder / 'images'}", f"--output_dir={folder / 'data'}"
    command("data_prep.build_tfrecords", "--source=image_folder", images, data, "--limit_per_class=50")
    return str(folder / "data")


def accuracy_of_pixels(data_dir: str) -> float:
    """Returns the test accuracy of a logistic regression on the pixels of the same training images."""
    from sklearn.linear_model import LogisticRegression

    splits = load_splits(data_dir, read_manifest(data_dir), ("train", "test"), input_mode="memory")
    train, test = (next(splits[name].eval_batches(splits[name].num_examples)) for name in ("train", "test"))
    model = LogisticRegression(C=0.01, max_iter=300)
    model.fit(train.images.reshape(len(train.images), -1) / 255, train.labels)
    return model.score(test.images.reshape(len(test.images), -1) / 255, test.labels)


@pytest.mark.real_data
@pytest.mark.slow  # trains a network of the table
def test_frozen_mobilenet_beats_chance_by_far_and_exports(small_cifar10, real_data_dir, tmp_path):
    weights = real_data_dir / "mobilenet_v2_imagenet_notop.weights.h5"
    command(
        "tl_distributed.train", "--backbone=mobilenet_v2", f"--weights={weights}", "--transfer=frozen",
        "--image_size=64", "--epochs=6", "--global_batch_size=32", "--learning_rate=3e-3", "--augment=none",
        f"--data_dir={small_cifar10}", f"--workdir={tmp_path}",
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_examples"] == {"val": 100, "test": 1000}
    assert results["test_accuracy"] > accuracy_of_pixels(small_cifar10) + 0.1
    printed = command("tl_distributed.export", f"--workdir={tmp_path}", "--format=tflite")
    model = printed.split(":")[0]
    printed = command("tl_distributed.evaluate", f"--model={model}", f"--data_dir={small_cifar10}")
    assert f"accuracy {results['test_accuracy']:.2%} of 1000 images" in printed


@pytest.mark.slow
@pytest.mark.release  # compiling it for the CPU takes minutes
def test_convnext_in_bfloat16_under_xla_on_two_devices(tmp_path):
    data = str(tmp_path / "drawings")
    command("data_prep.build_tfrecords", "--source=synthetic", "--synthetic_task=target", f"--output_dir={data}")
    command(
        "tl_distributed.train", "--backbone=convnext_tiny", "--weights=none", "--transfer=scratch", "--image_size=32",
        "--virtual_devices=2", "--xla=on", "--precision=mixed_bfloat16", "--global_batch_size=16", "--max_steps=5",
        f"--data_dir={data}", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 5
    assert json.loads((tmp_path / "run" / "config.json").read_text())["replicas"] == 2


@pytest.fixture(scope="module")
def cnn_of_drawings(tmp_path_factory) -> str:
    """The workdir of a small CNN that was trained on drawings."""
    folder = tmp_path_factory.mktemp("drawings")
    data = f"{folder}/data"
    command("data_prep.build_tfrecords", "--source=synthetic", "--synthetic_task=target", f"--output_dir={data}")
    command(
        "tl_distributed.train", "--backbone=baseline_cnn", "--transfer=scratch", "--image_size=64", "--epochs=3",
        "--global_batch_size=32", f"--data_dir={data}", f"--workdir={folder}/cnn",
    )  # fmt: skip
    return f"{folder}/cnn"


@pytest.fixture(scope="module")
def weights(real_data_dir, cnn_of_drawings) -> dict[str, str]:
    return {
        "mobilenet_v2": str(real_data_dir / "mobilenet_v2_imagenet_notop.weights.h5"), "baseline_cnn": cnn_of_drawings
    }  # fmt: skip


@pytest.fixture(scope="module")
def ranking(small_cifar10, weights, tmp_path_factory) -> dict:
    """The content of ranking.json, of two backbones with weights and one without."""
    folder = tmp_path_factory.mktemp("rank")
    names = [f"{name}@{path}" for name, path in weights.items()]
    command(
        "tl_distributed.rank", f"--backbones={','.join([*names, 'mobilenet_v2:random'])}", "--image_size=64",
        "--eval_images_per_class=20", "--few_shot=1,10", f"--data_dir={small_cifar10}", f"--workdir={folder}",
    )  # fmt: skip
    return json.loads((folder / "ranking.json").read_text())


@pytest.mark.real_data
@pytest.mark.slow
def test_the_ranking_puts_imagenet_first(ranking, weights):
    scores = {one["candidate"]: one for one in ranking["ranking"]}
    first, *others = scores
    assert first == f"mobilenet_v2@{weights['mobilenet_v2']}"
    assert set(others) == {f"baseline_cnn@{weights['baseline_cnn']}", "mobilenet_v2:random"}
    assert ranking["level_with_first"] == []
    for score in ("logistic_test_accuracy", "logme"):
        assert scores[first][score] > max(scores[other][score] for other in others)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.release  # trains three networks
def test_fine_tuning_agrees_with_the_ranking(ranking, small_cifar10, weights, tmp_path):
    candidates = [one["candidate"] for one in ranking["ranking"]]
    accuracies = {}
    for candidate in candidates:
        name = candidate.partition("@")[0].partition(":")[0]
        own = "--transfer=scratch" if candidate.endswith(":random") else f"--weights={weights[name]}"
        workdir = tmp_path / str(len(accuracies))
        command(
            "tl_distributed.train", f"--backbone={name}", own, *(["--transfer=full"] if "@" in candidate else []),
            "--image_size=64", "--epochs=6", "--global_batch_size=32", "--batch_norm_momentum=0.9",
            "--finetune_learning_rate=1e-3", f"--data_dir={small_cifar10}", f"--workdir={workdir}",
        )  # fmt: skip
        accuracies[candidate] = json.loads((workdir / "results.json").read_text())["test_accuracy"]
    assert max(accuracies, key=accuracies.get) == candidates[0]
