"""Backbones of KerasHub from presets in folders: features, blocks, licences, and what is wrong with a preset."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from tl_distributed.errors import UserError
from tl_distributed.settings.config import Config

keras_hub = pytest.importorskip("keras_hub", reason="the extra hub is not installed: pip install -e '.[hub]'")

import keras  # noqa: E402
from hub_presets import BLOCKS, FAMILIES, SIZE, Presets  # noqa: E402
from keras_hub.src.utils import preset_utils  # noqa: E402

from tl_distributed.models import hub_files  # noqa: E402
from tl_distributed.models.backbones import get_backbone  # noqa: E402
from tl_distributed.models.build import build_backbone  # noqa: E402
from tl_distributed.models.freezing import freeze_for, parameter_counts  # noqa: E402
from tl_distributed.models.heads import build_classifier, head_layers  # noqa: E402
from tl_distributed.models.layer_depths import backbone_blocks, rate_multipliers  # noqa: E402
from tl_distributed.models.weight_licences import weights_licence  # noqa: E402

pytestmark = pytest.mark.extra
BLOCK_CLASSES = {"vit": "ViTEncoderBlock", "dinov2": "DINOV2Layer", "dinov3": "DINOV3Layer"}


@pytest.fixture(scope="module")
def presets(tmp_path_factory) -> Presets:
    return Presets(tmp_path_factory.mktemp("presets"))


def built(text: str, weights: str = "own"):
    return build_backbone(get_backbone(text), image_size=SIZE, weights=weights)


def classifier(text: str, pooling: str = "avg"):
    return build_classifier(built(text), num_classes=3, pooling=pooling, head_units=(), dropout=0.0)


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.filterwarnings("error:When providing `inputs` as a dict")
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_keras_hubs_own(presets, family):
    folder = presets[family].removeprefix("hub:")
    converter = keras_hub.layers.ImageConverter.from_preset(folder)
    own = keras_hub.models.Backbone.from_preset(folder)
    own = getattr(own, "vision_encoder", own)  # of images and texts
    expected = own(keras.tree.map_structure(lambda _: converter(images()), own.input), training=False)
    model = built(presets[family])
    assert get_backbone(presets[family]).default_size == SIZE and model.input_shape == (None, SIZE, SIZE, 3)
    np.testing.assert_allclose(model(images(), training=False), expected, rtol=1e-4, atol=1e-4)
    outputs = [tensor for layer in model.layers for tensor in keras.tree.flatten(layer.output)]
    computed = keras.tree.flatten(keras.Model(model.input, outputs)(images(), training=False))
    for said, got in zip(outputs, computed, strict=True):  # which the bank and the count of operations go by
        assert said.shape[1:] == tuple(got.shape[1:]), said.name
    if family == "vit":  # --weights=none
        random = built(presets[family], weights="none")(images(), training=False)
        assert np.abs(np.asarray(random) - np.asarray(expected)).max() > 1e-2


@pytest.mark.parametrize("family", BLOCK_CLASSES)
def test_each_block_of_a_transformer_is_a_layer(presets, family):
    model = classifier(presets[family], "cls")
    freeze_for(model, "partial", unfreeze_last_layers=2, unfreeze_from="")
    trained = [layer for layer in model.layers if layer.trainable and layer.trainable_weights]
    assert [type(layer).__name__ for layer in trained] == [BLOCK_CLASSES[family], "LayerNormalization", "Dense"]
    freeze_for(model, "full", unfreeze_last_layers=0, unfreeze_from="")
    rates = rate_multipliers(model, 0.5)
    blocks = [layer for layer in model.layers if type(layer).__name__ == BLOCK_CLASSES[family]]
    of_blocks = [{rates[id(variable)] for variable in block.trainable_variables} for block in blocks]
    assert of_blocks == [{0.5 ** (BLOCKS - index)} for index in range(BLOCKS)]
    assert len(backbone_blocks(model)) == 1 + BLOCKS  # and the embeddings


def test_blocks_of_every_stage_of_swin_are_layers(presets, recwarn):
    text = presets["swin"]
    recwarn.clear()
    model = classifier(text)
    assert not [str(one.message) for one in recwarn if one.category is UserWarning]  # which each block is good for
    assert sum(type(layer).__name__ == "SwinTransformerBlock" for layer in model.layers) == 4
    freeze_for(model, "frozen", unfreeze_last_layers=0, unfreeze_from="")
    # A frozen backbone is a fixed function: its stochastic depth is off.
    np.testing.assert_allclose(model(images(), training=True), model(images(), training=False), rtol=1e-5)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_norms_and_biases_alone_train(presets, family):
    model = classifier(presets[family])
    freeze_for(model, "norms", unfreeze_last_layers=0, unfreeze_from="")
    of_head = {id(variable) for layer in head_layers(model) for variable in layer.variables}
    kinds = {variable.name for variable in model.trainable_variables if id(variable) not in of_head}
    assert kinds <= {"gamma", "beta", "bias"} and "gamma" in kinds and parameter_counts(model)[0] < 3000


def changed(preset: str, folder: pathlib.Path, name: str, change) -> str:
    """Copies a preset with one of its files changed; `None` leaves it out."""
    folder.mkdir()
    for path in pathlib.Path(preset.removeprefix("hub:")).iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    content = change(json.loads((folder / name).read_text()))
    (folder / name).unlink() if content is None else (folder / name).write_text(json.dumps(content))
    return f"hub:{folder}"


FOREIGN = {"module": "os", "class_name": "system", "config": {}, "registered_name": "system"}
LAMBDA = {"module": "builtins", "class_name": "__lambda__", "config": {"value": "4wAAAA=="}}


def of_texts(folder: pathlib.Path) -> str:
    keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    ).save_to_preset(str(folder))
    return f"hub:{folder}"


def test_mistakes_are_one_line(presets, tmp_path):
    vit = presets["vit"]
    within = lambda thing: lambda content: {**content, "config": {**content["config"], "name": thing}}  # noqa: E731
    (tmp_path / "empty").mkdir()
    cases = {
        changed(vit, tmp_path / "a", "config.json", lambda _: FOREIGN): "config.json names os, and a preset is made of",
        changed(vit, tmp_path / "b", "image_converter.json", lambda _: FOREIGN): "image_converter.json names os",
        changed(vit, tmp_path / "c", "image_converter.json", within([FOREIGN])): "image_converter.json names os",
        changed(vit, tmp_path / "d", "config.json", within(LAMBDA)): "config.json names builtins",
        changed(vit, tmp_path / "e", "config.json", lambda _: {"model_type": "vit"}): "not of KerasHub's format",
        of_texts(tmp_path / "f"): "no image_converter.json in this folder, so its BertBackbone is of no images",
        f"hub:{tmp_path}/empty": "no config.json in this folder",
        "hub:": "takes hub:PRESET or hub:FOLDER",
        "hub:dinov2_smal": "no such folder, and no preset of KerasHub; did you mean dinov2_small",
    }
    for text, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            Config(backbone=text).validate()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="its weights are for --image_size=32"):
        build_backbone(get_backbone(vit), image_size=64, weights="own")
    with pytest.raises(UserError, match="takes images of 32 x 32 pixels; give --image_size=32"):
        build_backbone(get_backbone(presets["siglip"]), image_size=64, weights="own")
    with pytest.raises(UserError, match="--normalization is of a --backbone=MODULE:FUNCTION"):
        Config(backbone=vit, normalization="tf").validate()
    broken = changed(vit, tmp_path / "g", "config.json", lambda content: content)
    (tmp_path / "g" / "model.weights.h5").write_bytes(b"no weights")
    with pytest.raises(UserError, match="KerasHub cannot make it"):
        built(broken)


def test_a_preset_that_cannot_be_had_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(preset_utils.kagglehub, "model_download", offline)
    with pytest.raises(UserError, match=r"cannot fetch its config.json \(no route to host\); without internet: "):
        Config(backbone="hub:vit_base_patch16_224_imagenet").validate()


def test_without_the_extra_its_install_line_is_told(presets, monkeypatch):
    hub_files.preset_image_size.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs keras-hub: pip install -e '\.\[hub\]' in the package's folder"):
        Config(backbone=presets["vit"]).validate()


def test_positions_of_dinov2_are_interpolated(presets):
    model = build_backbone(get_backbone(presets["dinov2"]), image_size=48, weights="own")
    assert model.output_shape == (None, 6 * 6 + 1 + 2, 16)


def test_licences_are_as_the_preset_names_them(presets, tmp_path, caplog):
    text = changed(presets["vit"], tmp_path / "licensed", "config.json", lambda content: content)
    (tmp_path / "licensed" / "README.md").write_text("---\nlibrary_name: keras-hub\nlicense: apache-2.0\n---\n# ViT\n")
    with caplog.at_level("INFO", "tl_distributed"):
        built(text)
    assert "Licence of its weights: apache-2.0, as its README.md says." in caplog.text
    assert "Their licence: apache-2.0, as its README.md says." in weights_licence(text, "own")
    assert "not named in its files: see where it is from" in weights_licence(presets["resnet"], "own")
    named = weights_licence("hub:vit_base_patch16_224_imagenet", "own")
    assert "not named in its files, see https://www.kaggle.com/models/keras/vit." in named


def test_a_preset_is_known_by_all_that_it_is_made_of(presets, tmp_path):
    same = lambda content: content  # noqa: E731
    text = changed(presets["vit"], tmp_path / "a", "config.json", same)
    before = hub_files.preset_sources(text)
    folder = tmp_path / "a"
    (folder / "metadata.json").write_text("{}")  # when it was saved, and by what
    assert list(before) == [text] and hub_files.preset_sources(text) == before
    for name, content in (
        ("image_converter.json", (folder / "image_converter.json").read_text().replace("-1.0", "-0.5")),
        ("model.weights.h5", "other weights"),
    ):
        (folder / name).write_text(content)
        after = hub_files.preset_sources(text)
        assert after != before
        before = after
