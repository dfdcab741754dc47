"""Command: fine-tune a backbone on a data set that `data_prep.build_tfrecords` wrote; from Python, `tl.train`."""

import functools
import shlex

from tl_distributed.api.run import train_with
from tl_distributed.errors import Stopped
from tl_distributed.models.plugins import import_plugins
from tl_distributed.reporting.shown_scores import shown_metric
from tl_distributed.runtime.cluster import resolve_cluster
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.command import refuse_positional, run_command, start_logging
from tl_distributed.settings.config import Config
from tl_distributed.settings.recipes import all_recipes

DESCRIPTION = """python -m tl_distributed.train --backbone=NAME [--flag=value ...]

Trains on --data_dir and writes --workdir: checkpoints, metrics.jsonl, results.json, model.keras, plots,
TensorBoard events. The same command again goes on where it stopped. --flagfile=PATH reads flags from a file."""


def main(config: Config, positional: list[str]) -> None:
    """Checks the flags before TensorFlow is imported, then trains."""
    refuse_positional(positional)
    if config.backbone == "list":
        import_plugins(config.plugin)
        _print_backbones()
        return
    if config.recipe == "list":
        for recipe in all_recipes():
            print(f"{recipe.name:22}{'study: ' if recipe.is_study else ''}{recipe.summary}")
        return
    start_logging()
    try:
        results = train_with(config).results
    except Stopped as stop:
        raise SystemExit(128 + stop.signal_number) from None
    if config.strategy == "multi_worker" and resolve_cluster(config.part(RuntimeSettings)).index != 0:
        return  # the chief shows them
    for split, name in (("val", "Validation"), ("test", "Test")):
        if split in results["num_examples"]:
            print(f"{name} {shown_metric(results, split)} of {results['num_examples'][split]} images")
    workdir = results["workdir"]
    print(f"Results, model and plots: {workdir}   Charts: tensorboard --logdir {shlex.quote(workdir)}")


def _print_backbones() -> None:
    from tl_distributed.models.backbones import BACKBONES

    print(f"{'name':24}{'pixels':>8}{'minimum':>9}{'GMACs':>9}  weights")
    for row in BACKBONES.values():
        weights = "imagenet" if row.has_imagenet_weights else "own" if row.pretrained else "none"
        gmacs = "" if row.gmacs is None else f"{row.gmacs:.3f}"
        print(f"{row.name:24}{row.default_size or '':8}{row.minimum_size:9}{gmacs:>9}  {weights}")


run = functools.partial(run_command, main, Config, DESCRIPTION)  # what the console script calls

if __name__ == "__main__":
    run()
