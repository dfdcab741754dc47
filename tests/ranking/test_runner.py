"""Candidates one after the other: what is kept, what is measured again, who is left out, how it stops."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from paths import REPO
from ranked_results import measurer
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_subset
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.ranking.runner import measure_candidates, read_data_set
from tl_distributed.ranking.sample import open_sample, write_sample
from tl_distributed.ranking.settings import RankConfig


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("rank") / "toy"
    return write_toy_dataset(folder, counts={"train": 60, "val": 30, "test": 33}, size=16)


@pytest.fixture
def config(data_dir, tmp_path) -> RankConfig:
    backbones = ("vgg16", "resnet50:random", "xception")
    return RankConfig(data_dir=data_dir, workdir=str(tmp_path / "rank"), backbones=backbones, images_per_class=4)


ACCURACIES = {"vgg16": 0.5, "resnet50:random": 0.25, "xception": "--image_size=16: xception takes at least 71 pixels"}


def names(calls: list[dict]) -> list[str]:
    return [call["candidate"] for call in calls]


def test_what_fails_is_left_out_and_what_is_measured_is_kept(config):
    calls, info = [], read_manifest(config.data_dir)
    measured = measure_candidates(config, info, measurer(ACCURACIES, calls))
    assert names(calls) == ["vgg16", "resnet50:random", "xception"]
    assert [one["candidate"] for one in measured.results] == ["vgg16", "resnet50:random"]
    assert measured.left_out == {"xception": ACCURACIES["xception"]}
    log = pathlib.Path(config.folder) / "candidates" / "xception" / "log.txt"
    assert "a line before" in log.read_text()
    again = []
    assert measure_candidates(config, info, measurer(ACCURACIES, again)).results == measured.results
    assert names(again) == ["xception"]
    more = dataclasses.replace(config, backbones=(*config.backbones, "vgg19"), cost="macs")
    measure_candidates(more, info, measurer({**ACCURACIES, "vgg19": 0.5}, again))
    assert names(again)[1:] == ["xception", "vgg19"]
    other = dataclasses.replace(config, images_per_class=5)
    measure_candidates(other, info, measurer(ACCURACIES, again))
    assert names(again)[3:] == list(config.backbones)


def test_weights_of_a_file_are_read_again(config, tmp_path):
    path = tmp_path / "some.weights.h5"
    path.write_bytes(b"x")
    config, calls = dataclasses.replace(config, backbones=(f"vgg16@{path}",)), []
    for _ in range(2):
        measure_candidates(config, read_manifest(config.data_dir), measurer({f"vgg16@{path}": 0.5}, calls))
    assert len(calls) == 2


def test_a_result_of_before_does_not_outlive_a_failure(config):
    info = read_manifest(config.data_dir)
    measure_candidates(config, info, measurer(ACCURACIES, []))
    other, failing = dataclasses.replace(config, images_per_class=5), {**ACCURACIES, "vgg16": "out of memory"}
    measured = measure_candidates(other, info, measurer(failing, []))
    assert [one["candidate"] for one in measured.results] == ["resnet50:random"]
    assert not (pathlib.Path(config.folder) / "candidates" / "vgg16" / "result.json").exists()


def test_mistakes_end_before_anything_is_measured(config, data_dir, tmp_path):
    calls, info = [], read_manifest(data_dir)
    for changes, message in (
        ({"backbones": ("vgg16", "vgg16@nowhere.h5")}, "nowhere.h5: no such file or folder, for the weights of vgg16@"),
        ({"weights": "nowhere"}, "nowhere: no such file or folder, for the weights of vgg16"),
    ):
        with pytest.raises(UserError, match=message):
            measure_candidates(dataclasses.replace(config, **changes), info, measurer(ACCURACIES, calls))
    assert not calls
    with pytest.raises(UserError, match="none could be measured; vgg16: no"):
        measure_candidates(config, info, measurer(dict.fromkeys(config.backbones, "no"), calls))
    without = write_toy_dataset(tmp_path / "no_val", counts={"train": 6, "test": 6}, size=16)
    with pytest.raises(UserError, match="no val split"):
        read_data_set(dataclasses.replace(config, data_dir=without))


def test_a_signal_stops_it_and_the_same_call_goes_on(config):
    info, calls = read_manifest(config.data_dir), []
    ordinary = measurer(ACCURACIES, calls)

    def interrupted(job, log, while_waiting):
        if len(calls) == 1 and json.loads(job)["candidate"]:
            os.kill(os.getpid(), signal.SIGTERM)
            while_waiting()
        return ordinary(job, log, while_waiting)

    with pytest.raises(SystemExit) as raised:
        measure_candidates(config, info, interrupted)
    assert raised.value.code == 128 + signal.SIGTERM and names(calls) == ["vgg16"]
    measure_candidates(config, info, ordinary)
    assert names(calls) == list(config.backbones)


def test_the_sample_is_the_subset_that_training_takes(config, data_dir, tmp_path):
    info = read_manifest(data_dir)
    config = dataclasses.replace(config, eval_images_per_class=0, seed=3)
    write_sample(str(tmp_path), config, info)
    sample = open_sample(str(tmp_path), config, info, "train")
    expected = load_subset(data_dir, info, "train", images_per_class=4, seed=3)
    assert sample.num_examples == expected.num_examples == 12
    places = np.array([11, 0, 5])
    for own, other in zip(sample.examples(places), expected.examples(places), strict=True):
        np.testing.assert_array_equal(own, other) if own is not None else None
    whole = open_sample(str(tmp_path), config, info, "val")
    assert (whole.num_examples, whole.parts) == (30, None)


@pytest.mark.slow
def test_the_command_in_processes(data_dir, tmp_path):
    """Random weights are measured, weights that are not in the folder are named, and the table is printed."""
    (tmp_path / "weights").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tl_distributed.rank", f"--data_dir={data_dir}", f"--workdir={tmp_path / 'rank'}",
         "--backbones=mobilenet_v3_small,baseline_cnn:random", f"--weights={tmp_path / 'weights'}", "--image_size=32",
         "--images_per_class=4", "--eval_images_per_class=5", "--few_shot=1,2"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Left out: mobilenet_v3_small: --weights=" in done.stdout and "baseline_cnn:random  " in done.stdout
    assert "python -m tl_distributed.train" in done.stdout and "--transfer=scratch" in done.stdout
    assert (tmp_path / "rank" / "report.html").stat().st_size > 100_000
