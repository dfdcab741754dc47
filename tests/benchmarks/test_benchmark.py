"""The measuring instrument: each contender for a few tiny steps, and the command."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from paths import REPO
from toy_dataset import write_toy_dataset

from tl_distributed.benchmarks import memory, processes, random_images, step_contenders
from tl_distributed.benchmarks.contenders import building, keras_input, keras_step, ours_step, pixels, reading
from tl_distributed.benchmarks.growth_plot import plot_growth
from tl_distributed.benchmarks.settings import InputConfig, StepConfig
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError

# --- statistics and tables


def test_peak_is_of_what_was_held(tmp_path):
    memory.reset_peak()
    before = memory.peak_bytes()
    held = np.ones(40_000_000, np.uint8)
    assert memory.resident_bytes() >= before - 5_000_000 + held.nbytes
    del held
    assert memory.peak_bytes() - before > 35_000_000


# --- contenders


STEP = {
    "backbone": "tiny_norm", "image_size": 16, "native_size": 8, "images": 12, "global_batch_size": 4,
    "augment": "basic", "precision": "float32", "replicas": 0, "mode": "train", "folder": "", "augment_in_map": False,
    "jit_compile": False, "library": "keras", "jax": False, "clustered": False,
}  # fmt: skip


def ours(mode: str, input_mode: str = "memory"):
    config = {
        "backbone": "tiny_norm", "weights": "none", "transfer": "scratch", "image_size": 16, "global_batch_size": 4,
        "augment": "basic", "precision": "float32", "strategy": "one_device",
        "input_mode": input_mode,
    }  # fmt: skip
    return ours_step.start({"config": config, "replicas": 1, "images": 12, "native_size": 8, "mode": mode})


@pytest.mark.parametrize(("input_mode", "num_bytes"), [("memory", 8 * 8 * 3 + 4), ("device", 8)])
def test_our_contender_does_the_steps_that_it_says(input_mode, num_bytes):
    contender = ours("train", input_mode)
    contender.warm_up()
    found = contender.block(5)
    assert found["done"] == 5 * 4 and found["seconds"] > 0
    assert int(contender._loop._step.optimizer.iterations.numpy()) == 2 + 5
    assert contender.facts["bytes_to_device_per_image"] == num_bytes


@pytest.mark.parametrize("kind", ["best", "tutorial", "tutorial_map"])
def test_keras_contender_does_the_steps_that_it_says(tmp_path, kind):
    settings = dict(STEP)
    if kind != "best":
        config = StepConfig(backbone="resnet20", image_size=16, native_size=8, images=12, global_batch_size=4)
        step_contenders.write_image_folder(str(tmp_path), config)
        settings |= {"folder": str(tmp_path), "jit_compile": "auto", "augment_in_map": kind == "tutorial_map"}
    contender = keras_step.start(settings)
    contender.warm_up()
    found = contender.block(5)  # beyond the end of an epoch of three
    assert found["done"] == 5 * 4 and found["seconds"] > 0
    model = contender._gate.model
    assert int(model.optimizer.iterations.numpy()) == 2 + 5
    floats = 16 * 16 * 3 * 4
    assert contender.facts["bytes_to_device_per_image"] == floats + 4
    assert contender.facts["macs_per_image"] == ours("train").facts["macs_per_image"]
    assert contender.facts["parameters"] == ours("train").facts["parameters"]


def test_forward_mode():
    contenders = [ours("forward"), keras_step.start({**STEP, "mode": "forward"})]
    for contender in contenders:
        contender.warm_up()
        assert contender.block(3)["done"] == 12


def test_an_error_inside_fit_is_not_waited_for():
    contender = keras_step.start(STEP)
    contender._gate.on_train_batch_begin = lambda batch, logs=None: 1 / 0
    with pytest.raises(ZeroDivisionError):
        contender.warm_up()


def test_crop_shows_a_window_of_the_padded_image():
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    cropped = keras_input.random_crop(tf.constant(images)).numpy()
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)], mode="symmetric")
    for before, after in zip(padded, cropped, strict=True):
        windows = [before[row : row + 8, column : column + 8] for row in range(9) for column in range(9)]
        assert any((window == after).all() for window in windows)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("set") / "data", counts={"train": 50})


@pytest.mark.parametrize("kind", ["memory", "disk", "bare", "bare_parallel", "idiom", "resize_on_cpu"])
def test_readers_read_whole_epochs(toy_data, kind):
    settings = {
        "kind": kind, "data_dir": toy_data, "global_batch_size": 8, "image_size": 24,
    }  # fmt: skip
    contender = reading.start(settings)
    contender.warm_up()
    found = contender.block(0.0)
    assert found["done"] == 48 and found["seconds"] > 0
    assert found["peak_bytes"] >= contender.facts["base_bytes"] * 0.5 and contender.facts["split_bytes"] == 50 * 768
    if kind == "idiom":
        info = read_manifest(toy_data)
        labels = np.concatenate([y for _, y in reading._idiom({**settings, "global_batch_size": 5}, info).take(10)])
        assert np.bincount(labels).tolist() == [17, 17, 16]  # every example once an epoch


@pytest.mark.parametrize("kind", ["ours", "tfds_png", "tfds_raw"])
def test_builders_build_and_take_it_away(tmp_path, kind):
    settings = {"kind": kind, "writers": 1, "records": 60, "native_size": 8, "num_shards": 2, "folder": str(tmp_path)}
    contender = building.start(settings)
    assert contender.block(1)["done"] == 60
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["ours_xla", "ours_no_xla", "tf_image_no_xla", "keras_graph", "keras_tf_data"])
def test_pixels_are_of_the_size_and_range_that_they_should_be(kind):
    contender = pixels.start({"kind": kind, "native_size": 8, "image_size": 12, "batch_size": 3})
    assert contender.block(2)["done"] == 6
    if kind == "keras_tf_data":
        made = next(iter(contender._dataset)).numpy()
    else:
        made = contender._prepare(contender._images, contender._labels, tf.constant(1)).numpy()
    assert made.shape == (3, 12, 12, 3) and made.dtype == np.float32
    assert made.min() >= -1e-3 and 100 < made.max() <= 255.01 and np.isfinite(made).all()


def test_random_images_are_the_same_everywhere():
    first, again = random_images.random_images(5, 8), random_images.random_images(5, 8)
    assert all((a == b).all() for a, b in zip(first, again, strict=True)) and first[0].shape == (5, 8, 8, 3)


def test_growth_plot(tmp_path):
    path = tmp_path / "growth.png"
    plot_growth(str(path), [1000, 10_000], [[3.0, 4.0], [3.5, 3.6]], [40.0, 41.0])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_torch_without_torchvision():
    torch = pytest.importorskip("torch", reason="an extra: pip install -e .[bench]")
    from tl_distributed.benchmarks.contenders import torch_step

    settings = {**STEP, "backbone": "mobilenet_v2", "image_size": 32, "compile": False, "threads": 1}
    contender = torch_step.start(settings)
    assert contender.facts["parameters"] == 2_223_872 + 12_810  # as keras.applications counts, trainable, and a head
    contender.warm_up()
    assert contender.block(2)["done"] == 8 and math.isfinite(contender._loss.item())
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    assert torch_step._augmented(images).shape == images.shape


# --- the command


def run(*arguments: str, **options):
    command = [sys.executable, "-m", "tl_distributed.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=300, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["leap"], "error: sub-command 'leap': takes one of input, pixels, step, frozen, startup, scaling, peers"),
        (["step", "--bogus=1"], "error: Unknown command line flag 'bogus'"),
        (["step", "--backbone=mobilenet_v9"], "error: --backbone=mobilenet_v9: no such backbone"),
        (["step", "--contenders=jax"], "error: --contenders=jax: here there are ours, keras_tutorial"),
        (["step", "--replicas=3"], "error: --global_batch_size=64 does not divide by --replicas=3"),
        (["step", "--output=/no/such/folder/x.json"], "error: --output=/no/such/folder/x.json: no such folder"),
        (["step", "--images=3"], "error: --images=3 do not fill a batch of --global_batch_size=64"),
        (["peers", "stray"], "error: unexpected argument 'stray'"),
        (["frozen"], "error: --weights: frozen and partial train on pretrained features"),
        (["scaling", "--replica_counts=3"], "error: --global_batch_size=64 does not divide by 3 replicas"),
        (["input", "--records=100"], "error: 100 records do not fill a batch of --global_batch_size=256"),
        (["input", "--what=growth", "--contenders=x"], "error: --contenders: --what=growth has one"),
        (["pixels", "--contenders=x"], "error: --contenders=x: here there are ours_xla"),
        (["startup", "--image_size=16"], "error: --image_size=16: mobilenet_v2 takes 32 pixels or more"),
    ],
)
def test_mistakes_are_one_line_and_cost_no_tensorflow(arguments, line):
    check = "import sys, runpy; sys.argv[1:] = sys.argv[1:]\n"
    check += "try: runpy.run_module('tl_distributed.benchmark', run_name='__main__', alter_sys=True)\n"
    check += "finally: assert 'tensorflow' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", check, *arguments], capture_output=True, text=True, cwd=REPO, timeout=60, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["input", "pixels", "step", "frozen", "startup", "scaling", "peers"])
def test_help_of_every_subcommand(name):
    done = run(name, "--help")
    assert done.returncode == 0 and "--repeats" in done.stdout and "--output" in done.stdout
    assert f"  {name} " in run("--help").stdout


def test_pixels_for_real(tmp_path):
    output = tmp_path / "pixels.json"
    done = run(
        "pixels", "--contenders=ours_no_xla,tf_image_no_xla", "--native_size=8", "--image_size=12", "--batch_size=2",
        "--batches=2", "--repeats=2", f"--output={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads(output.read_text())
    assert [entry["status"] for entry in content["contenders"]] == ["measured"] * 2
    assert len(content["times_as_fast"]["ours_no_xla"]["tf_image_no_xla"]["turns"]) == 2


@pytest.mark.slow
def test_input_for_real(tmp_path):
    output, folder = tmp_path / "input.json", tmp_path / "sets"
    flags = ("--num_shards=2", "--seconds=0.1", "--repeats=2", f"--folder={folder}", f"--output={output}")
    done = run("input", "--records=600", "--image_size=48", *flags)
    assert done.returncode == 0, done.stderr
    content = json.loads(output.read_text())
    assert [entry["status"] for entry in content["contenders"]] == ["measured"] * len(content["contenders"])
    plot = tmp_path / "growth.png"
    done = run("input", "--what=growth", "--growth_records=300,600", f"--plot={plot}", *flags)
    assert done.returncode == 0 and plot.exists(), done.stderr


@pytest.mark.slow
def test_step_startup_and_scaling_for_real(tmp_path):
    small = ("--backbone=resnet20", "--image_size=32", "--global_batch_size=8", "--repeats=2")
    steps = ("--images=32", "--steps=2", "--torch_python=" + sys.executable)
    for name, flags in {
        "peers": steps,
        "step": ("--replicas=2", *steps),
        "scaling": ("--replica_counts=1,2", "--worker_counts=2", *steps),
    }.items():
        output = tmp_path / f"{name}.json"
        done = run(name, *small, *flags, f"--output={output}")
        assert done.returncode == 0, done.stderr
        for entry in json.loads(output.read_text())["contenders"]:
            if not entry["name"].startswith(("torch", "tf_keras", "keras_jax")):  # see test_peers.py
                assert entry["status"] == "measured", entry
    output = tmp_path / "startup.json"
    small = ("--backbone=mobilenet_v2", "--image_size=32", "--global_batch_size=8", "--repeats=1")
    done = run("startup", *small, f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text())["xla_cache_bytes"] > 0


def test_configs_refuse_what_cannot_be():
    with pytest.raises(UserError, match="do not fill a batch"):
        InputConfig(what="growth", growth_records=(100,)).validate()
    with pytest.raises(UserError, match="takes 32 pixels or more"):
        StepConfig(backbone="mobilenet_v2", image_size=16).validate()
    assert processes.EXTRA == "pip install -e .[bench]"
