"""Command: measure speed, side by side with stock Keras, TFDS and PyTorch.

  python -m tl_distributed.benchmark SUBCOMMAND [--flag=value ...]    (SUBCOMMAND --help lists its flags)

  input     training batches from shards, shards from images, growth with the size of the set
  pixels    resize and augmentation alone
  step      the training step: images/s, TFLOP/s and their share of the device's, bytes to the device
  frozen    frozen and partly frozen training through the feature bank, whole processes
  startup   --help, and the time from the start of the process to the end of the first step
  scaling   replicas and worker processes
  peers     every way of taking a step, ours with XLA on and off too, on one table

Every contender has a process of its own, and they take turns. Prints a table; --output writes every measurement.
"""

import importlib
import sys

from tl_distributed.errors import UserError
from tl_distributed.settings.command import HELP, refuse_positional, run_command, run_to_exit, start_logging

# Of each: module, function, class of its flags.
SUBCOMMANDS = {
    "input": ("input", "run_input", "InputConfig"),
    "pixels": ("pixels", "run_pixels", "PixelsConfig"),
    "step": ("step", "run_step", "StepConfig"),
    "frozen": ("frozen", "run_frozen", "FrozenConfig"),
    "startup": ("startup", "run_startup", "StartupConfig"),
    "scaling": ("scaling", "run_scaling", "ScalingConfig"),
    "peers": ("step", "run_peers", "StepConfig"),
}


def main(arguments: list[str]) -> None:
    """Reads which sub-command it is, and runs it with its own flags."""
    name = arguments[0] if arguments else ""
    if name in HELP:
        print(__doc__.strip())
        return
    if name not in SUBCOMMANDS:
        raise UserError(f"sub-command {name!r}: takes one of {', '.join(SUBCOMMANDS)}")
    module, function, config_class = SUBCOMMANDS[name]
    settings = importlib.import_module("tl_distributed.benchmarks.settings")
    description = next(line for line in __doc__.splitlines() if line.startswith(f"  {name} "))
    run_command(
        lambda config, positional: _run(module, function, config, positional),
        getattr(settings, config_class), f"python -m tl_distributed.benchmark {description.strip()}", arguments[1:],
    )  # fmt: skip


def _run(module: str, function: str, config: object, positional: list[str]) -> None:
    refuse_positional(positional)
    from tl_distributed.benchmarks.report import check_output, machine

    check_output(config.output)
    start_logging()
    getattr(importlib.import_module(f"tl_distributed.benchmarks.{module}"), function)(config, machine())


def run() -> None:
    """Runs the command, also as the console script that `setup.py` names."""
    run_to_exit(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
