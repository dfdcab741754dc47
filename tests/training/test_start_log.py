"""What a run says when it starts."""

import logging

import pytest
import tensorflow as tf

from tl_distributed.data.records import DatasetInfo
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.config import Config
from tl_distributed.training.start_log import log_start


@pytest.mark.parametrize(
    ("device", "xla", "warned"), [("GPU:0", True, True), ("GPU:0", False, False), ("CPU:0", True, False)]
)
def test_the_wait_for_the_compiler_is_announced_on_gpus(caplog, device, xla, warned):
    caplog.set_level(logging.INFO)
    info = DatasetInfo(("a", "b"), (8, 8, 3), 0, "toy", {}, {})
    runtime = Runtime(tf.distribute.OneDeviceStrategy("CPU:0"), "float32", xla, "", (f"/device:{device}",))
    log_start(Config(), info, [], runtime, examples={"train": 64}, resumed_at=None)
    assert ("The first step waits for XLA" in caplog.text) == warned
