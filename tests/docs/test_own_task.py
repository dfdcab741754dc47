"""The page that builds a task and an augmentation: its files are written and its commands run, as a reader would."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from doc_pages import shell_blocks
from paths import REPO

PAGE = REPO / "docs" / "howto" / "own_task.md"
FILES = re.findall(
    r"^```python\n# (\w+\.py), where Python finds it\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own_task")
    for name, content in FILES:
        (folder / name).write_text(content)
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(REPO)}
    for block in shell_blocks(PAGE):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=env, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout)
    return folder


def test_both_are_about_thirty_lines():
    assert [name for name, _ in FILES] == ["my_task.py", "my_augmentation.py"]
    assert all(10 < len(content.strip().splitlines()) <= 32 for _, content in FILES)


def test_the_run_has_the_scores_of_the_task(folder):
    results = json.loads((folder / "runs/grades/results.json").read_text())
    assert results["task"] == "my_task:Grades" and results["chosen_by"] == "val_off_by"
    assert 0 <= results["test_off_by"] <= len(results["class_names"]) - 1 and 0 <= results["test_accuracy"] <= 1
    config = json.loads((folder / "runs/grades/config.json").read_text())
    assert set(config["plugin_sha256"]) == {"my_task", "my_augmentation"}
    assert (folder / "runs/grades/report.html").exists()


def test_its_model_predicts(folder):
    row = json.loads((folder / "printed").read_text().splitlines()[-1])
    assert row["class"] in json.loads((folder / "data/drawings/dataset.json").read_text())["class_names"]
