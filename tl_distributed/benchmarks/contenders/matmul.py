"""The device's speed in matrix products, the yardstick of a step's."""

from typing import Any

import tensorflow as tf

from tl_distributed.diagnosis.measure import measure_matmul


def start(settings: dict[str, Any]) -> Any:
    """`settings`: `precision`."""
    return _Matmul(settings["precision"])


class _Matmul:
    def __init__(self, precision: str):
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        self._device = "GPU:0" if gpus else "CPU:0"
        default = "bfloat16" if gpus else "float32"
        self._dtype = default if precision == "auto" else precision.removeprefix("mixed_")
        self.facts = {"dtype": self._dtype}

    def warm_up(self) -> None:
        self.block(1)

    def block(self, amount: float) -> dict[str, float]:
        """Multiplies; `done` is in 10^12 operations."""
        del amount
        speed = measure_matmul(self._device, self._dtype)
        return {"seconds": speed.timing.median, "done": speed.flops / 1e12}
