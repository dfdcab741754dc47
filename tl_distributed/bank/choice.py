"""Whether a run banks features, and whether it holds them in memory."""

import dataclasses
import logging
import os
from collections.abc import Sequence

import psutil
import tensorflow as tf

from tl_distributed.bank.cut import Cut
from tl_distributed.bank.layout import FeatureLayout
from tl_distributed.bank.settings import BankSettings
from tl_distributed.data.dataset import MEMORY_SHARE
from tl_distributed.data.machine import free_memory_bytes
from tl_distributed.errors import UserError
from tl_distributed.files import matching_files
from tl_distributed.runtime.workers import Workers

_LOG = logging.getLogger(__name__)


def layout_of(cut: Cut, bank_dtype: str) -> FeatureLayout:
    """Returns how the features of a cut are stored; `bank_dtype` auto keeps the type that they are computed in."""
    if bank_dtype == "auto":
        bank_dtype = cut.dtypes[0] if len(set(cut.dtypes)) == 1 else "float32"
    return FeatureLayout(cut.shapes, cut.dtypes, bank_dtype)


def choose_bank(
    settings: BankSettings,
    cuts: Sequence[Cut | None],
    epochs: Sequence[float],
    num_examples: dict[str, int],
    workers: Workers,
    *,
    why_nothing: str,
) -> BankSettings:
    """Decides whether a run banks features, and whether it holds them in memory; says why.

    Args:
      settings: With the folder filled in; `feature_bank` and `bank_mode` may be auto.
      cuts: Of each phase.
      epochs: That each phase lasts.
      num_examples: Of each split, as it is trained and evaluated.
      workers: Choose alike: no bank where one of them has no room, and memory only where all have it.
      why_nothing: Why the run's settings leave nothing to bank; empty where they do (`settings.why_nothing_to_bank`).

    Returns:
      The settings with both resolved.

    Raises:
      UserError: `--feature_bank=on` where there is nothing to bank, or no room.
    """
    chosen = _choose_alone(settings, cuts, epochs, num_examples, workers.count_on_machine, why_nothing)
    everyones = workers.exchange("feature bank", [chosen.feature_bank, chosen.bank_mode])
    if any(bank == "off" for bank, _ in everyones):
        return _off(settings)
    mode = "memory" if all(mode == "memory" for _, mode in everyones) else "disk"
    return dataclasses.replace(chosen, bank_mode=mode)


def _choose_alone(
    settings: BankSettings,
    cuts: Sequence[Cut | None],
    epochs: Sequence[float],
    num_examples: dict[str, int],
    processes_on_machine: int,
    why_nothing: str,
) -> BankSettings:
    if settings.feature_bank == "off":
        return settings
    wanted = settings.feature_bank == "on"
    banked = [(cut, length) for cut, length in zip(cuts, epochs, strict=True) if cut is not None]
    rows = num_rows(num_examples, settings.bank_views)
    sizes = [rows * layout_of(cut, settings.bank_dtype).row_bytes for cut, _ in banked]
    reason = why_nothing or _why_not(settings, [length for _, length in banked], wanted)
    reason = reason or no_room(settings.bank_dir, sum(sizes) - _built_bytes(settings.bank_dir))
    if reason and wanted:
        raise UserError(f"--feature_bank=on: {reason}")
    if reason:
        _LOG.info("Feature bank: off, since %s.", reason)
        return _off(settings)
    mode = settings.bank_mode
    if mode == "auto":
        share = MEMORY_SHARE * free_memory_bytes() / processes_on_machine
        mode = "memory" if max(sizes) <= share else "disk"
    return dataclasses.replace(settings, feature_bank="on", bank_mode=mode)


def _off(settings: BankSettings) -> BankSettings:
    return dataclasses.replace(settings, feature_bank="off")


def _why_not(settings: BankSettings, banked_epochs: Sequence[float], wanted: bool) -> str:
    """Returns why features are not banked, or nothing."""
    if not banked_epochs:
        return "no layer is frozen before the first one that trains, draws at random or changes from step to step"
    if not wanted and sum(banked_epochs) <= max(settings.bank_views, 1) * len(banked_epochs):
        return "the run is too short for it to pay"
    return ""


def num_rows(num_examples: dict[str, int], bank_views: int) -> int:
    """Returns the rows of a bank of all splits: each training image has one for each of its views."""
    return sum(num_examples.values()) + num_examples.get("train", 0) * (max(bank_views, 1) - 1)


def no_room(folder: str, num_bytes: int) -> str:
    """Returns what to say where the disk of `folder` has no room for as many bytes, or nothing."""
    if "://" in folder:
        return ""
    existing = os.path.abspath(folder)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = psutil.disk_usage(existing).free
    if num_bytes <= free:
        return ""
    return f"{folder} has {free / 1e9:.3g} GB left, the bank takes {num_bytes / 1e9:.3g} GB; --bank_dir names another"


def _built_bytes(folder: str) -> int:
    """Returns the size of the banks that are there; which of them are this run's is known when they are opened."""
    banks = (path for bank in matching_files(folder, "*") for path in matching_files(bank, "*.tfrecord"))
    return sum(tf.io.gfile.stat(path).length for path in banks)
