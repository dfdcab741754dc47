"""The peers of `benchmark step`: who takes part, what feeds them, that they are what they are called."""

import importlib.util
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils.tracking import TrackedDict
from paths import REPO

from tl_distributed.benchmarks import child, step_contenders
from tl_distributed.benchmarks.contenders import keras_devices, keras_input, keras_networks, keras_step
from tl_distributed.benchmarks.not_measured import NotMeasured
from tl_distributed.benchmarks.processes import take_turns
from tl_distributed.benchmarks.random_images import random_images
from tl_distributed.benchmarks.settings import StepConfig

SETTINGS = {
    "backbone": "tiny_norm", "image_size": 16, "native_size": 8, "images": 12, "global_batch_size": 4,
    "augment": "basic", "precision": "float32", "replicas": 0, "mode": "train", "folder": "", "augment_in_map": False,
    "jit_compile": False, "library": "keras", "jax": False, "clustered": False,
}  # fmt: skip
VGG16_PARAMETERS = 14_714_688 + 5_130  # as keras.applications counts, and a head
SMALL = StepConfig(backbone="vgg16", image_size=32, global_batch_size=4, images=8, precision="float32")


def test_each_peer_has_a_process_of_its_own_kind(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_of_the_user")
    made = {name: step_contenders.step_contender(name, SMALL, "/folder") for name in step_contenders.PEERS}
    clustering = "--tf_xla_of_the_user --tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"
    clustered = {name for name, one in made.items() if one.environment.get("TF_XLA_FLAGS") == clustering}
    assert clustered == {"keras_autocluster", "tf_keras_autocluster"}
    assert {name for name, one in made.items() if one.environment.get("KERAS_BACKEND") == "jax"} == {"keras_jax"}
    from_files = {name for name, one in made.items() if one.settings[0].get("folder")}
    assert from_files == {"keras_tutorial", "keras_tutorial_map"} == set(filter(step_contenders.reads_files, made))


def test_on_replicas_remain_those_that_can():
    names = step_contenders.able(step_contenders.PEERS, StepConfig(replicas=2))
    left_out = set(step_contenders.PEERS) - set(names)
    assert left_out == {"keras_best_xla", "tf_keras_xla", "torch", "torch_compile"}


@pytest.mark.parametrize("augment", ["none", "basic"])
def test_every_image_once_an_epoch_with_its_label(augment):
    settings = {**SETTINGS, "augment": augment, "images": 8}
    images, labels = random_images(8, 8)
    batches = list(keras_input.best_dataset(settings, on_gpu=False).take(4))  # two epochs
    assert all(x.shape == (4, 16, 16, 3) and x.dtype == tf.float32 for x, _ in batches)
    assert sorted(np.concatenate([y for _, y in batches])) == sorted([*labels, *labels])
    if augment == "none":
        expected = tf.image.resize(images, (16, 16)).numpy()
        found = [int(np.abs(expected - x).sum((1, 2, 3)).argmin()) for batch, _ in batches for x in batch.numpy()]
        assert sorted(found[:8]) == sorted(found[8:]) == list(range(8)) and found[:8] != found[8:]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), expected[found])
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels[found])


def test_a_gpu_gets_bytes_of_the_stored_size():
    x, _ = next(iter(keras_input.best_dataset({**SETTINGS, "augment": "none"}, on_gpu=True)))
    assert x.shape == (4, 8, 8, 3) and x.dtype == tf.uint8


def test_without_a_cluster_there_is_nothing_to_measure():
    contender = keras_step.start({**SETTINGS, "clustered": True})  # in a process that does not ask for them
    with pytest.raises(NotMeasured, match="found nothing to compile"):
        contender.warm_up()


@pytest.mark.slow
def test_auto_clustering_happens():
    config = StepConfig(backbone="baseline_cnn", image_size=8, native_size=8, global_batch_size=2, images=2)
    (found,) = take_turns([step_contenders.step_contender("keras_autocluster", config, "")], repeats=1, amount=1)
    assert found.status == "measured", found.message
    assert found.facts["xla_clusters"] > 0 and not found.facts["xla"]


@pytest.mark.parametrize(("package", "settings"), [("tf_keras", {"library": "tf_keras"}), ("jax", {"jax": True})])
def test_a_package_that_is_missing_is_named(monkeypatch, package, settings):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        keras_step.start({**SETTINGS, **settings})
    assert child._explain(error.value) == {"not_installed": package}


def test_a_network_that_tf_keras_lacks_is_named():
    library = types.SimpleNamespace(
        __name__="tf_keras", applications=types.SimpleNamespace(), Input=lambda shape: shape
    )
    with pytest.raises(NotMeasured, match=r"tf_keras\.applications has no resnet20"):
        keras_networks.best_model(library, {**SETTINGS, "backbone": "resnet20"}, on_gpu=False)


def test_the_wait_for_jax_is_for_every_array():
    """What `fit` keeps its state in is no pytree of JAX's, which would wait for nothing in it."""
    waited = []
    arrays = [types.SimpleNamespace(block_until_ready=lambda i=i: waited.append(i)) for i in range(3)]
    state = TrackedDict({"trainable_variables": arrays[:2], "metrics_variables": arrays[2:]})
    keras_devices._wait_for_jax(types.SimpleNamespace(_jax_state=state))
    assert waited == [0, 1, 2]


def test_tf_keras_trains_the_same_network():
    pytest.importorskip("tf_keras", reason="an extra: pip install -e .[bench]")
    settings = {**SETTINGS, "backbone": "vgg16", "image_size": 32, "library": "tf_keras"}
    contender = keras_step.start(settings)
    contender.warm_up()
    assert contender.block(2)["done"] == 8
    assert int(contender._gate.model.optimizer.iterations.numpy()) == 2 + 2
    assert contender.facts["parameters"] == VGG16_PARAMETERS
    assert contender.facts["bytes_to_device_per_image"] == 32 * 32 * 3 * 4 + 4


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--mode=forward", "--precision=mixed_bfloat16"), ("--replicas=2",)])
def test_all_peers_for_real(tmp_path, flags):
    output = tmp_path / "step.json"
    small = ("--backbone=vgg16", "--image_size=32", "--global_batch_size=8", "--images=16", "--augment=none")
    command = [sys.executable, "-m", "tl_distributed.benchmark", "step", *small, "--steps=2", "--repeats=2", *flags]
    done = subprocess.run(
        [*command, f"--output={output}"], capture_output=True, text=True, cwd=REPO, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    for entry in report["contenders"]:
        missing = entry["message"].split(" is not installed")[0]
        if entry["status"] == "not installed" and importlib.util.find_spec(missing) is None:
            continue
        assert entry["status"] == "measured", entry
        if "torch" not in entry["name"]:  # which counts no running statistics
            assert entry["facts"]["parameters"] == VGG16_PARAMETERS
            assert entry["facts"]["replicas"] == (2 if "--replicas=2" in flags else 1)
    assert f"times as fast as {report['fastest_peer']['name']}, the fastest peer" in done.stdout
    assert f"times as fast as {report['best_stock_keras']['name']}, the best stock Keras" in done.stdout
