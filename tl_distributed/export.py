"""Command: write a run's model for others to use.

  python -m tl_distributed.export --workdir=runs/NAME --format=tflite
  python -m tl_distributed.export --workdir=runs/NAME --format=h5 --output=cifar10.h5

Every kind takes uint8 images of the data set's size and returns probabilities. Class names and the fitting rule
are stored inside it or, for .h5 and .tflite, in OUTPUT.json beside it: copy the two together. Stock Keras opens .keras
and .h5 without this package.
"""

import dataclasses
import functools
import os

from tl_distributed.errors import UserError
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command
from tl_distributed.settings.flags import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Flags of the command."""

    workdir: str = setting("", "Folder of a finished run.", topic="What")
    format: str = setting(
        "saved_model", "Kind of model.", topic="What", choices=("keras", "h5", "saved_model", "tflite")
    )
    output: str = setting(
        "", "File or folder to write; by default WORKDIR/export/model.*, or saved_model.", topic="What"
    )
    overwrite: bool = setting(False, "Replace what is there.", topic="What")


def main(config: ExportConfig, positional: list[str]) -> None:
    """Writes the model, and what is stored with it."""
    refuse_positional(positional)
    if not config.workdir:
        raise UserError("name the run: --workdir=runs/NAME")
    import_tensorflow()
    import keras
    import tensorflow as tf

    from tl_distributed.files import path_exists
    from tl_distributed.inference.model_info import info_path
    from tl_distributed.inference.saved import DEFAULT_NAMES, ENDINGS, save_model, stored_info

    workdir = config.workdir.rstrip("/")
    source = f"{workdir}/model.keras"
    if not path_exists(source):
        raise UserError(f"--workdir={config.workdir}: no model.keras there; the run has not finished")
    output = config.output.rstrip("/") or f"{workdir}/export/{DEFAULT_NAMES[config.format]}"
    if not output.endswith(ENDINGS[config.format]):
        raise UserError(f"--output={config.output}: --format={config.format} is written to *{ENDINGS[config.format]}")
    if tf.io.gfile.exists(output) and not config.overwrite:
        raise UserError(f"{output} exists; use --overwrite to replace it")
    tf.io.gfile.makedirs(os.path.dirname(output) or ".")
    model = keras.models.load_model(source, compile=False, safe_mode=True)
    save_model(model, output, config.format, stored_info(source, model))
    print(f"{output}: {config.format}, class names in {info_path(output)}")


run = functools.partial(run_command, main, ExportConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
