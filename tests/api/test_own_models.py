"""Training networks of one's own: given by a program or named by a setting, and told again when a run goes on."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import keras
import numpy as np
import own_networks
import pytest
from paths import REPO
from PIL import Image
from toy_dataset import write_toy_dataset

import tl_distributed as tl
from tl_distributed.data.records import read_manifest
from tl_distributed.inspection.networks import read_run_config
from tl_distributed.reporting.run_facts import about_run
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.studies.runner import open_study

SIZE = 16
SUPPORT = REPO / "tests" / "support"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 48, "val": 12, "test": 12}
    return write_toy_dataset(tmp_path_factory.mktemp("own") / "toy", counts=counts, size=SIZE)


@pytest.fixture
def flags(data_dir, tmp_path):
    return {
        "data_dir": data_dir, "augment": "none", "epochs": 2, "global_batch_size": 12, "learning_rate": 0.01,
        "strategy": "one_device", "precision": "float32", "xla": "off", "workdir": tmp_path / "run",
    }  # fmt: skip


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_a_given_model_trains_frozen_from_its_bank(flags):
    given = own_networks.functional(SIZE)
    before = given.get_weights()
    run = tl.train(**flags, model=given, normalization="tf", pretrained=True, transfer="frozen", feature_bank="on")
    assert run.config["config"]["backbone"] == "python=mine" and run.config["config"]["image_size"] == SIZE
    saved = run.model.keras.get_layer("python_mine")
    for name in ("first", "norm", "second"):
        expected = given.get_layer(name).get_weights()
        for first, second in zip(expected, saved.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)
    assert all(np.array_equal(*pair) for pair in zip(before, given.get_weights(), strict=True))
    assert run.results["trainable_parameters"] == 16 * 3 + 3 < run.results["parameters"]
    assert run.results["forward_flops_per_image"] == 2 * (8 * 8 * 27 * 8 + 4 * 4 * 72 * 16 + 16 * 3)
    assert run.model.predict(images()).shape == (5, 3)
    # What a command cannot say, only the program can.
    assert about_run(run.config)[1] == shlex.join(["python", sys.argv[0]])


def test_norms_and_biases_alone(flags):
    given = own_networks.functional(SIZE)
    run = tl.train(**flags, model=given, normalization="tf", pretrained=True, transfer="norms")
    saved = run.model.keras.get_layer("python_mine")
    same = {
        f"{layer}/{variable.name}": bool(np.array_equal(variable, given.get_layer(layer).variables[place]))
        for layer in ("first", "norm", "second")
        for place, variable in enumerate(saved.get_layer(layer).variables)
    }
    assert {name for name, is_same in same.items() if is_same} == {"first/kernel", "second/kernel"} and len(same) == 8
    assert run.results["trainable_parameters"] == (8 + 8 + 8 + 16) + 16 * 3 + 3


@pytest.mark.parametrize("changes", [
    pytest.param({"strategy": "mirrored"}, id="mirrored"),
    pytest.param({"xla": "on", "precision": "mixed_bfloat16"}, id="xla", marks=pytest.mark.slow),
    pytest.param({"layer_decay": 0.8, "transfer": "full"}, id="layer_decay"),
])  # fmt: skip
def test_a_subclassed_network_of_tokens(flags, changes):
    pretrained = {"pretrained": True} if "transfer" in changes else {}
    run = tl.train(**{**flags, **changes}, **pretrained, model=own_networks.subclassed, normalization="tf",
                   pooling="cls")  # fmt: skip
    stock = keras.models.load_model(f"{run.workdir}/model.keras").predict(images(), verbose=0)
    np.testing.assert_allclose(run.model.predict(images()), stock, atol=1e-4)
    assert run.results["finished"] and np.ptp(stock) > 0


def test_a_whole_classifier(flags):
    run = tl.train(**flags, backbone="own_networks:classifier", normalization="tf", head="own")
    np.testing.assert_allclose(run.model.predict(images()).sum(1), 1, atol=1e-5)
    assert list(run.config["plugin_sha256"]) == ["own_networks"]


def test_a_function_normalises(flags, data_dir):
    """The saved model takes pixels as training did, by Keras's own operations alone."""
    run = tl.train(**flags, model=own_networks.functional, normalization=lambda pixels: pixels / 127.5 - 1)
    assert run.model.evaluate(data_dir)["loss"] == pytest.approx(run.results["test_loss"], abs=1e-4)
    assert run.config["config"]["normalization"].startswith("python=")
    stock = keras.models.load_model(f"{run.workdir}/model.keras", safe_mode=True)
    np.testing.assert_allclose(stock.predict(images(), verbose=0), run.model.predict(images()), atol=1e-4)
    (whole,) = (layer for layer in stock.layers if isinstance(layer, keras.Model))
    network = keras.Model(whole.input, whole.get_layer("first").input)
    np.testing.assert_allclose(network(images().astype("float32")), images() / 127.5 - 1, atol=1e-5)


def test_a_run_goes_on_with_the_same_model_alone(flags):
    given = own_networks.functional(SIZE)
    arguments = {**flags, "normalization": "tf", "pretrained": True, "transfer": "full"}
    tl.train(**arguments, model=given, max_steps=3)
    assert tl.train(**arguments, model=given).results["finished"]
    other = own_networks.functional(SIZE)
    other.set_weights([weight + 1 for weight in given.get_weights()])
    with pytest.raises(tl.UserError, match="the source of python=mine, which has changed since"):
        tl.train(**{**arguments, "epochs": 3}, model=other)


def test_a_changed_source_is_told(flags, data_dir, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = (SUPPORT / "own_networks.py").read_text().split("tl.register_backbone")[0].replace('"own")', '"other")')
    module = tmp_path / "changing_networks.py"
    module.write_text(source)
    arguments = {**flags, "backbone": "changing_networks:functional", "normalization": "tf"}
    tl.train(**arguments, max_steps=3)
    arms = "--arms=a:backbone=changing_networks:functional,normalization=tf"
    plan = make_plan(parse_arguments(StudyConfig, [arms])[0])
    open_study(str(tmp_path / "study"), plan, read_manifest(data_dir))
    open_study(str(tmp_path / "study"), plan, read_manifest(data_dir))
    module.write_text(source + "\n# another one\n")
    with pytest.raises(tl.UserError, match="the source of changing_networks, which has changed since"):
        tl.train(**arguments)
    with pytest.raises(tl.UserError, match="of which the source of changing_networks has changed since"):
        open_study(str(tmp_path / "study"), plan, read_manifest(data_dir))


def test_a_file_of_a_run_imports_nothing(flags, tmp_path, monkeypatch):
    run = tl.train(**flags, backbone="own_networks:vector", normalization="tf")
    content = json.loads((pathlib.Path(run.workdir) / "config.json").read_text())
    content["config"]["backbone"] = "planted_module:build"
    (tmp_path / "planted_module.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    (pathlib.Path(run.workdir) / "config.json").write_text(json.dumps(content))
    with pytest.raises(tl.UserError, match="--plugin=planted_module imports it"):
        read_run_config(run.workdir)
    assert tl.load(run.workdir).config["config"]["backbone"] == "planted_module:build"
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize(("arguments", "line"), [
    ({"model": own_networks.vector, "backbone": "vgg16", "normalization": "tf"}, "drop backbone='vgg16'"),
    ({"model": 3, "normalization": "tf"}, "not int"),
    ({"model": own_networks.vector}, "say by --normalization"),
    ({"model": own_networks.vector, "normalization": lambda pixels: pixels.numpy()}, "does not take a Keras tensor"),
    ({"model": own_networks.vector, "normalization": lambda pixels: pixels[:, :4]}, "of the same shape"),
])  # fmt: skip
def test_what_cannot_be_meant(flags, arguments, line):
    with pytest.raises(tl.UserError, match=line):
        tl.train(**flags, **arguments)


@pytest.mark.slow
def test_commands_take_a_plugin_and_open_its_models(flags, tmp_path):
    """Training by the command, in a folder that holds the module; the model's class is brought by --plugin alone."""
    names = ("data_dir", "epochs", "global_batch_size", "learning_rate", "workdir")
    command = [f"--{name}={flags[name]}" for name in names]
    command += ["--backbone=own_networks:subclassed", "--pooling=cls", "--normalization=tf", "--augment=none"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), str(SUPPORT)])}

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", module, *arguments], env=environment, capture_output=True,
                              text=True, check=False, cwd=tmp_path)  # fmt: skip

    trained = run("tl_distributed.train", *command)
    assert trained.returncode == 0, trained.stderr
    Image.fromarray(images(1)[0]).save(tmp_path / "a.png")
    predict = (f"--model={flags['workdir']}", "a.png")
    strange = run("tl_distributed.predict", *predict)
    assert strange.returncode == 2 and "if you trust it, --plugin=MODULE" in strange.stderr
    told = run("tl_distributed.predict", "--plugin=own_networks", *predict)
    assert told.returncode == 0, told.stderr
    expected = tl.load(flags["workdir"]).model.predict(images(1)[0]).max()
    assert json.loads(told.stdout)["probability"] == pytest.approx(expected, abs=1e-4)
