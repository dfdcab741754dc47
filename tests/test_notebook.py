"""The notebook: executed from top to bottom, and its figures against stock Keras and the files of its runs."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from paths import REPO
from real_images import write_some

import tl_distributed
from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import read_manifest

pytestmark = pytest.mark.slow  # a minute and a half of training

NOTEBOOK = REPO / "tl_distributed" / "notebooks" / "transfer_learning.ipynb"
WAYS = ("scratch", "frozen", "partial", "full")
UNFROZEN = 23
SMALL = {
    "IMAGE_SIZE": 16, "IMAGES_PER_CLASS": 4, "UNFREEZE_LAST_LAYERS": UNFROZEN, "EPOCHS": 2, "PRETRAINING_EPOCHS": 1,
    "PRETRAINING_IMAGES_PER_CLASS": 4,
}  # fmt: skip
PROBE = """
import json
with open(f"{folder}/probe.json", "w") as file:
    json.dump({"drift": drift, "counted": counted, "data_dir": data_dir}, file)
"""


class Executed:
    """An executed notebook: what its cells showed, and the folder of its files."""

    def __init__(self, notebook: nbformat.NotebookNode, folder: pathlib.Path):
        self.cells = {cell.id: cell for cell in notebook.cells}
        self.folder = folder
        self.probe = json.loads((folder / "probe.json").read_text())

    def printed(self, cell_id: str) -> str:
        """What a cell wrote to standard output."""
        outputs = self.cells[cell_id].outputs
        return "".join(part.text for part in outputs if part.output_type == "stream" and part.name == "stdout")

    def rows(self, cell_id: str) -> dict[str, list[str]]:
        """The last table that a cell showed: first column to the others."""
        texts = [
            part.data["text/markdown"] for part in self.cells[cell_id].outputs if "text/markdown" in shown_in(part)
        ]
        table = [line.strip("| ").split(" | ") for line in texts[-1].splitlines() if line.startswith("| ")]
        return {first: rest for first, *rest in table[2:]}

    def results(self, way: str) -> dict:
        (path,) = (self.folder / "arms" / way).glob("*/seed_0/results.json")
        return json.loads(path.read_text())


def shown_in(output: nbformat.NotebookNode) -> dict:
    return output.get("data", {})


def execute(folder: pathlib.Path, parameters: dict, *, last: str) -> Executed:
    """Executes the notebook up to a cell with other parameters, put after its own as papermill does."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    del notebook.cells[[cell.id for cell in notebook.cells].index(last) + 1 :]
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = [f"{name} = {value!r}" for name, value in {**parameters, "FOLDER": str(folder)}.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines), id="injected-parameters"))
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE, id="probe"))
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(elsewhere)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(REPO), "IPYTHONDIR": str(elsewhere), "MPLBACKEND": "agg"})
    return Executed(notebook, folder)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    return execute(tmp_path_factory.mktemp("notebook") / "files", SMALL, last="next")


def test_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z][a-z-]{1,63}", name) for name in ids)
    assert [cell.id for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])] == ["parameters"]
    for cell in notebook.cells:
        assert cell.source.strip(), cell.id
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id


def test_parameters_of_the_text_exist():
    """Every NAME = value that the text recommends is a parameter, and the tests set no other."""
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    known = set(re.findall(r"^([A-Z_]+) = ", cells["parameters"], re.MULTILINE))
    text = "\n".join(source for name, source in cells.items() if name != "parameters")
    assert set(re.findall(r"`([A-Z_]+)(?: = [^`]*)?`", text)) <= known
    assert set(SMALL) <= known


def test_uses_the_public_interface_alone():
    """What it imports of this repository is the package; commands do the rest."""
    code = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code")
    imported = re.findall(r"^ *(?:import|from) (\S+)", code, re.MULTILINE)
    assert [name for name in imported if name.startswith(("tl_distributed", "data_prep"))] == ["tl_distributed"]
    assert set(re.findall(r"\btl\.(\w+)", code)) <= set(tl_distributed.__all__)


def test_every_cell_ran(executed):
    code = [cell for cell in executed.cells.values() if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not [part for part in cell.outputs if part.output_type == "error"]
        if re.search(r"^ *(show|display)\(", cell.source, re.MULTILINE) and cell.id != "start":
            assert any("image/png" in shown_in(part) for part in cell.outputs), cell.id


def test_parameters_that_train_are_those_of_keras(executed):
    """Layers are frozen here by Keras's own attribute on the saved model, as in any published walk-through."""
    model = keras.models.load_model(executed.folder / "arms/full/4_per_class/seed_0/model.keras")
    classifier = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    head = ("head_pooling", "head_logits")
    below = [layer for layer in classifier.layers if layer.name not in head]
    table = executed.rows("freeze")
    for way, trained in {"frozen": 0, "partial": UNFROZEN, "full": len(below)}.items():
        for index, layer in enumerate(below):
            layer.trainable = index >= len(below) - trained
        trains = sum(int(np.prod(variable.shape)) for variable in classifier.trainable_variables)
        assert executed.probe["counted"][way] == [trains, classifier.count_params() - trains]
        assert table[way][1:3] == [f"{trains:,}", f"{classifier.count_params() - trains:,}"]
        assert executed.results(way)["trainable_parameters"] == trains


def test_only_a_frozen_backbone_is_a_fixed_function(executed):
    drift = executed.probe["drift"]
    assert drift["frozen"] == 0
    assert min(drift["partial"], drift["full"]) > 0.01  # BatchNorm takes the batch's statistics


def test_accuracies_are_those_of_the_runs(executed):
    for way, cells in executed.rows("results").items():
        results = executed.results(way)
        assert cells[:2] == [f"{100 * results[f'{split}_accuracy']:.2f} %" for split in ("test", "val")]
    assert set(executed.rows("results")) == set(WAYS)


def test_evaluation_is_that_of_stock_keras(executed):
    """The best way by validation, opened without this package, on the images of the test shards."""
    way, path = executed.printed("evaluate").splitlines()[0].split(": ")
    accuracies = {way: executed.results(way)["val_accuracy"] for way in WAYS}
    assert accuracies[way] == max(accuracies.values()) and path.startswith(f"{executed.folder}/arms/{way}/")
    data_dir = executed.probe["data_dir"]
    splits = load_splits(data_dir, read_manifest(data_dir), ("test",), input_mode="memory")
    batch = next(splits["test"].eval_batches(splits["test"].num_examples))
    predictions = keras.models.load_model(path).predict(batch.images, verbose=0).argmax(1)
    accuracy = f"{np.mean(predictions == batch.labels):.2%}"
    assert f"Test accuracy {accuracy}; the run's own results.json says {accuracy}" in executed.printed("evaluate")


def test_differences_are_those_of_the_accuracies(executed):
    text = executed.cells["compare"].outputs[-1].data["text/markdown"]
    pairs = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert len(pairs) == 6
    for first, second, difference, *_ in pairs:
        expected = executed.results(first)["test_accuracy"] - executed.results(second)["test_accuracy"]
        assert float(difference.split()[0]) == pytest.approx(100 * expected, abs=0.006)


def test_changed_layers_are_those_of_the_inspection(executed):
    inspection = json.loads((executed.folder / "arms/full/4_per_class/seed_0/inspection/inspection.json").read_text())
    rows = [row for row in inspection["cka"] if not row["layer"].startswith("head_")]
    rows.sort(key=lambda row: -row["debiased_cka"])
    shown = [f"{row['layer']} (CKA {row['debiased_cka']:.3f})" for row in (rows[0], rows[-1])]
    assert executed.printed("inspect").startswith(f"Changed least: {shown[0]}; most: {shown[1]}\n")
    pictures = [part for part in executed.cells["inspect"].outputs if "image/png" in shown_in(part)]
    assert len(pictures) == 2


def test_same_folder_trains_nothing_again(executed):
    """Executed once more, the notebook reads what is there and shows the same."""
    files = [*executed.folder.glob("**/results.json"), *executed.folder.glob("**/dataset.json")]
    assert len(files) == 5 + 2
    before = {path: path.stat().st_mtime_ns for path in files}
    again = execute(executed.folder, SMALL, last="freeze")
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert again.rows("results") == executed.rows("results")


def test_is_packaged_and_linted(tmp_path):
    copy = tmp_path / "repository"
    shutil.copytree(REPO / "tl_distributed", copy / "tl_distributed", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(REPO / name, copy)
    command = [sys.executable, "setup.py", "-q", "build_py", f"--build-lib={tmp_path / 'lib'}"]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "lib" / NOTEBOOK.relative_to(REPO)).read_bytes() == NOTEBOOK.read_bytes()
    spoilt = json.loads(NOTEBOOK.read_text())
    next(cell for cell in spoilt["cells"] if cell["cell_type"] == "code")["source"] = ["import  sys"]
    (copy / "spoilt.ipynb").write_text(json.dumps(spoilt))
    for check in (["check"], ["format", "--check"]):  # as launch/test.sh does for the whole repository
        result = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=copy, capture_output=True, text=True)
        assert result.returncode == 1 and "spoilt.ipynb" in result.stdout + result.stderr


@pytest.fixture(scope="module")
def few_photos(real_data_dir, tmp_path_factory) -> str:
    """A data set of the first CIFAR-10 images of each class: 10 to train and validate, 10 to test."""
    folder = tmp_path_factory.mktemp("photos")
    write_some(real_data_dir, folder / "images", train_per_class=10, test_per_class=10)
    command = [
        sys.executable, "-m", "data_prep.build_tfrecords", "--source=image_folder", f"--input={folder / 'images'}",
        f"--output_dir={folder / 'data'}", "--num_shards=1",
    ]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    assert built.returncode == 0, built.stderr
    return str(folder / "data")


@pytest.mark.real_data
@pytest.mark.release
def test_photos_and_imagenet_weights(few_photos, real_data_dir, tmp_path):
    """The other use of the parameters: a data set, a backbone and weights of one's own."""
    parameters = {
        "DATA_DIR": few_photos, "BACKBONE": "mobilenet_v2", "IMAGE_SIZE": 48, "IMAGES_PER_CLASS": 6, "EPOCHS": 1,
        "WEIGHTS": str(real_data_dir / "mobilenet_v2_imagenet_notop.weights.h5"), "UNFREEZE_LAST_LAYERS": 9,
    }  # fmt: skip
    executed = execute(tmp_path / "files", parameters, last="compare-classes")
    assert not (executed.folder / "pretraining").exists() and not (executed.folder / "data").exists()
    assert executed.probe["counted"]["frozen"][0] == 1280 * 10 + 10
    assert executed.probe["drift"]["frozen"] == 0 < executed.probe["drift"]["full"]
    assert set(executed.rows("results")) == set(WAYS)
