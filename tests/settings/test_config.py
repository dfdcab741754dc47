"""The settings of a run: defaults that depend on others, named augmentations, combinations that are refused."""

import dataclasses

import pytest

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES
from tl_distributed.pixels.augment_settings import AUGMENTATIONS, NAMED_AUGMENTATIONS, AugmentSettings
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments, to_arguments


def read(*arguments: str) -> Config:
    return parse_arguments(Config, arguments)[0]


def test_bare_command_is_valid_and_every_field_is_a_flag():
    config = read()
    config.validate()
    assert config == Config()
    assert all("topic" in field.metadata for field in dataclasses.fields(Config))


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if not name.startswith(("tiny", "own_"))])
def test_every_backbone_has_valid_defaults(backbone):
    config = read(f"--backbone={backbone}")
    config.validate()
    pretrained = backbone not in ("baseline_cnn", "resnet20")
    assert config.transfer_and_weights() == (("two_phase", "imagenet") if pretrained else ("scratch", "none"))


@pytest.mark.parametrize(
    ("arguments", "transfer", "weights"),
    [
        ("--transfer=scratch", "scratch", "none"),
        ("--weights=none", "scratch", "none"),
        ("--transfer=frozen", "frozen", "imagenet"),
        ("--weights=runs/pretrained", "two_phase", "runs/pretrained"),
        ("--backbone=baseline_cnn --weights=runs/pretrained", "two_phase", "runs/pretrained"),
        ("--backbone=resnet20 --weights=w.h5 --transfer=full", "full", "w.h5"),
        ("--transfer=partial --unfreeze_from=block_13_expand", "partial", "imagenet"),
    ],
)
def test_transfer_and_weights_follow_from_each_other(arguments, transfer, weights):
    config = read(*arguments.split())
    config.validate()
    resolved = config.resolved(native_size=32)
    assert (resolved.transfer, resolved.weights) == (transfer, weights)
    assert resolved.workdir == f"runs/{config.backbone}_{transfer}"
    resolved.validate()
    assert resolved.resolved(native_size=64) == resolved  # nothing is left open


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--backbone=mobilnet_v2", r"--backbone=mobilnet_v2: no such backbone; did you mean mobilenet_v2"),
        ("--backbone=ConvNeXt-Tiny", r"did you mean convnext_tiny"),
        ("--transfer=scratch --batch_norm=frozen", r"--batch_norm=frozen: --transfer=scratch trains BatchNorm"),
        ("--transfer=lora --batch_norm=train", r"--batch_norm=train has no effect with --transfer=lora"),
        ("--batch_norm=frozen --batch_norm_momentum=0.9", r"--batch_norm_momentum=0.9 has no effect with"),
        ("--backbone=qqqq", r"--backbone=qqqq: no such backbone; all: vgg16, .*resnet20"),
        (
            "--backbone=baseline_cnn --weights=imagenet",
            r"--weights=imagenet: baseline_cnn has none; use --weights=none",
        ),
        ("--transfer=scratch --weights=imagenet", r"--transfer=scratch trains random weights, but --weights=imagenet"),
        ("--transfer=scratch --weights=w.h5", r"--transfer=scratch trains random weights, but --weights=w.h5"),
        ("--transfer=frozen --weights=none", r"--transfer=frozen without pretrained weights"),
        ("--transfer=two_phase --backbone=baseline_cnn", r"--transfer=two_phase without pretrained weights"),
        ("--unfreeze_last_layers=3 --unfreeze_from=x", r"--unfreeze_last_layers=3 and --unfreeze_from=x name two"),
        ("--transfer=full --unfreeze_last_layers=3", r"--unfreeze_last_layers=3 has no effect with --transfer=full"),
        ("--transfer=scratch --unfreeze_from=x", r"--unfreeze_from=x has no effect with --transfer=scratch"),
        ("--transfer=partial", r"--transfer=partial needs --unfreeze_last_layers=N or --unfreeze_from=LAYER"),
        ("--backbone=inception_v3 --image_size=74", r"--image_size=74: inception_v3 takes 75 pixels or more"),
        ("--profile_steps=5", r"--profile_steps=5: takes two steps A,B with A < B"),
        ("--profile_steps=5,5", r"--profile_steps=5,5: takes two steps"),
        ("--profile_steps=-1,5", r"--profile_steps=-1,5: takes two steps"),
        ("--profile_steps=1,2,3", r"--profile_steps=1,2,3: takes two steps"),
        ("--head_units=64,0", r"--head_units=64,0: every layer takes 1 unit or more"),
        (
            "--global_batch_size=10 --virtual_devices=4",
            r"--global_batch_size=10 does not divide by --virtual_devices=4",
        ),
        ("--crop_padding_pixels=5000", r"--crop_padding_pixels=5000: takes at least 0 and at most 4096"),
    ],
)
def test_combinations_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        read(*arguments.split()).validate()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        "--transfer=two_phase --unfreeze_last_layers=3",
        "--backbone=inception_v3 --image_size=75",
        "--profile_steps=0,1",
        "--head_units=64,1",
        "--global_batch_size=12 --virtual_devices=4",
        "--global_batch_size=10 --virtual_devices=4 --strategy=one_device",
    ],
)
def test_their_neighbours_are_not(arguments):
    read(*arguments.split()).validate()


@pytest.mark.parametrize("name", NAMED_AUGMENTATIONS)
def test_named_augmentations_are_taken_whole_and_flags_are_put_over_them(name):
    named = NAMED_AUGMENTATIONS[name]
    assert read(f"--augment={name}").augment_settings() == named
    changed = read(f"--augment={name}", "--mixup=0.3", "--cutmix=0", "--nohorizontal_flip", "--zoom_fraction=0.1")
    expected = dataclasses.replace(named, mixup=0.3, cutmix=0.0, horizontal_flip=False, zoom_fraction=0.1)
    assert changed.augment_settings() == expected


def test_every_augmentation_has_its_flag():
    strengths = {}
    for number, (name, field) in enumerate(AUGMENTATIONS.items(), start=1):  # another for each
        off, lowest = field.metadata["strengths"]["none"], field.metadata["minimum"]
        if isinstance(off, bool):
            strengths[name] = not off
        else:
            strengths[name] = off + number * (1 if isinstance(off, int) else 0.01) * (1 if off == lowest else -1)
    different = AugmentSettings(augment="none", **strengths)
    config = read("--augment=none", *(f"--{name}={value}" for name, value in strengths.items()))
    config.validate()
    assert config.augment_settings() == different
    assert config.resolved(native_size=32).augment_settings() == different


def test_resolved_spells_out_the_named_set():
    resolved = read("--augment=strong", "--rotation_degrees=0").resolved(native_size=32)
    strong = NAMED_AUGMENTATIONS["strong"]
    assert (resolved.mixup, resolved.cutmix) == (strong.mixup, strong.cutmix)
    assert resolved.rotation_degrees == 0 and resolved.resized_crop_min_area == strong.resized_crop_min_area
    assert None not in dataclasses.asdict(resolved).values()


@pytest.mark.parametrize(
    ("arguments", "image_size"),
    [
        ("--backbone=inception_v3", 299),
        ("--backbone=mobilenet_v2", 224),
        ("--backbone=mobilenet_v2 --image_size=96", 96),
        ("--backbone=baseline_cnn --image_size=48", 48),
    ],
)
def test_image_size_is_the_flags_or_the_backbones(arguments, image_size):
    assert read(*arguments.split()).resolved(native_size=40).image_size == image_size


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ("", "frozen"),
        ("--transfer=full", "frozen"),
        ("--transfer=lora", "frozen"),
        ("--transfer=partial --unfreeze_last_layers=3", "frozen"),
        ("--transfer=full --batch_norm=train", "train"),
        ("--transfer=full --batch_norm_momentum=0.9", "train"),  # whoever sets it wants the statistics to move
        ("--transfer=scratch", "train"),
        ("--transfer=norms", "train"),
    ],
)
def test_batch_norm_stays_where_pretrained_weights_are_fine_tuned(arguments, mode):
    config = read(*arguments.split())
    config.validate()
    assert config.resolved(native_size=32).batch_norm == mode


def test_workdir_of_ones_own_is_kept():
    assert read("--workdir=gs://bucket/run").resolved(native_size=32).workdir == "gs://bucket/run"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--backbone=resnet50", "--transfer=partial", "--unfreeze_last_layers=30", "--learning_rate=1e-5"),
        ("--recipe=convnext_tiny_best", "--data_dir=data/my, photos", "--warmup_epochs=0.25"),
        ("--workers=a:1,b:2", "--worker_index=1", "--profile_steps=2,4", "--ema_decay=0.999", "--deterministic"),
    ],
)  # fmt: skip
def test_arguments_of_settings_make_the_same_settings(arguments):
    config = dataclasses.replace(read(*arguments), recipe="")  # of which the settings are what became
    assert read(*to_arguments(config)) == config
    resolved = config.resolved(native_size=32)
    assert read(*to_arguments(resolved)) == resolved
