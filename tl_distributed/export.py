"""Command: write a run's model for others to use.

  python -m tl_distributed.export --workdir=runs/NAME --format=tflite --quantize=int8
  python -m tl_distributed.export --workdir=runs/NAME --format=onnx
  python -m tl_distributed.export --workdir=runs/NAME --format=h5 --output=cifar10.h5
  python -m tl_distributed.export --workdir=runs/NAME --calibrated

Every kind takes uint8 images of the data set's size (where pictures are stored whole, fitted squares of --image_size)
and returns probabilities. Class names and the fitting rule are stored inside it or, for .h5, .tflite and .onnx, in
OUTPUT.json beside it: copy the two together. With it lie a model card (OUTPUT.md) and a short program that uses it
without this package (OUTPUT.py); a SavedModel has both in assets.extra/. Stock Keras opens .keras and .h5.

With --calibrated the probabilities are softmax(logits / T), where T is the temperature that fitted the run's validation
images; the classes in their order stay. A TensorFlow Lite file is scored on the test images beside the float model; an
ONNX file is compared with Keras before it is written.
"""

import dataclasses
import functools

from tl_distributed.errors import UserError
from tl_distributed.models.plugins import import_plugins
from tl_distributed.models.settings import ModelSettings
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command
from tl_distributed.settings.flags import borrowed, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Flags of the command."""

    workdir: str = setting("", "Folder of a finished run.", topic="What")
    format: str = setting(
        "saved_model", "Kind of model.", topic="What", choices=("keras", "h5", "saved_model", "tflite", "onnx")
    )
    output: str = setting(
        "", "File or folder to write; by default WORKDIR/export/model.*, or saved_model; with --calibrated, "
        "model_calibrated.* or saved_model_calibrated; with --quantize, model_int8.tflite and so on.", topic="What",
    )  # fmt: skip
    calibrated: bool = setting(
        False, "Divide the logits by the temperature that the run fitted on its validation images.", topic="What"
    )
    overwrite: bool = setting(False, "Replace what is there.", topic="What")
    quantize: str = setting(
        "none", "tflite: float16 halves the file; int8 computes in integers, a quarter of the size.",
        topic="Quantization", choices=("none", "float16", "int8"),
    )  # fmt: skip
    representative_images: int = setting(
        200, "int8: images of train from which the range of every activation is learnt.", topic="Quantization",
        minimum=1,
    )  # fmt: skip
    test_images: int = setting(
        0, "tflite: images of test on which it is scored beside the float model; 0 is all.", topic="Quantization",
        minimum=0,
    )  # fmt: skip
    data_dir: str = setting("", "Data set; by default the run's own, also where both have moved.", topic="Quantization")
    plugin: tuple[str, ...] = borrowed(ModelSettings, "plugin", topic="What")

    def validate(self) -> None:
        """Raises `UserError` for flags that say nothing or nothing together."""
        if not self.workdir:
            raise UserError("name the run: --workdir=runs/NAME")
        if self.quantize != "none" and self.format != "tflite":
            raise UserError(f"--quantize={self.quantize} is of --format=tflite, not of --format={self.format}")
        if self.test_images and self.format != "tflite":
            raise UserError(f"--test_images={self.test_images} has no effect with --format={self.format}; drop it")
        if self.representative_images != ExportConfig.representative_images and self.quantize != "int8":
            raise UserError(
                f"--representative_images={self.representative_images} has no effect without --quantize=int8; drop it"
            )


def main(config: ExportConfig, positional: list[str]) -> None:
    """Writes the model, and what comes with it."""
    refuse_positional(positional)
    config.validate()
    import_tensorflow()
    import_plugins(config.plugin)
    from tl_distributed.inference.exporting import ExportRequest, export_run

    export_run(ExportRequest(
        workdir=config.workdir.rstrip("/"), kind=config.format, output=config.output.rstrip("/"),
        calibrated=config.calibrated, overwrite=config.overwrite, quantize=config.quantize,
        representative_images=config.representative_images, test_images=config.test_images, data_dir=config.data_dir,
    ))  # fmt: skip


run = functools.partial(run_command, main, ExportConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
