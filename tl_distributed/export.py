"""Command: write a run's model for others to use.

  python -m tl_distributed.export --workdir=runs/NAME --format=tflite
  python -m tl_distributed.export --workdir=runs/NAME --format=h5 --output=cifar10.h5
  python -m tl_distributed.export --workdir=runs/NAME --calibrated

Every kind takes uint8 images of the data set's size (where pictures are stored whole, fitted squares of --image_size)
and returns probabilities. Class names and the fitting rule are stored inside it or, for .h5 and .tflite, in OUTPUT.json
beside it: copy the two together. Stock Keras opens .keras and .h5 without this package. With --calibrated the
probabilities are softmax(logits / T), where T is the temperature that fitted the run's validation images; the classes
in their order stay.
"""

import dataclasses
import functools
import os

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
        "saved_model", "Kind of model.", topic="What", choices=("keras", "h5", "saved_model", "tflite")
    )
    output: str = setting(
        "", "File or folder to write; by default WORKDIR/export/model.*, or saved_model; with --calibrated, "
        "model_calibrated.* or saved_model_calibrated.", topic="What",
    )  # fmt: skip
    calibrated: bool = setting(
        False, "Divide the logits by the temperature that the run fitted on its validation images.", topic="What"
    )
    overwrite: bool = setting(False, "Replace what is there.", topic="What")
    plugin: tuple[str, ...] = borrowed(ModelSettings, "plugin", topic="What")


def main(config: ExportConfig, positional: list[str]) -> None:
    """Writes the model, and what is stored with it."""
    refuse_positional(positional)
    if not config.workdir:
        raise UserError("name the run: --workdir=runs/NAME")
    import_tensorflow()
    import_plugins(config.plugin)
    import keras
    import tensorflow as tf

    from tl_distributed.files import path_exists
    from tl_distributed.inference.model_info import info_path
    from tl_distributed.inference.packaging import calibrate_model
    from tl_distributed.inference.saved import DEFAULT_NAMES, ENDINGS, save_model, stored_info

    workdir = config.workdir.rstrip("/")
    source = f"{workdir}/model.keras"
    if not path_exists(source):
        raise UserError(f"--workdir={config.workdir}: no model.keras there; the run has not finished")
    ending = ENDINGS[config.format]
    name = DEFAULT_NAMES[config.format].removesuffix(ending) + ("_calibrated" if config.calibrated else "") + ending
    output = config.output.rstrip("/") or f"{workdir}/export/{name}"
    if not output.endswith(ending):
        raise UserError(f"--output={config.output}: --format={config.format} is written to *{ending}")
    if tf.io.gfile.exists(output) and not config.overwrite:
        raise UserError(f"{output} exists; use --overwrite to replace it")
    model = keras.models.load_model(source, compile=False, safe_mode=True)
    stored = stored_info(source, model)
    if config.calibrated:
        if stored.temperature is None:
            raise UserError(
                f"--calibrated: {source} has no temperature: its data set has no val split to fit it on, or an older "
                "version trained it"
            )
        model, stored = calibrate_model(model, stored.temperature), dataclasses.replace(stored, calibrated=True)
    tf.io.gfile.makedirs(os.path.dirname(output) or ".")
    save_model(model, output, config.format, stored)
    at = f", at temperature {stored.temperature:.4g}" if stored.calibrated else ""
    print(f"{output}: {config.format}{at}, class names in {info_path(output)}")


run = functools.partial(run_command, main, ExportConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
