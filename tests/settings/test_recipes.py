"""Recipes: each is read, says what it is, and trains; a later flag wins."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from toy_dataset import write_toy_dataset

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.settings.recipes import all_recipes, expand_recipes, read_recipe
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.training.run import train_and_evaluate

NAMES = {
    "densenet121_frozen", "vgg16_frozen", "convnext_tiny", "convnext_small", "vgg16_two_phase", "efficientnet_b0_study",
    "mobilenet_v2_study", "resnet50_full", "inception_v3_full", "convnext_tiny_best",
}  # fmt: skip
SINGLE = sorted(name for name in NAMES if not name.endswith("_study"))
TRIAL = ("--epochs=1", "--head_epochs=1", "--global_batch_size=8", "--strategy=one_device", "--xla=off")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A data set of 32 px, and random weights of the substitute backbone under a name that says pretrained."""
    folder = tmp_path_factory.mktemp("recipes")
    write_toy_dataset(folder / "data", counts={"train": 24, "val": 6, "test": 6}, size=32)
    weights = folder / "tiny_norm.weights.h5"
    build_backbone(get_backbone("tiny_norm"), image_size=32, weights="none").save_weights(weights)
    return folder, [f"--data_dir={folder / 'data'}", "--image_size=32", *TRIAL], f"--weights={weights}"


def parsed(*arguments: str) -> Config:
    config, _ = parse_arguments(Config, arguments)
    config.validate()
    return config


def test_every_recipe_of_the_list_is_there_and_described():
    recipes = {recipe.name: recipe for recipe in all_recipes()}
    assert set(recipes) == NAMES
    for recipe in recipes.values():
        assert 20 < len(recipe.summary) < 120
        assert recipe.is_study == recipe.name.endswith("_study")


@pytest.mark.parametrize("name", SINGLE)
def test_recipe_trains(toy, tmp_path, name):
    """With a small net in place of its backbone; everything else of it runs."""
    _, trial, weights = toy
    config = parsed(f"--recipe={name}", *trial, "--backbone=tiny_norm", weights, f"--workdir={tmp_path}")
    results = train_and_evaluate(config)
    assert results["finished"]
    assert results["steps"] == (6 if config.transfer == "two_phase" else 3)
    assert np.isfinite(results["test_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NAMES - set(SINGLE)))
def test_arms_of_study_recipe_train(toy, tmp_path, name):
    """The small CNN as it is, a small net in place of the pretrained ones."""
    _, trial, weights = toy
    for arm in make_plan(parse_arguments(StudyConfig, [f"--recipe={name}"])[0]).arms:
        workdir = tmp_path / arm.name
        scratch = arm.name == "baseline_cnn"
        small = [] if scratch else ["--backbone=tiny_norm", weights]
        partial = ["--unfreeze_last_layers=2"] if arm.name == "last_30" else []
        results = train_and_evaluate(parsed(*arm.arguments, *trial, *small, *partial, f"--workdir={workdir}"))
        assert results["finished"]
        assert np.isfinite(results["test_loss"])


@pytest.mark.slow
@pytest.mark.release
def test_densenet_recipe_leaves_an_h5_that_stock_keras_opens(toy, tmp_path):
    """With its own backbone, of random weights."""
    _, trial, _ = toy
    weights = tmp_path / "densenet121.weights.h5"
    build_backbone(get_backbone("densenet121"), image_size=32, weights="none").save_weights(weights)
    results = train_and_evaluate(
        parsed("--recipe=densenet121_frozen", *trial, f"--weights={weights}", f"--workdir={tmp_path / 'run'}")
    )
    assert results["trainable_parameters"] == 1024 * 256 + 256 + 256 * 3 + 3
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    script = (
        f"import keras, numpy; model = keras.models.load_model({str(tmp_path / 'run' / 'cifar10.h5')!r}); "
        f"numpy.save({str(tmp_path / 'out.npy')!r}, model.predict(numpy.load({str(tmp_path / 'in.npy')!r})))"
    )
    np.save(tmp_path / "in.npy", images)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=tmp_path)
    ours = keras.models.load_model(tmp_path / "run" / "model.keras").predict(images, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), ours, atol=1e-5)


def test_recipes_say_what_the_walk_throughs_say():
    densenet = parsed("--recipe=densenet121_frozen")
    assert (densenet.transfer, densenet.image_size, densenet.head_units) == ("frozen", 224, (256,))
    assert (densenet.pooling, densenet.optimizer, densenet.epochs) == ("avg", "adam", 10)
    assert densenet.weight_decay == densenet.label_smoothing == densenet.dropout == 0
    two_phase = parsed("--recipe=vgg16_two_phase")
    assert (two_phase.pooling, two_phase.head_units, two_phase.unfreeze_last_layers) == ("flatten", (128,), 4)
    assert (two_phase.head_epochs, two_phase.learning_rate) == (5, 1e-3)
    assert (two_phase.epochs, two_phase.finetune_learning_rate) == (3, 1e-5)
    for name in ("resnet50_full", "inception_v3_full", "convnext_tiny_best"):
        config = parsed(f"--recipe={name}")
        assert config.optimizer in ("sgd", "adamw")
        assert config.schedule == "cosine"
        assert min(config.warmup_epochs, config.label_smoothing, config.ema_decay) > 0
        assert config.layer_decay < 1
        assert config.augment_settings().mixes_images


def test_later_flag_wins_and_earlier_one_loses():
    assert parsed("--recipe=densenet121_frozen", "--epochs=3").epochs == 3
    assert parsed("--epochs=3", "--recipe=densenet121_frozen").epochs == 10
    assert parsed("--recipe", "densenet121_frozen", "--epochs=3").epochs == 3
    assert parsed("--recipe=densenet121_frozen").resolved(native_size=32).workdir == "runs/densenet121_frozen"


def test_recipe_inside_a_flagfile_is_expanded(tmp_path):
    path = tmp_path / "own.flags"
    path.write_text("# mine\n--recipe=vgg16_two_phase\n--head_epochs=2\n")
    config = parsed(f"--flagfile={path}", "--epochs=4")
    assert (config.backbone, config.head_epochs, config.epochs) == ("vgg16", 2, 4)


def test_wrong_recipes_end_in_one_line():
    with pytest.raises(UserError, match=r"--recipe=densenet_frozen: no such recipe; did you mean densenet121_frozen"):
        parsed("--recipe=densenet_frozen")
    with pytest.raises(UserError, match=r"--recipe=\.\./config: no such recipe"):
        read_recipe("../config")
    with pytest.raises(UserError, match=r"python -m tl_distributed\.study --recipe=mobilenet_v2_study"):
        parsed("--recipe=mobilenet_v2_study")
    with pytest.raises(UserError, match="is one arm"):
        expand_recipes(["--recipe=vgg16_frozen"], of_study=True)
    with pytest.raises(UserError, match="--recipe needs a name"):
        parsed("--epochs=3", "--recipe")


def test_list_prints_a_line_each(capsys):
    from tl_distributed.train import main

    main(parse_arguments(Config, ["--recipe=list"])[0], [])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == NAMES
    assert all(len(line) < 160 for line in lines)


def test_export_name_is_checked():
    with pytest.raises(UserError, match=r"--export_h5=model\.keras"):
        parsed("--export_h5=model.keras")
    with pytest.raises(UserError, match=r"--export_h5=\.\./model\.h5"):
        parsed("--export_h5=../model.h5")
