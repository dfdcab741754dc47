"""Trains the same run on several layouts of processes and replicas, and prints their losses side by side.

  python tests/campaigns/layout_matrix.py

Every process is a real one on the loopback device; a replica is a virtual CPU device. Without BatchNorm all layouts
must agree up to the rounding of sums; with it those with as many replicas, since its statistics are of a replica's part
of the batch: four images at least, since two that are nearly equal blow the rounding up. Exit code 1 where they do not.
"""

import dataclasses
import json
import os
import pathlib
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support")]

from restarted_run import read_rows  # noqa: E402
from worker_processes import WorkerProcesses  # noqa: E402

from tl_distributed.errors import UserError  # noqa: E402
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command  # noqa: E402
from tl_distributed.settings.flags import setting  # noqa: E402

LAYOUTS = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))  # processes, replicas of each
_COUNTS = {"train": 96, "val": 18, "test": 21}
_LONGEST_RUN_SECONDS = 1200  # four processes on two cores that others use too


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixConfig:
    epochs: int = setting(20, "Epochs, of 6 steps.", topic="Flags", minimum=1)
    tolerance: float = setting(1e-4, "Largest relative difference of any step's loss.", topic="Flags", minimum=0)


def main(config: MatrixConfig, positional: list[str]) -> int:
    refuse_positional(positional)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_tensorflow()
    from toy_dataset import write_toy_dataset

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data_dir = write_toy_dataset(folder / "data", counts=_COUNTS, num_shards=3)
        runs = {
            (backbone, layout): _train(folder / f"{backbone}_{index}", backbone, layout, data_dir, config.epochs)
            for backbone in ("tiny", "tiny_norm")
            for index, layout in enumerate(LAYOUTS)
        }
    print(table(runs))
    return 0 if max(differences(runs).values()) <= config.tolerance else 1


def _train(folder: pathlib.Path, backbone: str, layout: tuple[int, int], data_dir: str, epochs: int) -> dict:
    """Returns the losses of all steps, the test loss and the test accuracy of a run."""
    processes, replicas = layout
    flags = [
        f"--backbone={backbone}", "--transfer=scratch", "--augment=basic", "--dropout=0", "--learning_rate=0.01",
        "--precision=float32", "--xla=off", "--input_mode=memory", "--global_batch_size=16", "--log_every_steps=1",
        f"--epochs={epochs}", f"--virtual_devices={replicas}", f"--data_dir={data_dir}", f"--workdir={folder / 'run'}",
    ]  # fmt: skip
    with WorkerProcesses(folder / "logs", "train_tiny.py", processes) as workers:
        if processes > 1:
            workers.start_all(*flags)
        else:
            workers.start(0, *flags, f"--strategy={'mirrored' if replicas > 1 else 'one_device'}")
        codes = workers.wait(_LONGEST_RUN_SECONDS)
        if any(codes):
            raise UserError(f"{processes} x {replicas} ended with {codes}: {workers.log(0)}")
    results = json.loads((folder / "run" / "results.json").read_text())
    losses = [row["loss"] for row in read_rows(folder / "run") if "loss" in row]
    return {"losses": losses, "test_loss": results["test_loss"], "test_accuracy": results["test_accuracy"]}


def _like(backbone: str, layout: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """Returns the run of one process with which a run has to agree."""
    return backbone, (1, layout[0] * layout[1] if backbone == "tiny_norm" else 1)


def differences(runs: dict) -> dict:
    """Returns the largest relative difference of a step's loss from that of the run it has to agree with."""
    return {
        key: max(
            abs(loss - expected) / abs(expected)
            for loss, expected in zip(run["losses"], runs[_like(*key)]["losses"], strict=True)
        )
        for key, run in runs.items()
    }


def table(runs: dict) -> str:
    """Returns the table of docs/performance/recovery.md."""
    lines = [
        "| processes x replicas | loss of the last step | test loss | largest difference from 1 x 1 | with BatchNorm: "
        "loss of the last step | test loss | largest difference from one process |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    away = differences(runs)
    for layout in LAYOUTS:
        cells = [f"{layout[0]} x {layout[1]}"]
        for backbone in ("tiny", "tiny_norm"):
            run = runs[backbone, layout]
            cells += [f"{run['losses'][-1]:.7f}", f"{run['test_loss']:.7f}", f"{away[backbone, layout]:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, MatrixConfig, __doc__)
