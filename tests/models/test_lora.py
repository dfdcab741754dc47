"""LoRA: the network as it was before the first step, updates that train alone, and saved kernels that hold them."""

import json

import keras
import numpy as np
import own_networks
import pytest
from keras import layers
from tiny_runs import assert_identical
from toy_dataset import write_toy_dataset

import tl_distributed as tl
from tl_distributed.errors import UserError
from tl_distributed.inference.packaging import package_model
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.freezing import freeze_for, parameter_counts
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.models.heads import build_classifier
from tl_distributed.models.lora import enable_lora, merged_weights

SIZE = 16
MODES = {"unfreeze_last_layers": 0, "unfreeze_from": ""}


def many_kinds(image_size: int) -> keras.Model:
    """Every kind of layer: with LoRA, inside of another layer, depthwise and grouped; dropout and a norm between."""
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(8, 3, strides=4, padding="same", name="plain")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=8, name="grouped")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="pointwise")(x)
    x = layers.Reshape((-1, 6))(x)
    x = layers.MultiHeadAttention(2, 3, dropout=0.5, name="attention")(x, x)
    x = layers.Dropout(0.5)(layers.Dense(7, name="dense")(x))
    return keras.Model(inputs, x, name="many")


def classifier(backbone: keras.Model) -> keras.Model:
    return build_classifier(backbone, num_classes=3, pooling="avg", head_units=(), dropout=0.0)


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, SIZE, SIZE, 3)).astype(np.float32)


def drawn(model: keras.Model) -> keras.Model:
    """Gives every variable a value of its own, as after some training."""
    generator = np.random.default_rng(1)
    for variable in model.weights:
        if "seed_generator" not in variable.path:
            variable.assign(generator.uniform(0.1, 0.4, variable.shape))
    return model


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(
        tmp_path_factory.mktemp("lora") / "toy", counts={"train": 48, "val": 12, "test": 12}, size=SIZE
    )


def flags(data_dir, workdir, **changes) -> dict:
    return {
        "data_dir": data_dir, "workdir": str(workdir), "augment": "none", "epochs": 3, "global_batch_size": 12,
        "learning_rate": 0.01, "strategy": "one_device", "precision": "float32", "xla": "off", "model": many_kinds,
        "normalization": "tf", "pretrained": True, "transfer": "lora", "lora_rank": 2, **changes,
    }  # fmt: skip


def test_before_the_first_step_outputs_are_equal_and_all_kernels_are_told():
    model = classifier(many_kinds(SIZE))
    before = model(images(), training=False).numpy()
    line = enable_lora(model, 2)
    np.testing.assert_array_equal(before, model(images(), training=False))
    assert line == (
        "LoRA: updates of rank 2 in 2 Conv2D and 4 EinsumDense and 1 Dense; 1 DepthwiseConv2D and 1 grouped Conv2D "
        "cannot have them and stay frozen."
    )


def test_updates_and_the_head_train_alone_and_the_rest_infers():
    model = classifier(many_kinds(SIZE))
    enable_lora(model, 2)
    freeze_for(model, "lora", **MODES)
    head = {variable.path for variable in model.get_layer("head_logits").variables}
    trained = {variable.path for variable in model.trainable_variables}
    assert {path.rsplit("/", 1)[1] for path in trained - head} == {"lora_kernel_a", "lora_kernel_b"}
    assert head < trained and len(trained - head) == 2 * 7
    counts = 2 * (27 + 8) + 2 * (8 + 6) + 3 * 2 * (6 * 2 + 3) + 2 * (2 * 3 + 6) + 2 * (6 + 7)
    assert parameter_counts(model)[0] == counts + 7 * 3 + 3
    first, second = (model(images(), training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout, no statistics of the batch
    np.testing.assert_allclose(first, model(images(), training=False), atol=1e-6)
    freeze_for(model, "frozen", **MODES)
    assert {variable.path for variable in model.trainable_variables} == head


@pytest.mark.parametrize("fused", [False, True])
def test_merged_equals_unmerged(fused):
    model = classifier(many_kinds(SIZE))
    enable_lora(model, 2)
    drawn(model)
    if fused:
        use_fused_kernels(model)
    packaged = package_model(model, normalization="internal", native_shape=(SIZE, SIZE, 3), image_size=SIZE)
    pixels = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    expected = keras.ops.softmax(model(pixels.astype(np.float32), training=False))
    np.testing.assert_allclose(packaged(pixels, training=False), expected, atol=1e-5)
    assert 'lora_rank": 2' not in json.dumps(packaged.get_config(), default=str)
    assert not [weight.path for weight in packaged.weights if "lora" in weight.path]


def test_a_rank_is_at_most_that_of_the_kernel():
    model = classifier(many_kinds(SIZE))
    enable_lora(model, 100)
    shapes = {
        layer.name: tuple(layer.lora_kernel_b.shape) for layer in model.layers if getattr(layer, "lora_enabled", False)
    }
    assert shapes == {"plain": (8, 8), "pointwise": (6, 6), "dense": (6, 7)}


def test_without_updates_weights_are_those_of_the_model():
    model = classifier(many_kinds(SIZE))
    for merged, weight in zip(merged_weights(model), model.get_weights(), strict=True):
        np.testing.assert_array_equal(merged, weight)


def test_mobilenet_has_its_pointwise_convolutions():
    model = classifier(build_backbone(get_backbone("mobilenet_v2"), image_size=32, weights="none"))
    line = enable_lora(model, 4)
    assert line == "LoRA: updates of rank 4 in 35 Conv2D; 17 DepthwiseConv2D cannot have them and stay frozen."


def test_no_layer_can_have_one():
    inputs = keras.Input((SIZE, SIZE, 3))
    model = classifier(keras.Model(inputs, layers.DepthwiseConv2D(3)(inputs), name="depthwise"))
    with pytest.raises(UserError, match="no Dense, EinsumDense or convolution that can have it"):
        enable_lora(model, 2)


@pytest.mark.parametrize("changes", [
    pytest.param({}, id="one"),
    pytest.param({"strategy": "mirrored"}, id="mirrored", marks=pytest.mark.slow),
    pytest.param({"xla": "on"}, id="xla", marks=pytest.mark.slow),
    pytest.param({"precision": "mixed_bfloat16"}, id="bfloat16", marks=pytest.mark.slow),
    pytest.param({"model": own_networks.subclassed, "pooling": "cls"}, id="subclassed", marks=pytest.mark.slow),
    pytest.param({"ema_decay": 0.9, "strategy": "mirrored", "layer_decay": 0.9}, id="averaged"),
])  # fmt: skip
def test_a_run_trains_and_its_saved_model_scores_the_same(data_dir, tmp_path, changes):
    run = tl.train(**flags(data_dir, tmp_path / "run", **changes))
    tolerance = 2e-2 if "precision" in changes else 1e-4
    assert run.model.evaluate(data_dir)["loss"] == pytest.approx(run.results["test_loss"], abs=tolerance)
    losses = [row["loss"] for row in run.history if "loss" in row]
    assert losses[-1] < losses[0]
    assert run.results["trainable_parameters"] < run.results["parameters"]
    saved = run.model.keras
    assert not [weight.path for weight in saved.weights if "lora" in weight.path]


@pytest.mark.slow
def test_replicas_train_as_one_device_does(data_dir, tmp_path):
    runs = [
        tl.train(**flags(data_dir, tmp_path / name, strategy=name, epochs=1, dropout=0.0))
        for name in ("one_device", "mirrored")
    ]
    losses = [[row["loss"] for row in run.history if "loss" in row] for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(data_dir, tmp_path):
    whole = tl.train(**flags(data_dir, tmp_path / "whole", checkpoint_every_steps=2))
    tl.train(**flags(data_dir, tmp_path / "parts", checkpoint_every_steps=2, max_steps=6))
    assert_identical(whole.workdir, tl.train(**flags(data_dir, tmp_path / "parts", checkpoint_every_steps=2)).workdir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_bank": "on"}, "--transfer=lora trains something in the backbone's first layers"),
        ({"transfer": "full"}, "--lora_rank=2 has no effect with --transfer=full"),
        ({"pretrained": False}, "--transfer=lora without pretrained weights would keep random ones"),
        ({"lora_rank": 0}, "--lora_rank=0"),
    ],
)
def test_what_cannot_be_meant(data_dir, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tl.train(**flags(data_dir, tmp_path / "run", **changes))
