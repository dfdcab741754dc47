"""Command: classify image files with a saved model.

  python -m tl_distributed.predict --model=runs/NAME photo.jpg folder/
  python -m tl_distributed.predict --model=export/model.tflite --format=table --top=3 *.png

One JSON object a line (or a table): file, class, probability, the best --top classes. A file that is no image
is named on standard error and the rest go on; the exit code is then 1. Pictures are prepared as those were that the
model was trained on.
"""

import dataclasses
import functools

from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.fit_rules import FITS, Fit
from tl_distributed.errors import UserError
from tl_distributed.models.plugins import import_plugins
from tl_distributed.models.settings import ModelSettings
from tl_distributed.settings.command import import_tensorflow, run_command
from tl_distributed.settings.flags import borrowed, setting
from tl_distributed.streams import show_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Flags of the command; images are its arguments."""

    model: str = setting(
        "", "A run's workdir, a .keras, .h5, .tflite or .onnx file, or a SavedModel folder.", topic="What"
    )
    format: str = setting("jsonl", "How to print.", topic="Output", choices=("jsonl", "table"))
    top: int = setting(3, "Classes listed for each image.", topic="Output", minimum=1)
    batch_size: int = setting(64, "Images at once.", topic="How", minimum=1)
    fit: str | None = setting(
        None,
        "What becomes of a picture that is not square: squash it, crop its largest centred square, or pad it with "
        "black. [default: as the model was trained]",
        topic="How",
        choices=FITS,
    )
    crop_to_aspect_ratio: bool = setting(False, "The same as --fit=crop.", topic="How")
    max_megapixels: float = borrowed(DecodeSettings, "max_megapixels", topic="How")
    plugin: tuple[str, ...] = borrowed(ModelSettings, "plugin", topic="How")

    @property
    def asked_fit(self) -> Fit | None:
        """The rule that the flags ask for, or `None`: the model's own."""
        return "crop" if self.crop_to_aspect_ratio else self.fit


def main(config: PredictConfig, positional: list[str]) -> int:
    """Predicts every image; returns 1 if some could not be read."""
    if not config.model:
        raise UserError("name the model: --model=runs/NAME or --model=FILE")
    if not positional:
        raise UserError("name image files or folders after the flags")
    if config.crop_to_aspect_ratio and config.fit not in (None, "crop"):
        raise UserError(f"--crop_to_aspect_ratio is --fit=crop, not --fit={config.fit}; drop one of them")
    import_tensorflow()
    import_plugins(config.plugin)
    from tl_distributed.inference.predictions import choose_fit, find_images, predict_files, print_predictions
    from tl_distributed.inference.saved import open_model

    files, model = find_images(positional), open_model(config.model)
    fit, note = choose_fit(model, config.asked_fit)
    if note:
        show_line(note)
    results = predict_files(
        model, files, top=config.top, batch_size=config.batch_size, fit=fit, max_megapixels=config.max_megapixels
    )
    return 1 if print_predictions(results, as_table=config.format == "table") else 0


run = functools.partial(run_command, main, PredictConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
