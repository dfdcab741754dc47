"""Interrupts trainings of several workers at random moments, restarts them, and looks whether anything was lost.

  python tests/campaigns/kill_campaign.py --kills=30 --seed=0

Each run trains a tiny net on a toy data set and is interrupted again and again (kill -9 of one worker or of all,
SIGTERM, SIGUSR1, a frozen worker, a cut link, a full disk), restarted each time with the same command, until it
finishes. Then its last checkpoint is compared with that of a run that nobody interrupted, bit for bit, optimizer
included; the net counts among its weights which images trained it, so each image must have been seen once an epoch;
and metrics.jsonl must hold the same rows. Prints a JSON line for every interruption and for every finished run, then a
table. Exit code 1 where a run ended with other weights, lost or repeated an image, or workers ended otherwise than the
docs say.

As root with iproute2 the workers live in network namespaces with addresses of their own, and the workdirs on a small
file system; elsewhere all is on the loopback device, and the link and the disk are left alone.
"""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support")]

from interruptions import INTERRUPTIONS, Site, make_site  # noqa: E402
from restarted_run import Run, read_rows  # noqa: E402

from tl_distributed.errors import UserError  # noqa: E402
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command  # noqa: E402
from tl_distributed.settings.flags import setting  # noqa: E402

_BATCH, _EARLY_SHARE, _LONGEST_DELAY_SECONDS = 8, 0.2, 0.3
_HANG_SECONDS = 120  # beyond the workers' timeout
_LONGEST_RUN_SECONDS = 600
_REPEATABLE = (  # of a row of metrics.jsonl; the others tell how fast it was
    "step", "epoch", "phase", "loss", "accuracy", "learning_rate", "gradient_norm", "loss_scale", "skipped_updates",
    "val_loss", "val_accuracy",
)  # fmt: skip
COUNTS = {"train": 96, "val": 18, "test": 21}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CampaignConfig:
    kills: int = setting(30, "Interruptions in all.", topic="Flags", minimum=1)
    seed: int = setting(0, "Of what happens when, and to whom.", topic="Flags")
    workers: int = setting(2, "Processes of each run.", topic="Flags", minimum=2)
    epochs: int = setting(20, "Epochs of each run, of 12 steps.", topic="Flags", minimum=1)
    checkpoint_every_steps: int = setting(5, "Steps between checkpoints.", topic="Flags", minimum=1)
    worker_timeout_seconds: float = setting(6.0, "When a silent worker counts as lost.", topic="Flags", minimum=2)
    modes: tuple[str, ...] = setting(("memory", "disk"), "Input modes, in turn.", topic="Flags")
    kinds: tuple[str, ...] = setting((), "Which interruptions; by default all that this machine allows.", topic="Flags")
    most_steps_ahead: int = setting(40, "Steps that a run gets at most before the next one.", topic="Flags", minimum=1)
    keep: str = setting("", "Folder to leave logs and workdirs in.", topic="Flags")


def main(config: CampaignConfig, positional: list[str]) -> int:
    refuse_positional(positional)
    unknown = set(config.kinds) - INTERRUPTIONS.keys()
    if unknown:
        raise UserError(f"--kinds: {', '.join(unknown)}; takes {', '.join(INTERRUPTIONS)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_tensorflow()
    for number in (signal.SIGINT, signal.SIGTERM):  # processes, hosts and disk are not left behind
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder, make_site(pathlib.Path(folder), config.workers) as site:
        campaign = Campaign(config, pathlib.Path(folder), site)
        try:
            campaign.run()
        finally:
            if config.keep:
                shutil.copytree(folder, config.keep, dirs_exist_ok=True)
        return campaign.report()


class Campaign:
    """All runs; `kills` and `runs` are what it found."""

    def __init__(self, config: CampaignConfig, folder: pathlib.Path, site: Site):
        from toy_dataset import write_toy_dataset

        self._config, self._folder, self._site = config, folder, site
        self._random = random.Random(config.seed)
        self._kinds = [name for name in config.kinds or INTERRUPTIONS if INTERRUPTIONS[name].possible(site)]
        self._queue: list[str] = []
        self._data_dir = write_toy_dataset(folder / "data", counts=COUNTS, num_shards=3, numbered=True)
        self._startup_seconds = 0.0
        self.kills: list[dict] = []
        self.runs: list[dict] = []

    def run(self) -> None:
        """Interrupts runs until there were as many interruptions as wanted; each run is then left to finish."""
        references = {mode: self._reference(mode) for mode in self._config.modes}
        while len(self.kills) < self._config.kills:
            mode = self._config.modes[len(self.runs) % len(self._config.modes)]
            number = len(self.runs)
            run = self._new_run(f"run_{number}", mode)
            first_kill = len(self.kills)
            with run.workers:
                self._interrupt_until_finished(run, mode)
            found = compare(run.workdir, references[mode], epochs=self._config.epochs)
            self.runs.append({"run": number, "mode": mode, "kills": len(self.kills) - first_kill, **found})
            print(json.dumps(self.runs[-1]), flush=True)
            shutil.rmtree(run.workdir)

    def report(self) -> int:
        print(summary(self.kills, self.runs))
        right = all(run["same_weights"] and run["same_metrics"] and not run["images_wrong"] for run in self.runs)
        return 0 if right and all(kill["as_documented"] for kill in self.kills) else 1

    def _new_run(self, name: str, mode: str) -> Run:
        flags = [
            "--backbone=counting", "--transfer=scratch", "--augment=none", "--learning_rate=0.01",
            "--precision=float32", "--xla=off", "--log_every_steps=1", f"--global_batch_size={_BATCH}",
            f"--epochs={self._config.epochs}", f"--input_mode={mode}",
            f"--checkpoint_every_steps={self._config.checkpoint_every_steps}", f"--data_dir={self._data_dir}",
            f"--worker_timeout_seconds={self._config.worker_timeout_seconds}",
        ]  # fmt: skip
        return Run(self._site, self._folder / f"logs_{name}", name, flags, self._config.workers)

    def _reference(self, mode: str) -> pathlib.Path:
        """Trains without an interruption; keeps the workdir off the small disk."""
        run = self._new_run(f"whole_{mode}", mode)
        started = time.monotonic()
        with run.workers:
            run.start()
            run.wait_for_step(1)
            self._startup_seconds = max(self._startup_seconds, time.monotonic() - started)
            codes = run.wait_until_gone(_LONGEST_RUN_SECONDS)
        if codes != [0] * self._config.workers:
            raise UserError(f"a run without interruptions ended with {codes}: {run.workers.log(0)}")
        kept = self._folder / f"whole_{mode}"
        shutil.move(run.workdir, kept)
        row = {"mode": mode, "seconds_uninterrupted": round(time.monotonic() - started, 1)}
        print(json.dumps({**row, "seconds_to_first_step": round(self._startup_seconds, 1)}), flush=True)
        return kept

    def _interrupt_until_finished(self, run: Run, mode: str) -> None:
        recovering: dict | None = None
        while True:
            run.start()
            early = self._random.random() < _EARLY_SHARE
            delay = self._random.uniform(0, self._startup_seconds if early else _LONGEST_DELAY_SECONDS)
            ahead = self._random.randint(0, self._config.most_steps_ahead)
            enough = len(self.kills) >= self._config.kills
            if enough or not early:
                run.wait_for_step(1)
                self._recovered(recovering, run)
                recovering = None
            if enough:
                codes = run.wait_until_gone(_LONGEST_RUN_SECONDS)
                if codes != [0] * self._config.workers:
                    raise UserError(f"the last start of a run ended with {codes}: {run.workers.log(0)}")
                return
            if not early:
                run.wait_for_step(ahead)
            run.wait_seconds(delay)
            kill = self._interrupt(run, mode)
            if kill is None:
                self._recovered(recovering, run)  # it finished first
                return
            self.kills.append(kill)
            print(json.dumps({name: value for name, value in kill.items() if name != "at"}), flush=True)
            recovering = kill

    def _recovered(self, kill: dict | None, run: Run) -> None:
        """Completes what is known of an interruption, once its run has done a step again (or finished)."""
        if kill is not None:
            kill["recovery_seconds"] = round(time.monotonic() - kill["at"], 2)
            kill["steps_repeated"] = max(0, kill["step"] - run.resumed_at())
            print(json.dumps({name: kill[name] for name in ("kill", "recovery_seconds", "steps_repeated")}), flush=True)

    def _interrupt(self, run: Run, mode: str) -> dict | None:
        """Interrupts, waits until all workers are gone, and says how they ended; `None` where they had finished."""
        if not self._queue:  # each kind equally often, in any order
            self._queue = self._random.sample(self._kinds, len(self._kinds))
        ended = [process.poll() for process in run.workers.processes.values()]
        if any(code not in (None, 0) for code in ended):
            raise UserError(f"workers ended by themselves with {ended}: {run.workers.log(0)} {run.workers.log(1)}")
        name, culprit = self._queue[-1], self._random.randrange(self._config.workers)
        kind, training = INTERRUPTIONS[name], run.trains() and run.last_step() > run.resumed_at()
        at = time.monotonic()
        kind.act(self._site, run.workers, culprit)
        spared = {culprit} if name == "freeze of one" else set()
        codes = run.wait_until_gone(self._config.worker_timeout_seconds + _HANG_SECONDS, spared)
        gone = time.monotonic() - at
        kind.undo(self._site, run.workers, culprit)
        codes = run.wait_until_gone(10)
        if 0 in codes:  # too late; whether the run is whole, the comparison tells
            return None
        self._queue.pop()
        tracebacks = [index for index in range(self._config.workers) if "Traceback" in run.workers.log(index)]
        documented = kind.as_documented(culprit, codes, training=training) and not tracebacks
        return {
            "kill": len(self.kills) + 1, "mode": mode, "kind": name, "worker": culprit, "step": run.last_step(),
            "while_training": training, "exit_codes": codes, "seconds_until_gone": round(gone, 2),
            "as_documented": documented, "log": str(run.workers.folder.relative_to(self._folder)), "at": at,
            "last_words": [(run.workers.log(index).splitlines() or [""])[-1] for index in range(self._config.workers)],
        }  # fmt: skip


def compare(workdir: pathlib.Path, whole: pathlib.Path, *, epochs: int) -> dict:
    """Returns whether a run left what the uninterrupted one `whole` left."""
    import numpy as np
    import tensorflow as tf
    from counting_backbone import seen_images

    readers = [tf.train.load_checkpoint(str(folder / "checkpoints")) for folder in (workdir, whole)]
    names = [
        {name for name in reader.get_variable_to_shape_map() if name.startswith(("weights/", "optimizer/"))}
        for reader in readers
    ]
    differing = [
        name for name in names[0] & names[1] if not np.array_equal(*(reader.get_tensor(name) for reader in readers))
    ]
    rows = [
        [{name: row[name] for name in _REPEATABLE if name in row} for row in read_rows(folder)]
        for folder in (workdir, whole)
    ]
    scores = [json.loads((folder / "results.json").read_text())["test_loss"] for folder in (workdir, whole)]
    wrong = np.abs(seen_images(str(workdir / "checkpoints")) - epochs)
    return {
        "same_weights": names[0] == names[1] and not differing, "same_metrics": rows[0] == rows[1],
        "same_test_loss": scores[0] == scores[1], "steps": rows[0][-1]["step"], "images_wrong": int(wrong.sum()),
    }  # fmt: skip


def summary(kills: list[dict], runs: list[dict]) -> str:
    """Returns the table of docs/performance/recovery.md."""
    lines = [
        "| what happened | times | all gone after, longest (s) | doing steps again after, median / longest (s) | "
        "steps repeated, most |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in [*INTERRUPTIONS, "all"]:
        rows = [kill for kill in kills if kind in (kill["kind"], "all")]
        if not rows:
            continue
        recovery = [kill["recovery_seconds"] for kill in rows if "recovery_seconds" in kill]
        repeated = [kill["steps_repeated"] for kill in rows if "steps_repeated" in kill]
        times = f"{statistics.median(recovery):.1f} / {max(recovery):.1f}" if recovery else "-"
        gone = max(kill["seconds_until_gone"] for kill in rows)
        lines.append(f"| {kind} | {len(rows)} | {gone:.1f} | {times} | {max(repeated, default=0)} |")
    right = sum(run["same_weights"] and run["same_metrics"] and run["same_test_loss"] for run in runs)
    documented = sum(kill["as_documented"] for kill in kills)
    images = sum(run["images_wrong"] for run in runs)
    return "\n".join(lines) + (
        f"\n\n{len(kills)} interruptions of {len(runs)} runs; {right} of {len(runs)} runs ended with the weights, "
        f"metrics and test loss of an uninterrupted one, bit for bit; images lost or counted twice: {images}; "
        f"{documented} of {len(kills)} interruptions ended the workers with the documented exit codes and no traceback."
    )


if __name__ == "__main__":
    run_command(main, CampaignConfig, __doc__)
