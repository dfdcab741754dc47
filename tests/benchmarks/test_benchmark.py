"""The measuring instrument: statistics and tables, contenders in turns, and each contender for a few tiny steps."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from paths import PYTHONPATH, REPO
from toy_dataset import write_toy_dataset

from tl_distributed.benchmarks import memory, processes, random_images, report, step, step_contenders, whole_processes
from tl_distributed.benchmarks.contenders import building, keras_input, keras_step, ours_step, pixels, reading
from tl_distributed.benchmarks.growth_plot import plot_growth
from tl_distributed.benchmarks.processes import Contender, Outcome, take_turns
from tl_distributed.benchmarks.report import times_as_fast
from tl_distributed.benchmarks.settings import InputConfig, StepConfig
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError

# --- statistics and tables


def test_ratios_are_pair_by_pair_and_above_one_where_ours_is_faster():
    ours, peer = np.array([10.0, 40.0, 30.0]), np.array([5.0, 10.0, 60.0])
    assert times_as_fast(ours, peer, higher_is_better=True) == pytest.approx(ours / peer)
    assert times_as_fast(ours, peer, higher_is_better=False) == pytest.approx(peer / ours)
    with pytest.raises(ValueError):  # turns that have no partner
        times_as_fast([1.0], [1.0, 2.0], higher_is_better=True)


def test_whole_processes_have_no_warm_up():
    layout = report.Layout(title="t", unit="seconds", seconds=True, show_warm_up=False)
    plain = outcome("ours", 0.5, start_seconds=None, warm_up_seconds=None)
    text = report.show([plain, outcome("peer", 0.25)], layout, report.machine())
    assert "warm-up" not in text and "1 (1-1)" in text  # as many seconds each, so as fast


def outcome(name: str, *rates: float, **fields) -> Outcome:
    blocks = [{"seconds": 2.0, "done": 2.0 * rate} for rate in rates]
    made = Outcome(Contender(name=name, module="", settings=()), start_seconds=1.0, warm_up_seconds=2.0, blocks=blocks)
    return dataclasses.replace(made, **fields)


def test_table_and_json_say_the_same(tmp_path, capsys):
    missing = outcome("absent", status="not installed", message="torch is not installed: pip install -e .[bench]")
    outcomes = [outcome("ours", 100, 120, 110), outcome("peer", 50, 40, 55, others_busy_share=0.5), missing]
    layout = report.Layout(title="step: a net", unit="images/s", columns=[("twice", lambda found: str(2))])
    config = StepConfig(output=str(tmp_path / "report.json"))
    report.publish(outcomes, layout, report.machine(), benchmark="step", settings=config, more_facts=[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step: a net"
    (peer,) = [line for line in lines if line.startswith("peer")]
    assert "50 (40-55)" in peer and "2 (2-3)" in peer
    assert any(
        line.startswith("absent") and line.endswith("torch is not installed: pip install -e .[bench]") for line in lines
    )
    assert any("Warning" in line and "peer" in line for line in lines)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["times_as_fast"]["ours"]["peer"] == {"turns": [2, 3, 2], "median": 2, "low": 2, "high": 3}
    assert content["contenders"][0]["median"] == 110 and content["contenders"][0]["warm_up_seconds"] == 2
    assert content["contenders"][2]["status"] == "not installed" and "turns" not in content["contenders"][2]
    assert content["machine"]["packages"]["tensorflow"] == tf.__version__ and content["more_facts"] == [1]
    assert content["machine"]["processor"] and content["settings"]["repeats"] == config.repeats


@pytest.mark.parametrize(
    ("value", "text"), [(1234567.8, "1,234,568"), (52.14, "52.1"), (0.01234, "0.0123"), (999.6, "1,000")]
)
def test_numbers(value, text):
    assert report.number(value) == text


def test_teraflops_follow_from_the_table():
    config = StepConfig(backbone="resnet50", image_size=112, global_batch_size=4, images=8)
    found = step._all_teraflops(config, [outcome("ours", 10.0)])
    assert found["ours"] == pytest.approx(10 * 6 * 3.856e9 / 4 / 1e12)  # a quarter of the area of 224
    forward = step._all_teraflops(dataclasses.replace(config, mode="forward"), [outcome("ours", 10.0)])
    assert forward["ours"] == pytest.approx(found["ours"] / 3)


def test_the_fastest_is_the_one_of_the_highest_median(tmp_path, capsys):
    stock = [outcome("keras_best", 20, 30), outcome("keras_best_xla", 10, 90)]
    ours_first = [outcome("ours", 30, 60), outcome("ours_no_xla", 900, 900), *stock]
    assert step.fastest(ours_first, step_contenders.STOCK_KERAS) == ("keras_best_xla", pytest.approx([3, 60 / 90]))
    assert step.fastest(stock, step_contenders.PEERS) == (None, [])
    config = StepConfig(output=str(tmp_path / "report.json"))
    found = [dataclasses.replace(one, facts={"precision": "float32", "bytes_to_device_per_image": 1}) for one in stock]
    ahead = dataclasses.replace(found[0], contender=Contender(name="tf_keras", module="", settings=()))
    ahead.blocks = outcome("tf_keras", 60, 60).blocks
    mine = dataclasses.replace(ours_first[0], facts=found[0].facts)
    peak = outcome("matmul", status="failed", message="no product")
    step.show_steps([mine, *found, ahead], peak, config, report.machine(), "step")
    printed = capsys.readouterr().out.splitlines()
    assert "ours is 0.75 (0.5-1) times as fast as tf_keras, the fastest peer" in printed
    assert "ours is 1.83 (0.667-3) times as fast as keras_best_xla, the best stock Keras" in printed
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["fastest_peer"] == {"name": "tf_keras", "times_as_fast": [0.5, 1.0]}
    assert content["best_stock_keras"]["name"] == "keras_best_xla"


# --- processes


def toys(tmp_path, *settings):
    journal = str(tmp_path / "journal")
    return [
        Contender(
            name=entry["name"], module="toy_contender", settings=({"journal": journal, **entry},),
            environment={"PYTHONPATH": PYTHONPATH},
        )
        for entry in settings
    ]  # fmt: skip


def test_contenders_take_turns(tmp_path):
    made = toys(tmp_path, {"name": "a", "rate": 3, "seconds": 2.0, "warm_up_seconds": 0.05}, {"name": "b", "rate": 5})
    first, second = take_turns(made, repeats=3, amount=4)
    assert (tmp_path / "journal").read_text().split() == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert first.rates() == [6.0] * 3 and second.rates() == [20.0] * 3
    assert first.warm_up_seconds >= 0.05 and first.facts == {"device": "toy", "name": "a", "is_warm": True}
    assert first.others_busy_share < 0.5


def test_what_cannot_be_measured_is_said_and_the_others_go_on(tmp_path):
    made = toys(
        tmp_path, {"name": "missing", "missing": True}, {"name": "defect", "defect": True}, {"name": "well"},
        {"name": "mortal", "dies_in_block": 2}, {"name": "unable", "unable": True},
    )  # fmt: skip
    missing, defect, well, mortal, unable = take_turns(made, repeats=2, amount=1)
    assert (missing.status, missing.message) == ("not installed", "torch is not installed: pip install -e .[bench]")
    assert (defect.status, defect.message) == ("failed", "ZeroDivisionError: a defect")
    assert len(well.blocks) == 2
    assert (unable.status, unable.message, unable.blocks) == ("not measured", "no such network there", [])
    assert mortal.status == "failed" and mortal.blocks == [] and mortal.message.endswith("ended with 3: last words")


def test_a_setting_that_a_contender_refuses_ends_the_benchmark(tmp_path):
    with pytest.raises(UserError, match="pink: --colour=pink: no such colour"):
        take_turns(toys(tmp_path, {"name": "pink", "mistake": True}), repeats=1, amount=1)


def test_an_unknown_python_is_named(tmp_path):
    (toy,) = toys(tmp_path, {"name": "a"})
    with pytest.raises(UserError, match="/no/python: cannot be run"):
        take_turns([dataclasses.replace(toy, python="/no/python")], repeats=1, amount=1)


def test_several_processes_of_a_contender_work_at_once(tmp_path):
    (toy,) = toys(tmp_path, {"name": "a", "seconds": 1.0})
    other = {**toy.settings[0], "name": "b", "seconds": 4.0}
    (found,) = take_turns([dataclasses.replace(toy, settings=(toy.settings[0], other))], repeats=1, amount=8)
    assert found.blocks == [{"seconds": 4.0, "done": 8}]  # as long as the slower one
    assert sorted((tmp_path / "journal").read_text().split()) == ["a1", "b1"]


def test_whole_processes():
    seconds, printed = whole_processes.run_module("this", [])
    assert seconds > 0 and "Beautiful is better than ugly" in printed
    assert whole_processes.seconds_until("this", [], lambda text: "Beautiful" in text) > 0
    with pytest.raises(UserError, match=r"json\.tool ended with exit code"):
        whole_processes.run_module("json.tool", ["/no/such/file"])
    with pytest.raises(UserError, match="python -m this ended with exit code 0"):
        whole_processes.seconds_until("this", [], lambda text: "never printed" in text)


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
