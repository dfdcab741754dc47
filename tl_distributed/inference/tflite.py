"""TensorFlow Lite (LiteRT) files: how a packaged model becomes one, in float or quantised, and how one is run."""

import contextlib
import dataclasses
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.data.machine import usable_cores

Quantize = Literal["none", "float16", "int8"]
QUANTIZE: tuple[Quantize, ...] = ("none", "float16", "int8")
_ERRORS_LOCK = threading.Lock()  # of what is this process's alone: where standard error goes
_PIXEL_SCALES = ((0.0, 0), (1.0, 0))  # (scale, zero point) of an input that is pixels: not quantised, or by itself


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How the numbers of a TensorFlow Lite file are stored.

    Attributes:
      kind: none; float16 stores weights in 16 bits and computes in float32; int8 stores weights, by channel, and
        activations in 8 bits (Jacob et al. 2018) and computes in integers.
      pictures: Of int8, `[n, height, width, 3] uint8` like those to come: what they make of each activation gives its
        range.
    """

    kind: Quantize = "none"
    pictures: np.ndarray | None = None


FLOAT32 = Quantization()


def convert(model: keras.Model, quantization: Quantization) -> bytes:
    """Returns the content of a `.tflite` file: `[batch, height, width, 3] uint8` in, probabilities in float32 out.

    Built-in operations only. In int8, an operation that TensorFlow Lite has in float alone stays so (`in_float` tells).

    Args:
      model: Of `packaging.package_model`.
      quantization: How its numbers are stored.
    """
    # Hardware for integers stops at the first operation it does not know, and a cast from uint8 is one: so the model
    # takes float pixels, and quantising its input, with scale 1, makes them uint8.
    in_integers = quantization.kind == "int8"
    converter = tf.lite.TFLiteConverter.from_keras_model(_of_float_pixels(model) if in_integers else model)
    if quantization.kind != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization.kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if in_integers:
        converter.representative_dataset = lambda: ([picture[np.newaxis]] for picture in _whole_range(quantization))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_input_type = tf.uint8
    with _quiet():
        return converter.convert()


def _of_float_pixels(model: keras.Model) -> keras.Model:
    """Returns the model without its first layer, which makes floats of the pixels; the weights are shared."""
    first = model.get_layer("pixels_to_float32")
    pixels = keras.Input(first.output.shape[1:], dtype="float32", name="pixels")
    return keras.Model(pixels, keras.Model(first.output, model.output)(pixels), name=model.name)


def _whole_range(quantization: Quantization) -> np.ndarray:
    """Returns the pictures in float32, a corner of the first one black and white: so uint8 holds pixels as they are."""
    pictures = quantization.pictures.astype(np.float32)
    pictures[0, 0, 0], pictures[0, -1, -1] = 0, 255
    return pictures


class Interpreter:
    """A TensorFlow Lite model that is called with pictures; by LiteRT where it is installed, else by TensorFlow.

    Attributes:
      input_shape: (height, width, 3) of a picture.
      output_shape: (number of classes,).
    """

    def __init__(self, content: bytes):
        """Opens the content of a file.

        Raises:
          ValueError: It is no model, or one whose input is not pixels as they are.
        """
        with _quiet():
            self._interpreter = _interpreter_class()(model_content=content, num_threads=usable_cores())
        given, returned = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        if tuple(given["quantization"]) not in _PIXEL_SCALES:
            raise ValueError(f"its input is quantised by {given['quantization']}, not pixels as they are")
        self._given, self._returned, self._batch_size = given["index"], returned["index"], None
        self._lock = threading.Lock()  # pictures and answers lie in the interpreter: threads have to take turns
        self.input_shape, self.output_shape = (
            tuple(int(side) for side in tensor["shape"][1:]) for tensor in (given, returned)
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns `[batch, num_classes] float32` of `[batch, height, width, 3] uint8`; from any thread."""
        with self._lock:
            if len(images) != self._batch_size:
                with _quiet():
                    self._interpreter.resize_tensor_input(self._given, images.shape)
                    self._interpreter.allocate_tensors()
                self._batch_size = len(images)
            self._interpreter.set_tensor(self._given, images)
            self._interpreter.invoke()
            return self._interpreter.get_tensor(self._returned)

    @property
    def in_float(self) -> bool:
        """Whether anything but the probabilities is computed in float32."""
        tensors = self._interpreter.get_tensor_details()
        return any(tensor["dtype"] == np.float32 and tensor["index"] != self._returned for tensor in tensors)


def _interpreter_class() -> Callable[..., Any]:
    try:
        from ai_edge_litert.interpreter import Interpreter as LiteRT
    except ImportError:
        return tf.lite.Interpreter
    return LiteRT


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the converter and the interpreter say of every model, from C++ too; not where they fail."""
    with _ERRORS_LOCK, _captured_errors():
        yield


@contextlib.contextmanager
def _captured_errors() -> Iterator[None]:
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as captured, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tf.lite.Interpreter goes; statistics of an input that need none
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(before, captured.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
