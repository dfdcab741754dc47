"""The training set of N images a class: stratified, nested, and a function of the seed."""

import numpy as np
import pytest
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_splits, load_subset
from tl_distributed.data.records import read_manifest
from tl_distributed.data.subset import StratifiedChoice
from tl_distributed.errors import UserError
from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate

COUNTS = {"train": 41, "val": 9, "test": 9}  # 14, 14 and 13 of the three classes


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("subset") / "toy", counts=COUNTS)


def images(split) -> tuple[list[bytes], np.ndarray]:
    batches = list(split.eval_batches(7))
    rows = [image.tobytes() for batch in batches for image in batch.images[: batch.num_valid]]
    return rows, np.concatenate([batch.labels[: batch.num_valid] for batch in batches])


def subset(data_dir: str, count: int, seed: int):
    return images(load_subset(data_dir, read_manifest(data_dir), "train", images_per_class=count, seed=seed))


def test_as_many_of_each_class_and_the_larger_includes_the_smaller(data_dir):
    everything = load_splits(data_dir, read_manifest(data_dir), ("train",), input_mode="memory")["train"]
    label_of = dict(zip(*images(everything), strict=True))
    previous: set[bytes] = set()
    for count in (1, 4, 13):
        rows, labels = subset(data_dir, count, seed=3)
        assert np.bincount(labels).tolist() == [count] * 3
        assert [label_of[row] for row in rows] == labels.tolist()
        assert previous < set(rows)
        previous = set(rows)


def test_seed_chooses(data_dir):
    assert subset(data_dir, 4, seed=0)[0] == subset(data_dir, 4, seed=0)[0]
    assert subset(data_dir, 4, seed=0)[0] != subset(data_dir, 4, seed=1)[0]
    labels = np.array([0, 1] * 20)
    masks = np.array([StratifiedChoice([20, 20], images_per_class=5, seed=seed).mask(labels) for seed in range(400)])
    assert (masks.sum(1) == 10).all()
    shares = masks.mean(0)  # every example has the same chance, 1/4: standard deviation 0.022
    assert 0.16 < shares.min() < shares.max() < 0.34
    assert abs(np.corrcoef(masks[:, 0], masks[:, 1])[0, 1]) < 0.2  # and classes choose by themselves


def test_class_with_fewer_gives_all(data_dir, caplog):
    import logging

    with caplog.at_level(logging.INFO, logger="tl_distributed"):
        _, labels = subset(data_dir, 14, seed=0)
    assert np.bincount(labels).tolist() == [14, 14, 13]
    assert "fewer in bright" in caplog.text


def test_run_trains_on_the_subset_alone(data_dir, tmp_path):
    config = Config(
        data_dir=data_dir, workdir=str(tmp_path), backbone="tiny", transfer="scratch", images_per_class=4, epochs=2,
        global_batch_size=6, strategy="one_device", xla="off", input_mode="stream",
    )  # fmt: skip
    results = train_and_evaluate(config)
    assert results["steps"] == 4
    assert results["images_seen"] == 24
    assert results["num_examples"] == {"val": 9, "test": 9}
    with pytest.raises(UserError, match="images_per_class 4 there, 5 here"):
        import dataclasses

        train_and_evaluate(dataclasses.replace(config, images_per_class=5))


def test_predictions_of_the_test_split_are_kept(data_dir, tmp_path):
    import json

    config = Config(
        data_dir=data_dir, workdir=str(tmp_path), backbone="tiny", transfer="scratch", epochs=1, global_batch_size=8,
        strategy="one_device", xla="off",
    )  # fmt: skip
    results = train_and_evaluate(config)
    with np.load(tmp_path / "predictions_test.npz", allow_pickle=False) as saved:
        labels, probabilities = saved["labels"], saved["probabilities"]
    info = read_manifest(data_dir)
    split = load_splits(data_dir, info, ("test",), input_mode="memory")["test"]
    np.testing.assert_array_equal(labels, images(split)[1])
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx(results["test_accuracy"])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert 0 < rows[0]["seconds"] <= rows[-1]["seconds"] <= results["seconds"] + 1e-3
