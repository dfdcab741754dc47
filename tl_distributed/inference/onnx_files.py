"""ONNX files: by Keras's own export, and checked with ONNX Runtime before they are handed over."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tl_distributed.errors import UserError, one_line
from tl_distributed.inference.stock_layers import with_stock_layers

TOLERANCE = 1e-4  # of a probability, between Keras and ONNX Runtime
_WRITES, _READS = ("tf2onnx", "onnx", "onnxruntime"), ("onnxruntime",)
_CHECKED_PICTURES = 8


def refuse_without_onnx(*, to_write: bool) -> None:
    """Raises `UserError` where packages are missing that an ONNX file is written or read with."""
    missing = [name for name in (_WRITES if to_write else _READS) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install -e '.[onnx]' in the package's folder")


def save_onnx(model: keras.Model, path: str) -> None:
    """Writes a packaged model to the local disk: `pixels [batch, height, width, 3] uint8` in, probabilities out.

    Raises:
      UserError: ONNX has no operation for a part of it, or ONNX Runtime computes something else than Keras.
    """
    refuse_without_onnx(to_write=True)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it says of every node; the error below says it all
    _teach_erfc()
    try:
        # Keras compiles a depthwise convolution that is written as a grouped one, and tf2onnx cannot look inside.
        stock = with_stock_layers(model)
        stock(np.zeros((1, *model.input_shape[1:]), np.uint8))  # Keras exports no model that was never called
        stock.export(path, format="onnx", verbose=False)
        with open(path, "rb") as file:
            difference = largest_difference(open_onnx(file.read())[0], model)
    except Exception as error:  # of any of three libraries
        raise UserError(
            f"{model.name} cannot be written as ONNX ({one_line(error)[:300]}); use another --format"
        ) from None
    if not difference <= TOLERANCE:
        raise UserError(
            f"{model.name} as ONNX gives probabilities that differ by {difference:.2g} from Keras's, more than "
            f"{TOLERANCE:g}; use another --format"
        )


def _teach_erfc() -> None:
    """Has tf2onnx (1.17) know erfc(x) = 1 - erf(x), by which TensorFlow computes the GELU of ConvNeXt."""
    from tf2onnx.handler import tf_op

    class Erfc:
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            """From ONNX's operator set 9 on, where Erf begins; `ctx` is tf2onnx's graph."""
            dtypes, shapes = [ctx.get_dtype(node.output[0])], [ctx.get_shape(node.output[0])]
            given, returned, name = list(node.input), list(node.output), node.name
            ctx.remove_node(name)
            erf = ctx.make_node("Erf", given, dtypes=dtypes, shapes=shapes)
            one = ctx.make_const(f"{name}/one", np.array(1, np.float32))
            ctx.make_node(
                "Sub", [one.output[0], erf.output[0]], name=name, outputs=returned, dtypes=dtypes, shapes=shapes
            )

    tf_op("Erfc")(Erfc)


def largest_difference(predict: Callable[[np.ndarray], np.ndarray], model: keras.Model) -> float:
    """Returns how far probabilities are from those of the Keras model at most, over pictures of noise and of areas."""
    shape, generator = model.input_shape[1:], np.random.default_rng(0)
    areas = generator.integers(0, 256, (_CHECKED_PICTURES // 2, 2, 2, 3))
    repeats = [-(-side // 2) for side in shape[:2]]
    areas = areas.repeat(repeats[0], 1).repeat(repeats[1], 2)[:, : shape[0], : shape[1]]
    noise = generator.integers(0, 256, (_CHECKED_PICTURES - len(areas), *shape))
    images = np.concatenate([areas, noise]).astype(np.uint8)
    return float(np.abs(predict(images) - model.predict(images, verbose=0)).max())


def open_onnx(content: bytes) -> tuple[Callable[[np.ndarray], np.ndarray], tuple, tuple]:
    """Returns (call from images to probabilities, the shapes of both without the batch) of a file's content.

    Raises:
      UserError: ONNX Runtime is not installed.
      ValueError: It cannot open the content.
    """
    refuse_without_onnx(to_write=False)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own class for each kind
        raise ValueError(one_line(error)) from None
    (given, *_), (returned, *_) = session.get_inputs(), session.get_outputs()
    return lambda images: session.run(None, {given.name: images})[0], tuple(given.shape[1:]), tuple(returned.shape[1:])
