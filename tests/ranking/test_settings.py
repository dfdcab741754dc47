"""Which candidates the flags name, and what is refused before any device is touched."""

import pytest

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES
from tl_distributed.ranking.settings import RankConfig


def candidates(*backbones: str, **flags) -> dict[str, tuple[str, str]]:
    found = RankConfig(backbones=backbones, **flags).candidates()
    return {one.name: (one.backbone, one.weights) for one in found}


def test_names_say_backbone_and_weights():
    assert candidates("vgg16", "vgg16@runs/a@b", "vgg16:random", "vgg16", weights="weights") == {
        "vgg16": ("vgg16", "weights"),
        "vgg16@runs/a@b": ("vgg16", "runs/a@b"),
        "vgg16:random": ("vgg16", "none"),
    }
    assert candidates("own_networks:functional") == {"own_networks:functional": ("own_networks:functional", "own")}


def test_all_is_every_backbone_with_weights():
    found = candidates("mobilenet_v2@file", "all", "vgg16")
    assert len(found) == 1 + sum(row.has_imagenet_weights for row in BACKBONES.values())
    assert "baseline_cnn" not in found and found["vgg16"] == ("vgg16", "imagenet")


def test_folders_of_candidates_differ_and_are_names():
    found = RankConfig(backbones=("vgg16", "vgg16@a/b", "vgg16@a_b", "vgg16:random")).candidates()
    folders = {one.folder for one in found}
    assert len(folders) == 4 and all(folder.count("/") == 1 and ":" not in folder for folder in folders)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"backbones": ()}, "--backbones: name some"),
        ({"backbones": ("vgg61",)}, "--backbones=vgg61: no such backbone; did you mean vgg19"),
        ({"backbones": ("vgg16@",)}, "--backbones=vgg16@: takes NAME, NAME@PATH or NAME:random"),
        ({"backbones": ("vgg16:random@x",)}, "--backbones=vgg16:random"),
        ({"backbones": ("nowhere:net",)}, "--backbones=nowhere:net: no module nowhere"),
        ({"backbones": ("own_networks:functional:random",)}, "has the weights that its function returns"),
        ({"backbones": ("own_networks:functional",)}, "--backbones: MODULE:FUNCTION needs --normalization"),
        ({"backbones": ("vgg16",), "weights": "none"}, "--weights=none: takes imagenet or a folder"),
        ({"backbones": ("vgg16",), "batch_size": 5, "virtual_devices": 2}, "--batch_size=5 does not divide"),
    ],
)
def test_mistakes_are_named(flags, message):
    with pytest.raises(UserError) as raised:
        RankConfig(**flags).validate()
    assert message in str(raised.value)
