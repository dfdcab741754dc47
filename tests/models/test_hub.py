"""Backbones of KerasHub from presets in folders: their features, their blocks, and training from them."""

import json
import pathlib

import numpy as np
import pytest
from toy_dataset import write_toy_dataset

from tl_distributed.errors import UserError
from tl_distributed.settings.config import Config

keras_hub = pytest.importorskip("keras_hub", reason="the extra hub is not installed: pip install -e .[hub]")

import keras  # noqa: E402
from hub_presets import FAMILIES, SIZE, save_preset  # noqa: E402

from tl_distributed.inference.saved import open_model  # noqa: E402
from tl_distributed.models.backbones import get_backbone  # noqa: E402
from tl_distributed.models.build import build_backbone  # noqa: E402
from tl_distributed.models.freezing import freeze_for  # noqa: E402
from tl_distributed.models.heads import build_classifier  # noqa: E402
from tl_distributed.models.layer_depths import backbone_blocks, rate_multipliers  # noqa: E402
from tl_distributed.training.run import train_and_evaluate  # noqa: E402


class Presets(dict):
    """What `--backbone` takes, by the family; each is saved when it is first asked for."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._folder = folder

    def __missing__(self, family: str) -> str:
        self[family] = save_preset(family, self._folder / family)
        return self[family]


@pytest.fixture(scope="module")
def presets(tmp_path_factory) -> Presets:
    return Presets(tmp_path_factory.mktemp("presets"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    counts = {"train": 24, "val": 12, "test": 12}
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=counts, size=SIZE)


def built(text: str, weights: str = "own"):
    return build_backbone(get_backbone(text), image_size=SIZE, weights=weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_keras_hubs_own(presets, family):
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)
    folder = presets[family].removeprefix("hub:")
    converter = keras_hub.layers.ImageConverter.from_preset(folder)
    own = keras_hub.models.Backbone.from_preset(folder)
    own = getattr(own, "vision_encoder", own)  # of images and texts
    expected = own(keras.tree.map_structure(lambda _: converter(images), own.input), training=False)
    model = built(presets[family])
    assert get_backbone(presets[family]).default_size == SIZE and model.input_shape == (None, SIZE, SIZE, 3)
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-4, atol=1e-4)
    random = built(presets[family], weights="none")(images, training=False)
    assert np.abs(np.asarray(random) - np.asarray(expected)).max() > 1e-2


def test_blocks_of_every_stage_are_layers(presets):
    model = built(presets["swin"])
    assert sum(type(layer).__name__ == "SwinTransformerBlock" for layer in model.layers) == 4
    classifier = build_classifier(model, num_classes=3, pooling="avg", head_units=(), dropout=0.0)
    freeze_for(classifier, "frozen", unfreeze_last_layers=0, unfreeze_from="")
    images = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)
    # A frozen backbone is a fixed function: its stochastic depth is off.
    np.testing.assert_allclose(classifier(images, training=True), classifier(images, training=False), rtol=1e-5)


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_each_block_of_a_transformer_is_a_layer(presets, family):
    model = build_classifier(built(presets[family]), num_classes=3, pooling="cls", head_units=(), dropout=0.0)
    freeze_for(model, "partial", unfreeze_last_layers=2, unfreeze_from="")
    trained = [layer for layer in model.layers if layer.trainable and layer.trainable_weights]
    kinds = [type(layer).__name__ for layer in trained]
    assert kinds[1:] == ["LayerNormalization", "Dense"] and kinds[0] in ("ViTEncoderBlock", "DINOV2Layer")
    freeze_for(model, "full", unfreeze_last_layers=0, unfreeze_from="")
    rates = rate_multipliers(model, 0.5)
    blocks = [layer for layer in model.layers if type(layer).__name__ in ("ViTEncoderBlock", "DINOV2Layer")]
    of_blocks = [{rates[id(variable)] for variable in block.trainable_variables} for block in blocks]
    assert of_blocks == [{0.125}, {0.25}, {0.5}] and len(backbone_blocks(model)) == 4  # and the embeddings


RUNS = {
    "frozen, banked, mirrored": (
        "vit", {"transfer": "frozen", "feature_bank": "on", "strategy": "mirrored", "pooling": "cls"}
    ),
    "partial, banked, XLA": (
        "dinov2", {"transfer": "partial", "unfreeze_last_layers": 2, "feature_bank": "on", "xla": "on"}
    ),
    "partial, banked, a CNN": ("resnet", {"transfer": "partial", "unfreeze_last_layers": 6, "feature_bank": "on"}),
    "full, bfloat16": ("vit", {"transfer": "full", "precision": "mixed_bfloat16", "layer_decay": 0.5}),
    "full, mirrored, XLA": ("dinov2", {"transfer": "full", "strategy": "mirrored", "xla": "on"}),
    "full, a CNN": ("resnet", {"transfer": "full", "strategy": "mirrored"}),
}  # fmt: skip


def config_of(presets, data_dir, workdir: pathlib.Path, family: str, **settings) -> Config:
    config = Config(
        data_dir=data_dir, workdir=str(workdir), backbone=presets[family],
        **{"augment": "none", "epochs": 2, "global_batch_size": 8, "finetune_learning_rate": 1e-3, "xla": "off",
           "strategy": "one_device", "precision": "float32", **settings},
    )  # fmt: skip
    config.validate()
    return config


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_and_the_saved_model_is_what_was_scored(presets, data_dir, tmp_path, name):
    family, settings = RUNS[name]
    config = config_of(presets, data_dir, tmp_path, family, **settings)
    results = train_and_evaluate(config)
    assert results["finished"] and np.isfinite(results["test_loss"])
    assert (tmp_path / "feature_bank").exists() == (settings.get("feature_bank") == "on")
    stored = np.load(tmp_path / "predictions_test.npz")
    assert len(stored["labels"]) == 12
    model = keras.models.load_model(tmp_path / "model.keras")  # stock Keras
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    expected = model(images, training=False)
    np.testing.assert_allclose(open_model(str(tmp_path)).predict(images), expected, rtol=1e-4, atol=1e-5)
    model.export(tmp_path / "exported", verbose=False)
    np.testing.assert_allclose(open_model(str(tmp_path / "exported")).predict(images), expected, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_where_it_stopped(presets, data_dir, tmp_path):
    settings = {"transfer": "full", "epochs": 2, "deterministic": False}
    whole = train_and_evaluate(config_of(presets, data_dir, tmp_path / "whole", "vit", **settings))
    part = train_and_evaluate(config_of(presets, data_dir, tmp_path / "part", "vit", **settings, max_steps=3))
    assert not part["finished"]
    resumed = train_and_evaluate(config_of(presets, data_dir, tmp_path / "part", "vit", **settings))
    assert resumed["finished"] and resumed["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-4)


def test_another_run_starts_from_its_weights(presets, data_dir, tmp_path, caplog):
    train_and_evaluate(config_of(presets, data_dir, tmp_path / "first", "dinov2", transfer="full", epochs=1))
    config = config_of(
        presets, data_dir, tmp_path / "second", "dinov2", transfer="full", epochs=1, weights=str(tmp_path / "first")
    )
    assert train_and_evaluate(config)["finished"]


def changed(preset: str, folder: pathlib.Path, name: str, change) -> str:
    """Copies a preset with one of its files changed; `None` leaves it out."""
    folder.mkdir()
    for path in pathlib.Path(preset.removeprefix("hub:")).iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    content = change(json.loads((folder / name).read_text()))
    (folder / name).unlink() if content is None else (folder / name).write_text(json.dumps(content))
    return f"hub:{folder}"


def test_mistakes_are_one_line(presets, tmp_path, monkeypatch):
    vit = presets["vit"]
    foreign = {"module": "os", "class_name": "system", "config": {}, "registered_name": "system"}
    cases = {
        changed(vit, tmp_path / "a", "config.json", lambda _: foreign): "config.json names os, and a preset is made of",
        changed(vit, tmp_path / "b", "image_converter.json", lambda _: foreign): "image_converter.json names os",
        changed(vit, tmp_path / "c", "image_converter.json", lambda _: None): "no image_converter.json in this folder",
        "hub:": "takes hub:PRESET or hub:FOLDER",
    }
    for text, message in cases.items():
        with pytest.raises(UserError, match=message):
            Config(backbone=text).validate()
    with pytest.raises(UserError, match="its weights are for --image_size=32"):
        build_backbone(get_backbone(vit), image_size=64, weights="own")
    with pytest.raises(UserError, match="--normalization is of a --backbone=MODULE:FUNCTION"):
        Config(backbone=vit, normalization="tf").validate()


def test_positions_of_dinov2_are_interpolated(presets):
    model = build_backbone(get_backbone(presets["dinov2"]), image_size=48, weights="own")
    assert model.output_shape == (None, 6 * 6 + 1 + 2, 16)


def test_the_licence_is_named(presets, tmp_path, caplog):
    text = changed(presets["vit"], tmp_path / "licensed", "config.json", lambda content: content)
    (tmp_path / "licensed" / "README.md").write_text("---\nlibrary_name: keras-hub\nlicense: apache-2.0\n---\n# ViT\n")
    with caplog.at_level("INFO", "tl_distributed"):
        built(text)
        built(presets["resnet"])
    assert (
        "licence of its weights apache-2.0" in caplog.text and "licence of its weights not named there" in caplog.text
    )
