"""Data set and workdir as the doctor finds them."""

import pathlib

import pytest
from single_checks import damage, doctor_config, run
from toy_dataset import write_toy_dataset

from tl_distributed.diagnosis import storage
from tl_distributed.diagnosis.report import FAILED, OK, WARNING


@pytest.mark.parametrize("kind", ["missing", "cut", "bit"])
def test_a_broken_shard_is_named(data_dir, kind):
    name = damage(data_dir, kind)
    (finding,) = run(storage.data_set, data_dir=data_dir)
    assert finding.status == FAILED and name in finding.value and finding.remedy


def test_pictures_that_are_stored_whole_are_not_said_to_be_squares(tmp_path):
    folder = write_toy_dataset(tmp_path / "set", counts={"train": 6}, size=8, storage="original", aspect=1.5)
    (finding,) = run(storage.data_set, data_dir=folder)
    assert "6 train: pictures (original), shorter side 8 px at most, " in finding.value


def test_sizes_alone_cannot_see_a_changed_bit(data_dir):
    damage(data_dir, "bit")
    (finding,) = run(storage.data_set, data_dir=data_dir, verify="sizes")
    assert finding.status == OK and not finding.data["verified_in_full"] and "--verify=full" in finding.value


def test_a_large_set_is_read_in_full_on_demand(data_dir, monkeypatch):
    monkeypatch.setattr(storage, "_READ_IN_FULL_BYTES", 1000)
    for verify, in_full in {"auto": False, "full": True}.items():
        (finding,) = run(storage.data_set, data_dir=data_dir, verify=verify)
        assert finding.data["verified_in_full"] == in_full
        num_bytes = sum(path.stat().st_size for path in pathlib.Path(data_dir).glob("*.tfrecord"))
        assert finding.data["num_bytes"] == num_bytes


def test_counts_that_do_not_add_up_and_sets_without_training_images(data_dir, tmp_path):
    manifest = pathlib.Path(data_dir) / "dataset.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"num_examples": 24', '"num_examples": 23'))
    (finding,) = run(storage.data_set, data_dir=data_dir)
    assert finding.status == FAILED and "split train has 23 examples" in finding.value
    (finding,) = run(storage.data_set, data_dir=write_toy_dataset(tmp_path / "other", counts={"val": 6}))
    assert finding.status == FAILED and "no train split" in finding.value
    (finding,) = run(storage.data_set, data_dir=str(tmp_path / "nowhere"))
    assert finding.status == FAILED and "build_tfrecords" in finding.remedy


def test_a_workdir_that_cannot_be_written_or_has_little_room(tmp_path, monkeypatch):
    (finding,) = run(storage.workdir, workdir=str(tmp_path / "a" / "b"))
    assert finding.status == OK and not list(tmp_path.iterdir())
    monkeypatch.setattr(storage, "_LOW_DISK_BYTES", 1 << 62)
    assert run(storage.workdir, workdir=str(tmp_path))[0].status == WARNING

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse)
    (finding,) = run(storage.workdir, workdir=str(tmp_path / "a"))
    assert finding.status == FAILED and f"{tmp_path} cannot be written (Permission denied)" in finding.value


def test_the_default_workdir_is_that_of_train():
    assert storage.workdir_of(doctor_config(backbone="tiny", transfer="scratch")) == "runs/tiny_scratch"
