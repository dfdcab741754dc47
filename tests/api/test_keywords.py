"""Keywords mean what the flags of the same names mean, and are refused in the same words."""

import pathlib

import pytest

import tl_distributed as tl
from tl_distributed.api.keywords import as_arguments, checked, settings_of
from tl_distributed.api.run import _config
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments


def test_keywords_are_flags():
    made = settings_of(Config, {
        "backbone": "densenet121", "epochs": 3, "learning_rate": 1e-3, "horizontal_flip": True, "head_units": (64, 32),
        "data_dir": pathlib.Path("~/photos"), "weights": None, "reset_head": False,
    })  # fmt: skip
    expected, _ = parse_arguments(Config, [
        "--backbone=densenet121", "--epochs=3", "--learning_rate=1e-3", "--horizontal_flip", "--head_units=64,32",
        "--data_dir=~/photos",
    ])  # fmt: skip
    assert made == expected and made.data_dir == str(pathlib.Path.home() / "photos")


def test_what_is_given_wins_over_a_recipe_wherever_it_stands():
    recipe = settings_of(Config, {"recipe": "vgg16_frozen"})
    made = settings_of(Config, {"epochs": recipe.epochs + 1, "recipe": "vgg16_frozen"})
    assert (made.backbone, made.epochs) == ("vgg16", recipe.epochs + 1)
    assert as_arguments({"epochs": 1, "recipe": "x"}) == ["--recipe=x", "--epochs=1"]


@pytest.mark.parametrize(("flags", "line"), [
    ({"bakbone": "vgg16"}, "bakbone"),
    ({"epochs": "three"}, "epochs"),
    ({"dropout": 2.0}, "dropout"),
    ({"recipe": "vgg_frozen"}, "no such recipe; did you mean"),
    ({"recipe": "list"}, "--recipe=list"),
])  # fmt: skip
def test_mistakes_are_user_errors(flags, line):
    with pytest.raises(tl.UserError, match=line) as error:
        tl.train(**flags)
    assert "\n" not in str(error.value)


def test_a_config_is_read_as_flags_are():
    assert checked(Config(epochs="3", data_dir="~/x")).data_dir == str(pathlib.Path.home() / "x")
    assert checked(Config(epochs="3")).epochs == 3
    with pytest.raises(tl.UserError, match="dropout"):
        tl.train(Config(dropout=3.0))
    with pytest.raises(tl.UserError, match="such backbone; did you mean mobilenet_v2"):
        tl.train(Config(backbone="mobilenetv2"))


def test_flags_change_a_config():
    made = _config(Config(recipe="vgg16_frozen", backbone="resnet20", epochs=3), {"epochs": 4})
    assert (made.backbone, made.epochs, made.recipe) == ("resnet20", 4, "vgg16_frozen")  # the recipe is a label here
    with pytest.raises(tl.UserError, match="epoch"):
        _config(Config(), {"epoch": 4})
    with pytest.raises(tl.UserError, match="drop one of them"):
        _config(Config(), {"recipe": "vgg16_frozen"})
    with pytest.raises(tl.UserError, match=r"takes a tl\.Config"):
        tl.train({"epochs": 3})
