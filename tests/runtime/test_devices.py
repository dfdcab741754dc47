"""Devices, strategy, precision and XLA from the flags; GPUs are played by stand-ins."""

import os
import subprocess
import sys
import types

import keras
import pytest
import tensorflow as tf
from paths import REPO

from tl_distributed.errors import UserError
from tl_distributed.runtime import devices, visible_gpus
from tl_distributed.runtime.cluster import Cluster
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.runtime.strategies import avoid_proxy
from tl_distributed.runtime.workers import Workers


def start(*, global_batch_size=16, seed=0, deterministic=False, **settings) -> devices.Runtime:
    return devices.start_runtime(
        RuntimeSettings(**settings), Workers(),
        global_batch_size=global_batch_size, seed=seed, deterministic=deterministic, model_family="resnet",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "kind", "replicas"),
    [("auto", "Mirrored", 4), ("mirrored", "Mirrored", 4), ("one_device", "OneDevice", 1)],
)
def test_strategy_on_the_four_virtual_devices_of_the_suite(strategy, kind, replicas):
    started = start(strategy=strategy)
    assert type(started.strategy).__name__ == f"{kind}Strategy"
    assert started.num_replicas == replicas
    assert len(started.devices) == 4 and all("CPU" in line for line in started.devices)


def test_batch_that_does_not_divide_names_the_nearest():
    with pytest.raises(UserError, match=r"--global_batch_size=15 does not divide by the 4 replicas; .* is 16$"):
        start(global_batch_size=15)
    with pytest.raises(UserError, match=r"--global_batch_size=1 .* is 4$"):
        start(global_batch_size=1)
    assert start(global_batch_size=15, strategy="one_device").num_replicas == 1


def test_virtual_devices_after_the_devices_were_claimed():
    assert start(virtual_devices=4).num_replicas == 4  # the suite has split the CPU into as many
    with pytest.raises(UserError, match="--virtual_devices=2: this process has claimed its devices already"):
        start(virtual_devices=2)


def test_virtual_devices_in_a_fresh_process():
    code = (
        "from tl_distributed.models.backbones import get_backbone; from tl_distributed.settings.config import Config; "
        "from tl_distributed.runtime.workers import Workers; from tl_distributed.training.start import start_devices; "
        "started = start_devices(Config(virtual_devices=3, global_batch_size=6), get_backbone('resnet50'), Workers()); "
        "print(started.num_replicas, started.precision, started.use_xla, type(started.strategy).__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=REPO)
    assert result.stdout == "3 float32 False MirroredStrategy\n", result.stderr


def test_cpu_trains_in_float32_without_xla_unless_told_otherwise():
    started = start(strategy="one_device")
    assert (started.precision, started.use_xla) == ("float32", False)
    started = start(strategy="one_device", precision="mixed_bfloat16", xla="on")
    assert (started.precision, started.use_xla) == ("mixed_bfloat16", True)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_seed_sets_the_initial_weights():
    def weights(seed: int):
        start(seed=seed)
        return keras.layers.Dense(4)(tf.ones([1, 4])).numpy().tolist()

    assert weights(1) == weights(1) != weights(2)


@pytest.mark.parametrize(("visible", "is_said"), [(None, True), ("0,1", True), ("", False), ("-1", False)])
def test_training_on_the_cpu_of_a_machine_with_gpus_is_said(tmp_path, monkeypatch, caplog, visible, is_said):
    """A job that was given GPUs would use none of them in silence, for want of CUDA's libraries say."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    monkeypatch.setattr(visible_gpus, "_DRIVER_FILE", str(driver))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with caplog.at_level("WARNING", logger="tl_distributed"):
        start()
    said = "TensorFlow finds no GPU, though this machine has NVIDIA's driver 550.54.15; "
    assert (said in caplog.text) == is_said


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "a,::1"), ({"no_proxy": ".site,b"}, ".site,b,a,::1"), ({"no_proxy": "b", "no_grpc_proxy": "c"}, "c,a,::1")],
)
def test_workers_are_reached_past_a_proxy(monkeypatch, given, expected):
    """A slow test of several workers shows that gRPC goes by it."""
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, given.get(name, ""))
    avoid_proxy(Cluster(("a:1", "a:2", "[::1]:3"), 0, 4))
    assert dict(os.environ)["no_grpc_proxy"] == expected


@pytest.fixture
def gpus(monkeypatch):
    """Plays GPUs of the given compute capabilities; training still happens on the CPU's devices."""

    def play(*capabilities: tuple[int, int]) -> list[str]:
        cards = [types.SimpleNamespace(name=f"GPU:{index}") for index in range(len(capabilities))]
        details = {
            card.name: {"device_name": "Card", "compute_capability": capability}
            for card, capability in zip(cards, capabilities, strict=True)
        }
        grown = []
        logical = tf.config.list_logical_devices("CPU")[: len(cards)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: cards if kind == "GPU" else [])
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: logical if kind == "GPU" else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda card: details[card.name])
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda card, _: grown.append(card.name))
        return grown

    return play


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ([(9, 0)], "mixed_bfloat16"),
        ([(8, 0), (8, 9)], "mixed_bfloat16"),
        ([(7, 5)], "mixed_float16"),
        ([(7, 0)], "mixed_float16"),
        ([(9, 0), (7, 5)], "mixed_float16"),
        ([(6, 1)], "float32"),
        ([(8, 0), (6, 1)], "float32"),
        ([(10, 0)], "mixed_bfloat16"),
    ],
)
def test_gpus_choose_precision_by_the_weakest_and_turn_xla_on(gpus, capabilities, precision):
    grown = gpus(*capabilities)
    started = start()
    assert (started.precision, started.use_xla) == (precision, True)
    assert started.num_replicas == len(capabilities) == len(grown)  # and none takes all the memory of its card
    major, minor = capabilities[0]
    assert f"(Card, compute capability {major}.{minor})" in started.devices[0]


def test_flags_win_over_what_gpus_would_choose(gpus):
    gpus((9, 0))
    started = start(precision="float32", xla="off")
    assert (started.precision, started.use_xla) == ("float32", False)


def test_virtual_devices_beside_gpus_are_refused(gpus):
    gpus((9, 0), (9, 0))
    with pytest.raises(UserError, match="--virtual_devices=2 splits the CPU, but there are 2 GPUs"):
        start(virtual_devices=2)


@pytest.mark.parametrize(
    ("wanted", "family", "num_gpus", "expected", "reason"),
    [
        ("auto", "mobilenet_v2", 0, False, "--xla=auto: on a CPU "),
        ("auto", "mobilenet_v2", 2, True, "3.3 times as fast on an H200"),
        ("auto", "baseline_cnn", 1, True, "not measured for baseline_cnn"),
        ("on", "resnet50", 0, True, "--xla=on"),
        ("off", "resnet50", 1, False, "--xla=off"),
    ],
)
def test_xla_is_chosen_with_a_reason(wanted, family, num_gpus, expected, reason):
    chosen, why = devices.choose_xla(wanted, family, [object()] * num_gpus)
    assert chosen == expected and reason in why


def test_memory_limit_of_gpus(gpus, monkeypatch):
    grown, limits = gpus((9, 0), (9, 0)), {}

    def limit(card, configurations):
        limits[card.name] = [configuration.memory_limit for configuration in configurations]

    monkeypatch.setattr(tf.config, "set_logical_device_configuration", limit)
    start(gpu_memory_limit_mib=4096)
    assert limits == {"GPU:0": [4096], "GPU:1": [4096]} and not grown

    def claimed(*_):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_logical_device_configuration", claimed)
    with pytest.raises(UserError, match="--gpu_memory_limit_mib: this process has claimed its devices already"):
        start(gpu_memory_limit_mib=4096)


def test_nccl_sums_no_bfloat16(gpus):
    gpus((9, 0), (9, 0))
    with pytest.raises(UserError, match=r"--all_reduce_dtype=bfloat16: the NCCL .* use float32, or float16"):
        start(all_reduce_dtype="bfloat16")
    assert start(all_reduce_dtype="float16").num_replicas == 2


@pytest.mark.parametrize(
    ("capability", "built", "expected"),
    [
        ((8, 9), ["sm_60", "sm_80", "compute_90"], ""),
        ((9, 0), ["sm_60", "sm_80", "compute_90"], ""),
        ((12, 0), ["sm_60", "sm_80", "compute_90"], "the driver compiles it at the first start"),
        ((12, 0), ["sm_60", "sm_80", "sm_90"], "cannot use this GPU"),
        ((5, 2), ["sm_60", "compute_90"], "cannot use this GPU"),
        ((7, 5), ["sm_70"], ""),
        ((12, 0), [], ""),  # a build without CUDA says nothing
    ],
)
def test_a_gpu_that_tensorflow_was_not_built_for_is_named(capability, built, expected):
    said = devices.missing_gpu_code(capability, {"cuda_compute_capabilities": built})
    assert expected in said and bool(expected) == bool(said)
    assert not said or f"{capability[0]}.{capability[1]}" in said
