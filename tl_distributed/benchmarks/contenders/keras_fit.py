"""`fit` and `predict` in blocks of steps, of Keras 3 and of tf-keras, which the argument `keras` is."""

import queue
import threading
import time
from types import ModuleType
from typing import Any

import tensorflow as tf

from tl_distributed.benchmarks.contenders.keras_devices import Devices


class Fit:
    """One call of `fit` that never ends, halted between blocks, so that what begins a call is not in a block."""

    def __init__(self, keras: ModuleType, model: Any, dataset: tf.data.Dataset, devices: Devices, batch_size: int):
        self._batch_size = batch_size
        self._gate = _gate(keras, devices)
        endless = {"steps_per_epoch": 10**9} if dataset.cardinality() == tf.data.INFINITE_CARDINALITY else {}

        def fit() -> None:
            try:
                with devices.scope():
                    model.fit(dataset, epochs=10**9, verbose=0, callbacks=[self._gate], **endless)
            except BaseException as error:
                self._gate.finished.put(error)

        self._thread = threading.Thread(target=fit, daemon=True)

    def warm_up(self) -> None:
        self._thread.start()
        self.block(2)

    def block(self, amount: float) -> dict[str, float]:
        """Lets `fit` do so many steps."""
        start = time.perf_counter()
        self._gate.orders.put(int(amount))
        end = self._gate.finished.get()
        if isinstance(end, BaseException):
            raise end
        return {"seconds": end - start, "done": int(amount) * self._batch_size}


def _gate(keras: ModuleType, devices: Devices) -> Any:
    """Returns a callback that halts `fit` before a step until steps are ordered, and says when they are done.

    It has no hook behind a step: both libraries would then fetch the metrics of each, and wait for the device.
    """

    class Gate(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.orders, self.finished = queue.Queue(), queue.Queue()
            self._left, self._is_first = 0, True
            self._supports_tf_logs = True  # to tf-keras: it need not fetch the metrics

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self._left == 0:
                if not self._is_first:
                    devices.wait(self.model)
                    self.finished.put(time.perf_counter())
                self._left, self._is_first = self.orders.get(), False
            self._left -= 1

    return Gate()


class Predict:
    """Calls of `predict`."""

    def __init__(self, model: Any, dataset: tf.data.Dataset, devices: Devices, batch_size: int):
        self._model, self._dataset = model, dataset.repeat()
        self._devices, self._batch_size = devices, batch_size

    def warm_up(self) -> None:
        for _ in range(2):
            self.block(1)

    def block(self, amount: float) -> dict[str, float]:
        """Predicts so many batches."""
        start = time.perf_counter()
        with self._devices.scope():
            self._model.predict(self._dataset, steps=int(amount), verbose=0)
        return {"seconds": time.perf_counter() - start, "done": int(amount) * self._batch_size}
