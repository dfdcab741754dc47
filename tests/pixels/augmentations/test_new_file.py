"""A new augmentation is one file: dropped into a copy of the package, it has its flag and works."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from augmented import random_images
from paths import REPO

INVERT = '''
"""Inverts a share of the images."""

import dataclasses

from tl_distributed.pixels.augmentation import strength

ORDER, DRAWS = 10, (1000,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    invert_probability: float | None = strength("Share inverted", none=0.0, strong=0.5, minimum=0, maximum=1)


def change_output(images, uniforms, settings):
    import tensorflow as tf

    return tf.where(uniforms[0][:, None, None, None] < settings.invert_probability, 255.0 - images, images)
'''
USE = """
import dataclasses, json, sys
import numpy as np
import tensorflow as tf
from tl_distributed.pixels.augment import NAMED_AUGMENTATIONS, augment_batch
from tl_distributed.pixels.seeds import per_image_seeds
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.training.workdir import settings_of

images = np.load("images.npy")
def augment(settings):
    seeds = per_image_seeds(0, 0, tf.range(len(images)))
    return augment_batch(
        images, tf.zeros(len(images), tf.int32), seeds, settings=settings, image_size=images.shape[1], num_classes=2
    )[0]

config = parse_arguments(Config, ["--augment=none", "--invert_probability=0.25"])[0].resolved(native_size=32)
rate = augment(config.augment_settings())
all_of_them = augment(dataclasses.replace(NAMED_AUGMENTATIONS["none"], invert_probability=1.0))
np.savez("found.npz", rate=rate, all_of_them=all_of_them)
print(json.dumps({
    "config": dataclasses.asdict(config),
    "strengths": {name: settings.strengths() for name, settings in NAMED_AUGMENTATIONS.items()},
    "older_run": settings_of({"augment": "strong"}),
}))
"""


ENVIRONMENT = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPO / "tl_distributed", folder / "tl_distributed")
    (folder / "tl_distributed/pixels/augmentations/invert.py").write_text(INVERT)
    return folder


def run(folder, *arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_train_has_its_flag(copy):
    names = [line.strip() for line in run(copy, "-m", "tl_distributed.train", "--help").stdout.splitlines()]
    assert names.index("--invert_probability") > names.index("--cutmix")  # the youngest comes last


def test_runs_keep_it_and_pixels_show_it(copy):
    images = random_images(400, 4, 4)
    np.save(copy / "images.npy", images)
    done = run(copy, "-c", USE)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["config"]["invert_probability"] == 0.25  # what a run saves as config.json
    assert [said["strengths"][name]["invert_probability"] for name in ("none", "basic", "strong")] == [0, 0, 0.5]
    assert said["older_run"]["invert_probability"] == 0  # a run of before, which did not have it, may go on
    found = np.load(copy / "found.npz")
    np.testing.assert_array_equal(found["all_of_them"], 255.0 - images)
    inverted = np.all(found["rate"] == 255.0 - images, axis=(1, 2, 3))
    np.testing.assert_array_equal(found["rate"][~inverted], images[~inverted])
    assert inverted.mean() == pytest.approx(0.25, abs=0.07)


def test_a_draw_that_is_taken_is_refused(copy):
    clash = copy / "tl_distributed/pixels/augmentations/clash.py"
    clash.write_text(INVERT.replace("1000", "9"))
    done = run(copy, "-m", "tl_distributed.train", "--help")
    clash.unlink()
    assert (
        done.returncode != 0 and ".clash and tl_distributed.pixels.augmentations.zoom both have draw 9" in done.stderr
    )
