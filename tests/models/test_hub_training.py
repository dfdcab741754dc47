"""Training from presets of KerasHub: frozen, partial, full and LoRA, and that the saved model is what was scored."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from paths import REPO
from tiny_runs import assert_identical
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest, shard_name
from tl_distributed.errors import UserError
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.studies.runner import open_study

pytest.importorskip("keras_hub", reason="the extra hub is not installed: pip install -e '.[hub]'")

import keras
from hub_presets import FAMILIES, SIZE, Presets

from tl_distributed.export import ExportConfig
from tl_distributed.export import main as export
from tl_distributed.inference.companions import card_path
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.inference.packaging import package_model
from tl_distributed.inference.saved import open_model, save_model
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.heads import build_classifier
from tl_distributed.training.run import train_and_evaluate

pytestmark = pytest.mark.slow

RUNS = {
    "frozen from a bank, 2 devices": (
        "vit", {"transfer": "frozen", "feature_bank": "on", "strategy": "mirrored", "pooling": "cls"}
    ),
    "partial from a bank, XLA": (
        "dinov2", {"transfer": "partial", "unfreeze_last_layers": 2, "feature_bank": "on", "xla": "on"}
    ),
    "partial from a bank, a CNN": ("resnet", {"transfer": "partial", "unfreeze_last_layers": 6, "feature_bank": "on"}),
    "full, bfloat16": ("vit", {"transfer": "full", "precision": "mixed_bfloat16", "layer_decay": 0.5, "epochs": 2}),
    "full, XLA, 2 devices": ("dinov2", {"transfer": "full", "strategy": "mirrored", "xla": "on"}),
    "full, a CNN": ("resnet", {"transfer": "full"}),
    "LoRA": ("vit", {"transfer": "lora", "lora_rank": 2}),
}  # fmt: skip
# As another, of another family: for a release.
FOR_A_RELEASE = (
    "partial from a bank, a CNN", "full, XLA, 2 devices",
    *(f"two phases, {family}" for family in ("siglip", "swin", "mobilenetv5")),
)  # fmt: skip
# The head, then the last layers at rates of their own, both from banks.
TWO_PHASES = {
    "transfer": "two_phase", "head_epochs": 1, "unfreeze_last_layers": 3, "layer_decay": 0.5, "feature_bank": "on"
}  # fmt: skip
RUNS |= {f"two phases, {family}": (family, TWO_PHASES) for family in ("dinov3", "siglip", "swin", "mobilenetv5")}
EXPORTS = [
    *((name, kind) for name in ("frozen from a bank, 2 devices", "partial from a bank, XLA", "full, a CNN")
      for kind in ("saved_model", "keras")),
    *((name, "saved_model") for name in RUNS if name.startswith("two phases")),
]  # fmt: skip


def _marked(name: str, *others: str):
    return pytest.param(name, *others, marks=pytest.mark.release if name in FOR_A_RELEASE else ())


@pytest.fixture(scope="module")
def presets(tmp_path_factory) -> Presets:
    return Presets(tmp_path_factory.mktemp("presets"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    counts = {"train": 16, "val": 8, "test": 8}
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=counts, size=SIZE, num_shards=1)


class Trained(dict):
    """Workdirs of `RUNS`; each is trained when it is first asked for: on two devices by the command."""

    def __init__(self, presets: Presets, data_dir: str, folder: pathlib.Path):
        super().__init__()
        self._presets, self._data_dir, self._folder = presets, data_dir, folder

    def settings(self, name: str, workdir: pathlib.Path, **changes) -> dict:
        family, settings = RUNS[name]
        return {
            "data_dir": self._data_dir, "workdir": str(workdir), "backbone": self._presets[family], "augment": "none",
            "epochs": 1, "global_batch_size": 8, "learning_rate": 1e-3, "xla": "off", "strategy": "one_device",
            "precision": "float32", **settings, **changes,
        }  # fmt: skip

    def train(self, name: str, workdir: pathlib.Path, **changes) -> dict:
        settings = self.settings(name, workdir, **changes)
        if settings["strategy"] == "mirrored":
            flags = [f"--{flag}={value}" for flag, value in settings.items()]
            run("-m", "tl_distributed.train", "--virtual_devices=2", *flags)
            return json.loads((workdir / "results.json").read_text())
        config = Config(**settings)
        config.validate()
        return train_and_evaluate(config)

    def __missing__(self, name: str) -> pathlib.Path:
        workdir = self._folder / str(len(self))
        self.train(name, workdir)
        self[name] = workdir
        return workdir


@pytest.fixture(scope="module")
def trained(presets, data_dir, tmp_path_factory) -> Trained:
    return Trained(presets, data_dir, tmp_path_factory.mktemp("runs"))


def run(*arguments: str, package: bool = True) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if package:
        environment["PYTHONPATH"] = str(REPO)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, cwd="/tmp"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def images_of_test(data_dir: str) -> np.ndarray:
    """Returns the pixels of test in the order of its one file, read without the code under test."""
    pixels = []
    for record in tf.data.TFRecordDataset(f"{data_dir}/{shard_name('test', 0, 1)}"):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        pixels.append(np.frombuffer(features["image"].bytes_list.value[0], np.uint8).reshape(SIZE, SIZE, 3))
    return np.stack(pixels)


@pytest.mark.parametrize("name", [_marked(name) for name in RUNS])
def test_it_trains_and_the_saved_model_is_what_was_scored(trained, data_dir, name):
    workdir, settings = trained[name], RUNS[name][1]
    results = json.loads((workdir / "results.json").read_text())
    assert results["finished"] and np.isfinite(results["test_loss"])
    assert (workdir / "feature_bank").exists() == (settings.get("feature_bank") == "on")
    pixels = images_of_test(data_dir)
    with np.load(workdir / "predictions_test.npz") as stored:
        scored = stored["probabilities"]
    expected = keras.models.load_model(workdir / "model.keras", compile=False)(pixels, training=False)  # stock Keras
    tolerance = 0.03 if settings.get("precision") == "mixed_bfloat16" else 1e-4
    np.testing.assert_allclose(expected, scored, atol=tolerance)
    np.testing.assert_allclose(open_model(str(workdir)).predict(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [_marked(*export) for export in EXPORTS])
def test_exports_predict_the_same_and_name_the_licence(trained, data_dir, tmp_path, name, kind):
    output = tmp_path / {"saved_model": "model", "keras": "model.keras"}[kind]
    export(ExportConfig(workdir=str(trained[name]), format=kind, output=str(output)), [])
    pixels = images_of_test(data_dir)
    expected = open_model(str(trained[name])).predict(pixels)
    np.testing.assert_allclose(open_model(str(output)).predict(pixels), expected, rtol=1e-4, atol=1e-5)
    assert "Their licence: not named in its files" in pathlib.Path(card_path(str(output))).read_text()


def test_a_run_goes_on_where_it_stopped_and_with_the_same_preset_alone(trained, presets, tmp_path):
    name, workdir = "full, bfloat16", tmp_path / "part"
    assert not trained.train(name, workdir, max_steps=3)["finished"]
    folder = pathlib.Path(presets["vit"].removeprefix("hub:"))
    weights = (folder / "model.weights.h5").read_bytes()
    try:
        (folder / "model.weights.h5").write_bytes(weights + b"\0")
        with pytest.raises(UserError, match=f"the source of hub:{folder}, which has changed since"):
            trained.train(name, workdir)
    finally:
        (folder / "model.weights.h5").write_bytes(weights)
    assert trained.train(name, workdir)["finished"]
    assert_identical(workdir, trained[name])


def test_a_study_takes_the_same_preset_alone(presets, data_dir, tmp_path):
    copy = tmp_path / "preset"
    shutil.copytree(presets["vit"].removeprefix("hub:"), copy)
    plan = make_plan(parse_arguments(StudyConfig, [f"--arms=a:backbone=hub:{copy}"])[0])
    open_study(str(tmp_path / "study"), plan, read_manifest(data_dir))
    (copy / "image_converter.json").write_text((copy / "image_converter.json").read_text().replace("-1.0", "-0.5"))
    with pytest.raises(UserError, match=f"the source of hub:{copy} has changed since"):
        open_study(str(tmp_path / "study"), plan, read_manifest(data_dir))


def test_another_run_starts_from_its_weights(trained, tmp_path):
    first = trained["partial from a bank, XLA"]
    results = trained.train("full, XLA, 2 devices", tmp_path, strategy="one_device", xla="off", weights=str(first))
    assert results["finished"]


STOCK = """
import sys, keras, numpy
folder = sys.argv[1]
images = numpy.load(f"{folder}/images.npy")
for family in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/{family}.keras", compile=False)
    numpy.save(f"{folder}/{family}.npy", model(images, training=False))
"""


def test_stock_keras_opens_the_models_of_every_family(presets, tmp_path):
    """In another process, without this package; what is opened there can be written again here."""
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    expected = {}
    for family in FAMILIES:
        backbone = build_backbone(get_backbone(presets[family]), image_size=SIZE, weights="own")
        model = build_classifier(backbone, num_classes=3, pooling="avg", head_units=(), dropout=0.0)
        packaged = package_model(model, normalization="internal", native_shape=(SIZE, SIZE, 3), image_size=SIZE)
        info = ModelInfo(("a", "b", "c"), None, (SIZE, SIZE, 3))
        save_model(packaged, str(tmp_path / f"{family}.keras"), "keras", info)
        expected[family] = np.asarray(packaged(images, training=False))
    run("-c", STOCK, tmp_path, *FAMILIES, package=False)
    for family in FAMILIES:
        np.testing.assert_allclose(np.load(tmp_path / f"{family}.npy"), expected[family], rtol=1e-4, atol=1e-5)


WITHOUT = """
import sys
sys.modules["keras_hub"] = None
from tl_distributed.errors import UserError
from tl_distributed.inference.saved import load_keras, open_model
for opened in (load_keras, open_model):
    try:
        opened(sys.argv[1])
    except UserError as error:
        print(error)
"""


def test_without_the_extra_a_saved_model_says_what_it_needs(trained):
    path = f"{trained['full, a CNN']}/model.keras"  # made of stock layers: nothing is missing
    assert run("-c", WITHOUT, path) == ""
    path = f"{trained['full, bfloat16']}/model.keras"
    line = f"{path}: is made of KerasHub's layers: pip install -e '.[hub]' in the package's folder\n"
    assert run("-c", WITHOUT, path) == 2 * line
