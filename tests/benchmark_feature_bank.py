"""Trains a frozen and a partly frozen MobileNetV2 with the feature bank and by stock `keras.Model.fit`, side by side.

  python -m data_prep.build_tfrecords --source=cifar10 --limit_per_class=600 --val_fraction=0.16667 \\
      --output_dir=data/cifar10_5000
  python tests/benchmark_feature_bank.py --data_dir=data/cifar10_5000 \\
      --weights=mobilenet_v2_imagenet_notop.weights.h5

Both sides train the same layers for the same epochs on the same images with the same batch, validate after every
epoch, keep the best and score the test split; both are timed as whole processes, from start to results, so that
imports, compilation and the building of the bank count; the two take turns. Prints a JSON line for every pair, and one
for each transfer mode with the median and the range of the pairs' ratios.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tl_distributed.commandline import UserError, refuse_positional, run_command, setting  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    data_dir: str = setting("", "Data set.", topic="Flags")
    weights: str = setting("", "Keras weights file of MobileNetV2 without its top.", topic="Flags")
    transfers: tuple[str, ...] = setting(("frozen", "partial"), "What to compare.", topic="Flags")
    unfreeze_last_layers: int = setting(30, "partial: how many layers of the backbone train.", topic="Flags")
    image_size: int = setting(96, "Side in pixels.", topic="Flags")
    epochs: int = setting(20, "Epochs.", topic="Flags")
    repeats: int = setting(3, "Pairs of runs of each transfer mode.", topic="Flags", minimum=1)
    global_batch_size: int = setting(32, "Images in a step.", topic="Flags")


def main(config: BenchmarkConfig, positional: list[str]) -> None:
    refuse_positional(positional)
    for transfer in config.transfers:
        ratios = []
        for _ in range(config.repeats):
            pair = _pair(config, transfer)
            ratios.append(pair["times_faster"])
            print(json.dumps(pair), flush=True)
        summary = {
            "transfer": transfer,
            "pairs": config.repeats,
            "median_times_faster": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
        print(json.dumps(summary), flush=True)


def _pair(config: BenchmarkConfig, transfer: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        ours, results = _ours(config, transfer, f"{folder}/run")
    stock, stock_results = _stock(config, transfer)
    return {
        "transfer": transfer,
        "banked_seconds": ours,
        "stock_fit_seconds": stock,
        "times_faster": stock / ours,
        "banked_test_accuracy": results["test_accuracy"],
        "stock_fit_test_accuracy": stock_results["test_accuracy"],
    }


def _ours(config: BenchmarkConfig, transfer: str, workdir: str) -> tuple[float, dict]:
    command = [
        sys.executable, "-m", "tl_distributed.train", "--backbone=mobilenet_v2", "--augment=none", "--feature_bank=on",
        f"--transfer={transfer}", f"--workdir={workdir}", f"--finetune_learning_rate={_rate(transfer)}",
        f"--learning_rate={_rate(transfer)}", *_common(config),
    ]  # fmt: skip
    if transfer == "partial":
        command.append(f"--unfreeze_last_layers={config.unfreeze_last_layers}")
    seconds, _ = _timed(command)
    return seconds, json.loads((pathlib.Path(workdir) / "results.json").read_text())


def _stock(config: BenchmarkConfig, transfer: str) -> tuple[float, dict]:
    command = [
        sys.executable, str(ROOT / "tests" / "stock_keras_fit.py"), f"--transfer={transfer}",
        f"--unfreeze_last_layers={config.unfreeze_last_layers}", f"--learning_rate={_rate(transfer)}",
        *_common(config),
    ]  # fmt: skip
    seconds, output = _timed(command)
    return seconds, json.loads(output.splitlines()[-1])


def _rate(transfer: str) -> float:
    return 1e-3 if transfer == "frozen" else 1e-4


def _common(config: BenchmarkConfig) -> list[str]:
    names = ("data_dir", "weights", "image_size", "epochs", "global_batch_size")
    return [f"--{name}={getattr(config, name)}" for name in names]


def _timed(command: list[str]) -> tuple[float, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[1:3])} ended with exit code {done.returncode}; its message is above")
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    run_command(main, BenchmarkConfig, __doc__)
