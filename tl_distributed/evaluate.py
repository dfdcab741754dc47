"""Command: score a saved model of any kind on a split.

  python -m tl_distributed.evaluate --workdir=runs/NAME --split=test
  python -m tl_distributed.evaluate --model=export/model.tflite --data_dir=data/cifar10

Prints accuracy, loss, calibration and each class's precision and recall; --output writes them as JSON.
"""

import dataclasses
import functools

from tl_distributed.errors import UserError
from tl_distributed.models.plugins import import_plugins
from tl_distributed.models.settings import ModelSettings
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command
from tl_distributed.settings.flags import borrowed, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Flags of the command."""

    workdir: str = setting("", "Folder of a finished run; its model and data set are taken.", topic="What")
    model: str = setting("", "A .keras, .h5, .tflite or .onnx file or a SavedModel folder.", topic="What")
    data_dir: str = setting("", "Data set; by default the run's own, also where both have moved.", topic="What")
    split: str = setting("test", "Split to score.", topic="What", choices=("train", "val", "test"))
    batch_size: int = setting(128, "Images at once.", topic="How", minimum=1)
    output: str = setting("", "JSON file to write.", topic="How")
    reliability_plot: str = setting("", "PNG file to write: accuracy over confidence.", topic="How")
    plugin: tuple[str, ...] = borrowed(ModelSettings, "plugin", topic="How")


def main(config: EvaluateConfig, positional: list[str]) -> None:
    """Scores the model and prints a table."""
    refuse_positional(positional)
    if bool(config.workdir) == bool(config.model):
        raise UserError("name one of --workdir=RUN and --model=FILE")
    if config.model and not config.data_dir:
        raise UserError("--model needs --data_dir=FOLDER of a data set to score it on")
    import_tensorflow()
    import_plugins(config.plugin)
    from tl_distributed.files import write_json
    from tl_distributed.inference.run_data import find_data_dir
    from tl_distributed.inference.scoring import class_table, figures_line, score_model

    workdir = config.workdir.rstrip("/")
    data_dir = config.data_dir or find_data_dir(workdir)
    summary = score_model(config.model or workdir, data_dir, split=config.split, batch_size=config.batch_size)
    print(class_table(summary))
    print(f"{config.split}: {figures_line(summary)}")
    if config.output:
        write_json(config.output, summary)
    if config.reliability_plot:
        from tl_distributed.reporting.plots import reliability_diagram, save_figure

        if "reliability" not in summary:
            raise UserError("--reliability_plot is of one label a picture; drop it")
        bins = summary["reliability"], summary.get("reliability_calibrated", ())
        save_figure(reliability_diagram(*bins, summary.get("temperature")), config.reliability_plot)


run = functools.partial(run_command, main, EvaluateConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
