"""Command: look inside a finished run, before and after training.

  python -m tl_distributed.inspect_features --workdir=runs/NAME --layer=block_13_expand_relu
  python -m tl_distributed.inspect_features --workdir=runs/NAME --before=runs/OTHER --images=0,5,17,photo.jpg

Feature maps of some images before and after training, linear CKA between the two for each layer, the images' features
in two dimensions (PCA, t-SNE), and Grad-CAM of right and wrong answers. WORKDIR/inspection gets PNGs, inspection.json
and what TensorBoard shows under Images and Projector.
"""

import functools

from tl_distributed.errors import UserError
from tl_distributed.inspection.settings import InspectConfig
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command, start_logging


def main(config: InspectConfig, positional: list[str]) -> None:
    """Looks inside, and says where the pictures are."""
    refuse_positional(positional)
    if not config.workdir:
        raise UserError("name the run: --workdir=runs/NAME")
    start_logging()
    import_tensorflow()
    from tl_distributed.inspection.inspection import inspect_run

    for path in inspect_run(config):
        print(path)


run = functools.partial(run_command, main, InspectConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
