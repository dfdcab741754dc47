"""A run's model becomes a file of another kind, with all that its users need."""

import dataclasses
import os

import keras
import tensorflow as tf

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.files import path_exists, read_json
from tl_distributed.inference.companions import card_path, remove_companions, script_name, write_companions
from tl_distributed.inference.compared import LOUD_POINTS, Compared, DataOfModel
from tl_distributed.inference.model_card import CardFacts, model_card
from tl_distributed.inference.model_info import ModelInfo, info_path
from tl_distributed.inference.onnx_files import TOLERANCE, refuse_without_onnx
from tl_distributed.inference.packaging import calibrate_model
from tl_distributed.inference.run_data import find_data_dir
from tl_distributed.inference.saved import DEFAULT_NAMES, ENDINGS, load_keras, open_model, save_model, stored_info
from tl_distributed.inference.tflite import Interpreter, Quantization, Quantize
from tl_distributed.inference.use_script import use_script
from tl_distributed.streams import show_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is asked for; paths without a slash at their end, empty `output` and `data_dir` are found."""

    workdir: str
    kind: str
    output: str
    calibrated: bool
    overwrite: bool
    quantize: Quantize
    representative_images: int
    test_images: int
    data_dir: str

    @property
    def made_as(self) -> str:
        """How the export is called in a line, e.g. `tflite, int8`."""
        return self.kind if self.quantize == "none" else f"{self.kind}, {self.quantize}"


def export_run(request: ExportRequest) -> str:
    """Writes the model, its card and its script, and prints what they are; returns the path of the model.

    Raises:
      UserError: No finished run, an output that is there already, a temperature, data set or package that is missing,
        or a model that the format cannot hold.
    """
    if request.kind == "onnx":
        refuse_without_onnx(to_write=True)
    source, output = _source(request), _output(request)
    model = load_keras(source)
    stored = stored_info(source, model)
    if request.calibrated:
        model, stored = _calibrated(model, stored, source)
    data_dir, missing = _data_dir(request)
    is_scored = request.kind == "tflite" and data_dir
    data = DataOfModel(data_dir, open_model(request.workdir)) if is_scored else None
    quantization = _quantization(request, data, missing)
    tf.io.gfile.makedirs(os.path.dirname(output) or ".")
    if tf.io.gfile.exists(output):
        remove_companions(output)
    save_model(model, output, request.kind, stored, quantization)
    at = f", at temperature {stored.temperature:.4g}" if stored.calibrated else ""
    print(f"{output}: {request.made_as}{at}, class names in {info_path(output)}, card in {card_path(output)}")
    compared, note = None, _how_made(request, quantization)
    if request.kind == "tflite":
        compared, in_float = _compared(request, output, data, missing)
        note += " Some of its operations compute in float32." if in_float and request.quantize == "int8" else ""
    script = use_script(request.kind, stored, model.output_shape[-1])
    write_companions(output, script=script, card=model_card(CardFacts(
        title=os.path.basename(os.path.abspath(request.workdir)), made_as=request.made_as,
        config=read_json(f"{request.workdir}/config.json") or {},
        results=read_json(f"{request.workdir}/results.json") or {}, info=stored,
        data=read_manifest(data_dir) if data_dir else None, compared=compared, note=note,
        script=(script, script_name(output)),
    )))  # fmt: skip
    return output


def _source(request: ExportRequest) -> str:
    source = f"{request.workdir}/model.keras"
    if not path_exists(source):
        raise UserError(f"--workdir={request.workdir}: no model.keras there; the run has not finished")
    return source


def _output(request: ExportRequest) -> str:
    ending = ENDINGS[request.kind]
    name = DEFAULT_NAMES[request.kind].removesuffix(ending)
    name += "_calibrated" if request.calibrated else ""
    name += f"_{request.quantize}" if request.quantize != "none" else ""
    output = request.output or f"{request.workdir}/export/{name}{ending}"
    if not output.endswith(ending):
        raise UserError(f"--output={request.output}: --format={request.kind} is written to *{ending}")
    if tf.io.gfile.exists(output) and not request.overwrite:
        raise UserError(f"{output} exists; use --overwrite to replace it")
    if request.kind == "saved_model":
        _refuse_other_content(output)
    return output


def _refuse_other_content(output: str) -> None:
    """Raises `UserError` where --overwrite would remove something else than a SavedModel: a run, say, or a home."""
    if not tf.io.gfile.exists(output) or tf.io.gfile.exists(f"{output}/saved_model.pb"):
        return
    if not tf.io.gfile.isdir(output) or tf.io.gfile.listdir(output):
        raise UserError(f"--output={output}: is there and no SavedModel, so --overwrite leaves it; name another")


def _calibrated(model: keras.Model, stored: ModelInfo, source: str) -> tuple[keras.Model, ModelInfo]:
    if stored.calibrated:
        raise UserError(f"--calibrated: {source} is at its temperature already; drop the flag")
    if stored.temperature is None:
        raise UserError(
            f"--calibrated: {source} has no temperature: its data set has no val split to fit it on, or an older "
            "version trained it"
        )
    return calibrate_model(model, stored.temperature), dataclasses.replace(stored, calibrated=True)


def _data_dir(request: ExportRequest) -> tuple[str, str]:
    """Returns (the folder of the run's data set, why there is none)."""
    try:
        return request.data_dir or find_data_dir(request.workdir), ""
    except UserError as error:
        return "", str(error)


def _quantization(request: ExportRequest, data: DataOfModel | None, missing: str) -> Quantization:
    if request.quantize != "int8":
        return Quantization(request.quantize)
    if data is None:
        raise UserError(f"--quantize=int8 needs pictures of train: {missing}")
    return Quantization("int8", data.train_pictures(request.representative_images))


def _how_made(request: ExportRequest, quantization: Quantization) -> str:
    if quantization.pictures is not None:  # train may have fewer than were asked for
        return f"Ranges of activations are those of {len(quantization.pictures):,} images of train."
    if request.kind == "onnx":
        return f"Its probabilities were compared with Keras's: within {TOLERANCE:g}."
    return ""


def _compared(
    request: ExportRequest, output: str, data: DataOfModel | None, missing: str
) -> tuple[Compared | None, bool]:
    """Scores a TensorFlow Lite file and prints how it does; returns that, and whether it computes in float32."""
    with tf.io.gfile.GFile(output, "rb") as file:
        interpreter = Interpreter(file.read())
    if data is None:
        show_line(f"Not scored: {missing}")
        return None, interpreter.in_float
    compared = data.compare(interpreter, most_images=request.test_images)
    if compared is None:
        show_line("Not scored: the data set has neither a test nor a val split")
        return None, interpreter.in_float
    print(compared.line())
    if compared.lost_points > LOUD_POINTS:
        show_line(
            f"WARNING: {output} lost {compared.lost_points:.1f} points of accuracy to {request.made_as}. Try "
            f"--quantize={'float16' if request.quantize == 'int8' else 'none'}, more --representative_images, or "
            "another --backbone."
        )
    return compared, interpreter.in_float
