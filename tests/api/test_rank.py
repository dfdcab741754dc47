"""Rankings from Python: the tables are those of what was measured, and the command prints them."""

import pathlib
import signal

import pytest
from ranked_results import measurer
from toy_dataset import write_toy_dataset

import tl_distributed as tl
from tl_distributed.ranking import runner

ACCURACIES = {"mobilenet_v2": 0.8, "vgg16:random": 0.3, "vgg16": "its weights cannot be downloaded (no network)"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("rank") / "toy", counts={"train": 12, "val": 6}, size=8)


def test_tables_hold_what_was_measured(data_dir, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(runner, "measure_job", measurer(ACCURACIES, calls))
    monkeypatch.chdir(tmp_path)
    ranking = tl.rank(backbones=list(ACCURACIES), data_dir=data_dir, workdir="rank", draws=3)
    monkeypatch.chdir("/")
    assert isinstance(ranking, tl.Ranking) and {call["config"]["draws"] for call in calls} == {3}
    rows = ranking.table
    assert [row["backbone"] for row in rows] == ["mobilenet_v2", "vgg16:random"]
    assert rows[0]["val_accuracy"] == 0.8 and rows[0]["seconds_per_1000_images"] == 8.0 and not rows[1]["level"]
    assert [(row["backbone"], row["images_per_class"], row["draws"]) for row in ranking.few_shot][:2] == [
        ("mobilenet_v2", 1, 2), ("mobilenet_v2", 20, 1)
    ]  # fmt: skip
    assert ranking.few_shot[0]["accuracy"] == pytest.approx(0.3) and ranking.few_shot[1]["std"] is None
    assert ranking.left_out == {"vgg16": ACCURACIES["vgg16"]}
    assert list(ranking.best_at_each_cost) == ["mobilenet_v2", "vgg16:random"]
    text = ranking.text()
    assert "Left out: vgg16: its weights cannot be downloaded" in text
    assert f"--data_dir={data_dir} --backbone=mobilenet_v2 --image_size=96" in text
    assert pathlib.Path(ranking.workdir, "report.html").exists()
    assert tl.rank(backbones=list(ACCURACIES), data_dir=data_dir, workdir=tmp_path / "rank", draws=3).table == rows
    assert [call["candidate"] for call in calls] == [*ACCURACIES, "vgg16"]


def test_mistakes_and_signals_are_exceptions(data_dir, tmp_path, monkeypatch):
    with pytest.raises(tl.UserError, match="--backbones=vgg61: no such backbone"):
        tl.rank(backbones="vgg61", data_dir=data_dir)
    with pytest.raises(tl.UserError, match="Unknown command line flag 'backbone'"):
        tl.rank(backbone="vgg16", data_dir=data_dir)

    def stopped(job, log, while_waiting):
        raise SystemExit(128 + signal.SIGTERM)

    monkeypatch.setattr(runner, "measure_job", stopped)
    with pytest.raises(tl.Stopped):
        tl.rank(backbones="vgg16", data_dir=data_dir, workdir=tmp_path / "stopped")
