"""Opens a saved model of any of the exported kinds behind one call: uint8 images in, probabilities out."""

import contextlib
import dataclasses
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator

import absl.logging
import keras
import numpy as np
import tensorflow as tf

from tl_distributed.errors import UserError

LABELS_FILE = "labels.txt"


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model ready to predict.

    Attributes:
      predict: `[batch, height, width, 3] uint8` to `[batch, num_classes] float32` probabilities.
      image_shape: (height, width, 3) that it takes.
      class_names: In order of label, or empty where no `labels.txt` lies beside the model.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]


def open_model(path: str) -> SavedModel:
    """Opens a `.keras`, `.h5` or `.tflite` file, a SavedModel folder, or a run's workdir.

    Raises:
      UserError: No such path, another kind of file, or a model of other inputs.
    """
    path = path.rstrip("/")
    if tf.io.gfile.isdir(path) and tf.io.gfile.exists(f"{path}/model.keras"):
        path = f"{path}/model.keras"
    if not tf.io.gfile.exists(path):
        raise UserError(f"{path}: no such model; a finished run has model.keras in its workdir")
    try:
        predict, shape = _open(path)
    except (ValueError, OSError, TypeError, KeyError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be opened as a model ({reason})") from None
    if len(shape) != 3 or shape[-1] != 3 or None in shape:
        raise UserError(
            f"{path}: takes inputs of shape {shape}, not images (height, width, 3); is it a model of a run?"
        )
    return SavedModel(predict, tuple(shape), read_labels(path))


def read_labels(path: str) -> tuple[str, ...]:
    """Returns the lines of the `labels.txt` beside the model at `path`, or nothing."""
    labels = f"{os.path.dirname(path) or '.'}/{LABELS_FILE}"
    if not tf.io.gfile.exists(labels):
        return ()
    with tf.io.gfile.GFile(labels) as file:
        return tuple(file.read().splitlines())


def _open(path: str) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    if tf.io.gfile.isdir(path):
        return _open_saved_model(path)
    if path.endswith((".keras", ".h5")):
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        # predict_on_batch and not predict: a tf.data pipeline a call costs more than a small model
        return lambda images: np.asarray(model.predict_on_batch(images)), tuple(model.input_shape[1:])
    if path.endswith(".tflite"):
        return _open_tflite(path)
    raise ValueError("takes .keras, .h5, .tflite or a SavedModel folder")


def _open_saved_model(path: str) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    serve = tf.saved_model.load(path).signatures["serving_default"]
    (name, spec), *_ = serve.structured_input_signature[1].items()
    (output, _), *_ = serve.structured_outputs.items()
    call = lambda images: serve(**{name: tf.constant(images)})[output].numpy()  # noqa: E731
    call.module = serve  # the variables live as long as the function
    return call, tuple(spec.shape[1:])


def _open_tflite(path: str) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    with tf.io.gfile.GFile(path, "rb") as file:
        interpreter = tf.lite.Interpreter(model_content=file.read())
    given, returned = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def predict(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(given, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, images)
        interpreter.invoke()
        return interpreter.get_tensor(returned)

    return predict, tuple(int(side) for side in interpreter.get_input_details()[0]["shape"][1:])


def save_model(model: keras.Model, path: str, kind: str) -> None:
    """Writes a packaged model; it appears whole or not at all.

    Args:
      model: Of `packaging.package_model`.
      path: File, or folder for a SavedModel, on any file system.
      kind: keras, h5, saved_model or tflite.
    """
    from tl_distributed.inference.stock_layers import with_stock_layers

    with tempfile.TemporaryDirectory() as folder, _silence():
        made = f"{folder}/model{ENDINGS[kind]}"
        if kind == "h5":
            with_stock_layers(model).save(made)
        elif kind == "keras":
            model.save(made)
        elif kind == "saved_model":
            model.export(made, verbose=False)
        else:
            _save_tflite(model, made)
        _move(made, path)


ENDINGS = {"keras": ".keras", "h5": ".h5", "saved_model": "", "tflite": ".tflite"}
DEFAULT_NAMES = {kind: "saved_model" if kind == "saved_model" else f"model{ending}" for kind, ending in ENDINGS.items()}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps back what Keras and the converter say of every model: its signature, and that .h5 is an old format."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _save_tflite(model: keras.Model, path: str) -> None:
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    with open(path, "wb") as file:
        file.write(content)


def _move(made: str, path: str) -> None:
    """Copies a file or folder beside `path` under a temporary name, then renames it."""
    temporary = f"{path}.tmp"
    if tf.io.gfile.exists(temporary):
        tf.io.gfile.rmtree(temporary)
    if not os.path.isdir(made):
        tf.io.gfile.copy(made, temporary, overwrite=True)
        tf.io.gfile.rename(temporary, path, overwrite=True)
        return
    for folder, _, files in os.walk(made):
        target = f"{temporary}/{os.path.relpath(folder, made)}".removesuffix("/.")
        tf.io.gfile.makedirs(target)
        for name in files:
            tf.io.gfile.copy(f"{folder}/{name}", f"{target}/{name}")
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)
    tf.io.gfile.rename(temporary, path)
