"""The campaign's own measures: they have to notice what they look for."""

import json

import numpy as np
import pytest
from counting_backbone import NUM_IMAGES, register_counting_backbone, seen_images
from kill_campaign import COUNTS, compare, summary
from toy_dataset import write_toy_dataset

from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS, num_shards=3, numbered=True)


def train(data_dir: str, workdir, **changes) -> None:
    register_counting_backbone()
    settings = {
        "backbone": "counting", "transfer": "scratch", "augment": "none", "epochs": 2, "global_batch_size": 16,
        "learning_rate": 0.01, "strategy": "one_device", "precision": "float32", "xla": "off", "log_every_steps": 1,
        "input_mode": "disk", **changes,
    }  # fmt: skip
    config = Config(data_dir=data_dir, workdir=str(workdir), **settings)
    config.validate()
    train_and_evaluate(config)


def test_images_are_counted_whatever_the_replicas(data_dir, tmp_path):
    train(data_dir, tmp_path, strategy="mirrored", max_steps=8)
    seen = seen_images(str(tmp_path / "checkpoints"))
    assert seen.sum() == 8 * 16 and seen.min() == 1 and seen.max() == 2


@pytest.mark.parametrize("input_mode", ["memory", "disk"])
def test_a_run_goes_on_with_fewer_replicas_at_the_next_image(data_dir, tmp_path, input_mode, caplog):
    """The step of the change lies within an epoch; what the log says may differ is more than rounding."""
    train(data_dir, tmp_path, input_mode=input_mode, strategy="mirrored", max_steps=4)
    with caplog.at_level("INFO", logger="tl_distributed"):
        train(data_dir, tmp_path, input_mode=input_mode, resume="must")
    np.testing.assert_array_equal(seen_images(str(tmp_path / "checkpoints")), np.full(NUM_IMAGES, 2))
    assert (
        "So far it ran on 1 workers with 4 replicas, now on 1 with 1: the global batch, the order of the data and its "
        "augmentation stay; BatchNorm's statistics"
    ) in caplog.text


@pytest.mark.slow
def test_a_resumed_run_is_the_same_and_another_is_not(data_dir, tmp_path):
    train(data_dir, tmp_path / "whole")
    train(data_dir, tmp_path / "parts", max_steps=6)
    np.testing.assert_array_equal(seen_images(str(tmp_path / "parts" / "checkpoints")), np.ones(NUM_IMAGES))
    train(data_dir, tmp_path / "parts")
    same = {"same_weights": True, "same_metrics": True, "same_test_loss": True}
    assert compare(tmp_path / "parts", tmp_path / "whole", epochs=2) == {**same, "steps": 12, "images_wrong": 0}
    train(data_dir, tmp_path / "other", seed=1)
    found = compare(tmp_path / "other", tmp_path / "whole", epochs=3)
    assert found == {**dict.fromkeys(same, False), "steps": 12, "images_wrong": NUM_IMAGES}


def test_the_table_counts_and_takes_the_longest():
    kill = {
        "kind": "full disk", "seconds_until_gone": 1.0, "recovery_seconds": 20.0, "steps_repeated": 4,
        "as_documented": True,
    }  # fmt: skip
    kills = [kill, {**kill, "recovery_seconds": 30.0, "as_documented": False}, {**kill, "kind": "cut link"}]
    run = {"same_weights": True, "same_metrics": True, "same_test_loss": True, "images_wrong": 0}
    text = summary(kills, [run, {**run, "same_weights": False, "images_wrong": 5}])
    assert "| full disk | 2 | 1.0 | 25.0 / 30.0 | 4 |" in text and "| all | 3 |" in text
    assert "3 interruptions of 2 runs; 1 of 2 runs ended" in text and "twice: 5; 2 of 3 interruptions" in text
    json.dumps(kills)
