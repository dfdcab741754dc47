"""Opens a saved model of any of the exported kinds behind one call: uint8 images in, probabilities out."""

import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator

import absl.logging
import keras
import numpy as np
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.files import path_exists, replace_file, sync, write_file
from tl_distributed.inference.model_info import ModelInfo, beside, info_path, read_model_info, store_inside
from tl_distributed.inference.onnx_files import open_onnx, save_onnx
from tl_distributed.inference.tflite import FLOAT32, Interpreter, Quantization, convert
from tl_distributed.models.folding import folded_batch_norm
from tl_distributed.models.fused_kernels import use_fused_kernels
from tl_distributed.models.hub_configs import mend_configs

_LOG = logging.getLogger(__name__)
# What Keras, h5py (RuntimeError: a tree of a file that is damaged), zipfile and TensorFlow raise of a file.
_NOT_OPENED = (
    *(ValueError, OSError, TypeError, KeyError, AttributeError, RuntimeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, tf.errors.OpError),
)
_UNKNOWN_CLASS = re.compile(r"Could not locate ((?:class|function) '[^']*')")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModel(ModelInfo):
    """A model ready to predict, and what is stored with it; class names are empty and `fit` is `None` where nothing is.

    Attributes:
      path: Of the file or folder that was opened.
      predict: `[batch, height, width, 3] uint8` to `[batch, num_classes] float32` probabilities; raises `UserError`
        where they are NaN.
      num_classes: Its outputs.
    """

    path: str
    predict: Callable[[np.ndarray], np.ndarray]
    num_classes: int


def open_model(path: str) -> SavedModel:
    """Opens a `.keras`, `.h5`, `.tflite` or `.onnx` file, a SavedModel folder, or a run's workdir.

    Where class names are missing or may be another model's, a line says so.

    Raises:
      UserError: No such path, another kind of file, a model of other inputs or outputs, one whose class names are
        not as many as its outputs, or what opens it is not installed.
    """
    path = path.rstrip("/")
    if tf.io.gfile.isdir(path) and tf.io.gfile.exists(f"{path}/model.keras"):
        path = f"{path}/model.keras"
    if not path_exists(path):
        raise UserError(f"{path}: no such model; a finished run has model.keras in its workdir")
    try:
        predict, shape, outputs = _open(path)
    except _NOT_OPENED as error:
        raise _why_not(path, error) from None
    if len(shape) != 3 or shape[-1] != 3 or None in shape:
        raise UserError(
            f"{path}: takes inputs of shape {shape}, not images (height, width, 3); is it a model of a run?"
        )
    if len(outputs) != 1 or not isinstance(outputs[0], int):
        raise UserError(f"{path}: gives outputs of shape {outputs}, not a probability for each class")
    info = _stored(path, tuple(shape), outputs[0])

    def numbers(images: np.ndarray) -> np.ndarray:
        answers = predict(images)
        if np.isnan(answers).any():  # of which any class would be the best, and five of the five best right
            raise UserError(f"{path}: answers with what is no number (NaN); its weights are damaged, or diverged")
        return answers

    return SavedModel(path=path, predict=numbers, num_classes=outputs[0], **dataclasses.asdict(info))


def load_keras(path: str) -> keras.Model:
    """Opens a `.keras` or `.h5` file as Keras does, without running its code.

    Raises:
      UserError: A damaged file, one of code of its maker, or of a package that is not installed.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except _NOT_OPENED as error:
        raise _why_not(path, error) from None


def _why_not(path: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "keras_hub" in str(error) and importlib.util.find_spec("keras_hub") is None:
        return UserError(f"{path}: is made of KerasHub's layers: pip install -e '.[hub]' in the package's folder")
    if found := _UNKNOWN_CLASS.search(str(error)):
        return UserError(
            f"{path}: its {found[1]} is code of its maker; if you trust it, --plugin=MODULE (in Python "
            "`import`) brings the module that registers it"
        )
    if reason.startswith("File not found"):  # which Keras says of any file that is no zip archive
        reason = "not a file that Keras wrote, or a damaged one"
    return UserError(f"{path}: cannot be opened as a model ({reason})")


def _stored(path: str, shape: tuple[int, ...], num_outputs: int) -> ModelInfo:
    """Returns what is stored with a model, as far as it is known; says what is not."""
    info, note = read_model_info(path, num_outputs)
    if note:
        _LOG.warning("%s", note)
    if info is None:
        return ModelInfo((), None, shape)
    return dataclasses.replace(info, image_shape=shape, model_sha256="")


_Predict = Callable[[np.ndarray], np.ndarray]
_Shape = tuple[int | None, ...]  # without the batch


def _open(path: str) -> tuple[_Predict, _Shape, _Shape]:
    if tf.io.gfile.isdir(path):
        return _open_saved_model(path)
    if path.endswith((".keras", ".h5")):
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        return _compiled(model), tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    if path.endswith(".tflite"):
        interpreter = Interpreter(_read(path))
        return interpreter, interpreter.input_shape, interpreter.output_shape
    if path.endswith(".onnx"):
        return open_onnx(_read(path))
    raise ValueError("takes .keras, .h5, .tflite, .onnx or a SavedModel folder")


def _read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _compiled(model: keras.Model) -> _Predict:
    """Returns the model as one program, by the kernels that training evaluates it with.

    Keras's own `predict` has XLA compile it, on a CPU too, anew for each number of images.
    """
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    if not on_gpu:
        use_fused_kernels(model)

    def call(images: tf.Tensor) -> tf.Tensor:
        with folded_batch_norm(model):
            return model(images, training=False)

    program = tf.function(call, autograph=False, jit_compile=on_gpu or None)
    shape = (None, *model.input_shape[1:])

    def predict(images: np.ndarray) -> np.ndarray:
        return program.get_concrete_function(tf.TensorSpec(shape, images.dtype))(tf.constant(images)).numpy()

    return predict


def _open_saved_model(path: str) -> tuple[_Predict, _Shape, _Shape]:
    serve = tf.saved_model.load(path).signatures["serving_default"]
    (name, spec), *_ = serve.structured_input_signature[1].items()
    (output, returned), *_ = serve.structured_outputs.items()
    call = lambda images: serve(**{name: tf.constant(images)})[output].numpy()  # noqa: E731
    call.module = serve  # the variables live as long as the function
    return call, tuple(spec.shape[1:]), tuple(returned.shape[1:])


def stored_info(path: str, model: keras.Model) -> ModelInfo:
    """Returns what is stored with the model of a run at `path`, to be stored with an export of it.

    Raises:
      UserError: As `read_model_info`.
    """
    return _stored(path, tuple(model.input_shape[1:]), model.output_shape[-1])


def save_model(model: keras.Model, path: str, kind: str, info: ModelInfo, quantization: Quantization = FLOAT32) -> None:
    """Writes a packaged model with what is stored with it; it appears whole or not at all.

    Args:
      model: Of `packaging.package_model`.
      path: File, or folder for a SavedModel, on any file system.
      kind: keras, h5, saved_model, tflite or onnx.
      info: Goes inside, or into a JSON file beside, which is there before the model is.
      quantization: Of tflite.

    Raises:
      UserError: As `onnx_files.save_onnx`.
    """
    from tl_distributed.inference.stock_layers import with_stock_layers

    mend_configs()
    with tempfile.TemporaryDirectory() as folder, _silence():
        made = f"{folder}/model{ENDINGS[kind]}"
        if kind == "h5":
            with_stock_layers(model).save(made)
        elif kind == "keras":
            model.save(made)
        elif kind == "saved_model":
            model.export(made, verbose=False)
        elif kind == "onnx":
            save_onnx(model, made)
        else:
            with open(made, "wb") as file:
                file.write(convert(model, quantization))
        if kind in ("keras", "saved_model"):
            store_inside(made, info)
        else:
            write_file(info_path(path), beside(made, info))
        _move(made, path)


ENDINGS = {"keras": ".keras", "h5": ".h5", "saved_model": "", "tflite": ".tflite", "onnx": ".onnx"}
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


def _move(made: str, path: str) -> None:
    """Copies a file or folder beside `path` under a temporary name, then renames it."""
    temporary = f"{path}.tmp"
    if tf.io.gfile.exists(temporary):
        tf.io.gfile.rmtree(temporary)
    if not os.path.isdir(made):
        tf.io.gfile.copy(made, temporary, overwrite=True)
        replace_file(temporary, path)
        return
    for folder, _, files in os.walk(made):
        target = f"{temporary}/{os.path.relpath(folder, made)}".removesuffix("/.")
        tf.io.gfile.makedirs(target)
        for name in files:
            tf.io.gfile.copy(f"{folder}/{name}", f"{target}/{name}")
            sync(f"{target}/{name}")
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)
    tf.io.gfile.rename(temporary, path)
