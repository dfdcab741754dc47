"""How a study was made: on which terms, of which data, by which commands, with which versions, on what."""

import shlex
import sys
import time
from collections.abc import Sequence

import tensorflow as tf

from tl_distributed.data.records import DatasetInfo
from tl_distributed.reporting.page.render import Table, words
from tl_distributed.reporting.page.section import About, Section
from tl_distributed.reporting.run_facts import run_facts
from tl_distributed.reporting.run_page import PAGE_FILE
from tl_distributed.settings.command import typed_arguments
from tl_distributed.studies.collect import Record, pairing
from tl_distributed.studies.plan import Plan
from tl_distributed.studies.tuning import tuning_sentence


def equal_terms(plan: Plan, records: Sequence[Record], info: DatasetInfo, *, data_dir: str, workdir: str) -> Section:
    """Returns what was the same for every arm, and the flags in which they differ."""
    seeds = len({run.seed for run in plan.runs})
    devices = sorted({_devices(record) for record in records if record.status == "done"})
    sentences = (
        f"Every run: the data set {data_dir} ({_counts(info)}); the epoch that is best on the validation images is "
        "kept (--select_by); the test images are scored once, with its weights.",
        pairing(records),
        tuning_sentence(workdir),
        f"{seeds} seed{'s' if seeds > 1 else ''}: the weights of the head, the order, augmentation and dropout follow "
        "from the seed, and so do the images of a smaller training set, which are the same for every arm.",
        "Seconds are those of training, the first step's compilation and the feature bank of the training images "
        f"included, also where another run had built it, and validation not, on {', '.join(devices)}.",
    )
    rows = tuple((words(arm.name), words(" ".join(arm.arguments))) for arm in plan.arms)
    table = Table(("arm", "flags of tl_distributed.train"), rows)
    return Section("terms", "On equal terms", "data, seeds and the arms' flags", sentences, tables=(table,))


def about_study(plan: Plan, records: Sequence[Record], info: DatasetInfo, *, data_dir: str, workdir: str) -> About:
    """Returns date, data, versions, commands, and links to the runs' folders, relative to the report."""
    done = [record for record in records if record.status == "done"]
    facts = (
        ("written", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("runs", f"{len(done)} of {len(records)} done"),
        ("data set", f"{data_dir}: {_counts(info)}; SHA-256 of its manifest {info.digest()}"),
        *run_facts([record.written for record in done]),
        ("devices", ", ".join(sorted({_devices(record) for record in done}))),
    )
    typed = typed_arguments("tl-study")
    if typed is None:
        facts += (("called by", f"{sys.argv[0]}, through tl.study; the arms' flags are under On equal terms"),)
    commands = (
        *(
            (("This report was written by", shlex.join(["python", "-m", "tl_distributed.study", *typed])),)
            if typed is not None
            else ()
        ),
        ("Curves of every run, in TensorBoard", f"tensorboard --logdir {shlex.quote(workdir)}"),
    )
    links = tuple((str(record.run), _target(record)) for record in done)
    return About(facts, commands, links, "The runs")


def _target(record: Record) -> str:
    """Returns what a link to a run leads to, from the study's folder: its page, or the folder of one without."""
    has_page = tf.io.gfile.exists(f"{record.folder}/{PAGE_FILE}")
    return f"{record.run.folder}/{PAGE_FILE}" if has_page else f"{record.run.folder}/"


def _counts(info: DatasetInfo) -> str:
    counts = ", ".join(f"{split.num_examples:,} {name}" for name, split in info.splits.items())
    return f"{counts}: {info.images_in_words()}, {info.num_classes:,} classes"


def _devices(record: Record) -> str:
    return " and ".join(record.written.get("devices", ()))
