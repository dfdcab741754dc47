"""The data set of a run is found where it is now, and no other is taken for it."""

import json
import pathlib
import shutil

import pytest
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.inference.run_data import absolute, find_data_dir


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data/set and runs/one, which says that it was trained from there."""
    root = tmp_path / "project"
    write_toy_dataset(root / "data" / "set", counts={"train": 3})
    (root / "runs" / "one").mkdir(parents=True)
    monkeypatch.chdir(root)
    write_config(root / "runs" / "one", data_dir="data/set")
    return root


def write_config(workdir: pathlib.Path, *, data_dir: str, **others) -> None:
    content = {
        "config": {"data_dir": data_dir, "data_copy_dir": ""},
        "dataset_sha256": read_manifest(data_dir).digest(),
        "absolute_paths": {"data_dir": absolute(data_dir), "workdir": str(workdir)},
        **others,
    }
    (workdir / "config.json").write_text(json.dumps(content))


def found(workdir) -> pathlib.Path:
    return pathlib.Path(find_data_dir(str(workdir))).resolve()


def test_from_the_same_folder_and_from_elsewhere(project, tmp_path, monkeypatch):
    assert find_data_dir("runs/one") == "data/set"
    monkeypatch.chdir(tmp_path)
    assert found(project / "runs/one") == project / "data/set"
    assert found("project/runs/one") == project / "data/set"


def test_after_the_project_or_the_run_moved(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project / "runs" / "one", tmp_path / "elsewhere")
    assert found(tmp_path / "elsewhere") == project / "data/set"
    project.rename(tmp_path / "renamed")
    assert found(tmp_path / "renamed/runs/one") == tmp_path / "renamed/data/set"


def test_after_a_project_with_absolute_paths_moved(project, tmp_path, monkeypatch):
    write_config(project / "runs" / "one", data_dir=str(project / "data" / "set"))
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "renamed")
    assert found("renamed/runs/one") == tmp_path / "renamed/data/set"


def test_run_of_before_the_paths_were_stored(project, tmp_path, monkeypatch):
    write_config(project / "runs" / "one", data_dir="data/set", absolute_paths={})
    monkeypatch.chdir(tmp_path)
    assert found("project/runs/one") == project / "data/set"


def test_another_data_set_of_that_name_is_not_taken(project, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    write_toy_dataset(elsewhere / "data" / "set", counts={"train": 6})
    monkeypatch.chdir(elsewhere)
    assert found(project / "runs/one") == project / "data/set"
    shutil.rmtree(project / "data")
    with pytest.raises(UserError, match=r"data/set is another one\); name it with --data_dir=FOLDER"):
        find_data_dir(str(project / "runs/one"))


def test_what_is_said_where_there_is_none(project, tmp_path):
    shutil.rmtree(project / "data")
    with pytest.raises(UserError, match=r"its data set is not found \(no data/set .*name it with --data_dir=FOLDER"):
        find_data_dir("runs/one")
    with pytest.raises(UserError, match=r"no config\.json there"):
        find_data_dir(str(tmp_path))
    (project / "runs/one/config.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match=r"not the config of a run"):
        find_data_dir("runs/one")
