"""What a run says when it starts."""

import logging

import pytest
import tensorflow as tf

from tl_distributed.data.records import DatasetInfo
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.config import Config
from tl_distributed.training.phases import plan_phases
from tl_distributed.training.start_log import log_start

_INFO = DatasetInfo(("a", "b"), (8, 8, 3), 0, "toy", {}, {})


@pytest.mark.parametrize(
    ("device", "xla", "warned"), [("GPU:0", True, True), ("GPU:0", False, False), ("CPU:0", True, False)]
)
def test_the_wait_for_the_compiler_is_announced_on_gpus(caplog, device, xla, warned):
    caplog.set_level(logging.INFO)
    runtime = Runtime(tf.distribute.OneDeviceStrategy("CPU:0"), "float32", xla, "", (f"/device:{device}",))
    log_start(Config(), _INFO, [], runtime, examples={"train": 64}, resumed_at=None)
    assert ("The first step waits for XLA" in caplog.text) == warned


@pytest.mark.parametrize(("num_examples", "settings", "warned"), [
    (18, {}, True), (18, {"min_steps": 300}, False), (18, {"max_steps": 1}, False), (2000, {}, False),
])  # fmt: skip
def test_a_phase_of_few_steps_is_warned_of(caplog, num_examples, settings, warned):
    config = Config(backbone="mobilenet_v2", transfer="two_phase", **settings)
    runtime = Runtime(tf.distribute.OneDeviceStrategy("CPU:0"), "float32", False, "", ("/device:CPU:0",))
    phases = plan_phases(config, num_examples=num_examples)
    log_start(config, _INFO, phases, runtime, examples={"train": num_examples}, resumed_at=None)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == warned
    assert all("Phase head has 1 steps, Phase main has 2 steps, since 18 images" in line for line in lines)


@pytest.mark.parametrize(("settings", "warned"), [
    ({"transfer": "full", "learning_rate": 0.01}, "--learning_rate=0.01 has no effect with --transfer=full, of which"),
    ({"transfer": "frozen", "finetune_learning_rate": 0.01}, "--finetune_learning_rate=0.01 has no effect with --tra"),
    ({"transfer": "lora", "head_epochs": 7}, "--head_epochs=7 has no effect with --transfer=lora."),
    ({"transfer": "full", "momentum": 0.8}, "--momentum=0.8 has no effect with --optimizer=adamw."),
    ({"transfer": "frozen", "finetune_warmup_fraction": 0.0}, "--finetune_warmup_fraction=0 has no effect with"),
    ({"transfer": "full", "finetune_learning_rate": 0.01, "optimizer": "sgd", "momentum": 0.8}, ""),
    ({"transfer": "two_phase", "learning_rate": 0.01, "finetune_learning_rate": 0.01, "head_epochs": 7}, ""),
])  # fmt: skip
def test_flags_that_no_phase_goes_by_are_said(caplog, settings, warned):
    config = Config(backbone="mobilenet_v2", **settings)
    runtime = Runtime(tf.distribute.OneDeviceStrategy("CPU:0"), "float32", False, "", ("/device:CPU:0",))
    phases = plan_phases(config, num_examples=20_000)
    log_start(config, _INFO, phases, runtime, examples={"train": 20_000}, resumed_at=None)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == bool(warned) and all(line.startswith(warned) for line in lines)
