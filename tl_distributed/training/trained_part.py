"""What a phase trains, and on what: the whole model on images, or what follows the frozen layers on a bank."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from tl_distributed.bank.build import FeatureSettings
from tl_distributed.bank.choice import choose_bank
from tl_distributed.bank.cut import Cut, cut_at_frozen
from tl_distributed.bank.phase import BankOfRun, Trained, open_banked_phase
from tl_distributed.bank.settings import BankSettings
from tl_distributed.data.records import DatasetInfo
from tl_distributed.data.settings import DataSettings
from tl_distributed.data.splits import Split
from tl_distributed.models.freezing import freeze_for
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.training.phases import Phase, epochs_within


def choose_banks(
    config: Config, model: keras.Model, phases: Sequence[Phase], num_examples: Mapping[str, int], workers: Workers
) -> tuple[Config, list[Cut | None]]:
    """Cuts the model for each phase, and decides whether the run banks features.

    Args:
      config: Resolved but for the bank.
      model: The classifier; its layers are left frozen as some phase wants them.
      phases: Of the run.
      num_examples: Of each split, as it is trained and evaluated.
      workers: Choose alike.

    Returns:
      The config with `feature_bank` and `bank_mode` resolved, and the cut of each phase that is banked.

    Raises:
      UserError: `--feature_bank=on` where there is nothing to bank, or no room.
    """
    why_nothing = config.why_nothing_to_bank()

    def cut(phase: Phase) -> Cut | None:
        if config.feature_bank == "off" or why_nothing:
            return None
        _freeze(model, phase, config)
        return cut_at_frozen(model)

    cuts = [cut(phase) for phase in phases]
    chosen = choose_bank(
        _bank_settings(config), cuts, epochs_within(phases, config.max_steps),
        num_examples, workers, why_nothing=why_nothing,
    )  # fmt: skip
    config = dataclasses.replace(config, feature_bank=chosen.feature_bank, bank_mode=chosen.bank_mode)
    return config, cuts if config.feature_bank == "on" else [None] * len(cuts)


def _bank_settings(config: Config) -> BankSettings:
    """Returns the bank's part with its folder filled in; `config.json` keeps what the user gave."""
    folder = config.bank_dir.rstrip("/") or f"{config.workdir}/feature_bank"
    return dataclasses.replace(config.part(BankSettings), bank_dir=folder)


def _freeze(model: keras.Model, phase: Phase, config: Config) -> None:
    partial = phase.freezing == "partial"
    freeze_for(
        model, phase.freezing,
        unfreeze_last_layers=config.unfreeze_last_layers if partial else 0,
        unfreeze_from=config.unfreeze_from if partial else "",
        batch_norm_trains=config.batch_norm == "train",
    )  # fmt: skip


def open_phase(
    phase: Phase,
    cut: Cut | None,
    model: keras.Model,
    splits: dict[str, Split],
    *,
    config: Config,
    info: DatasetInfo,
    normalization: str,
    runtime: Runtime,
    stop: StopRequest,
) -> Trained:
    """Freezes the model for a phase; where the phase is banked, builds what is missing of its banks.

    Raises:
      UserError: A shard that cannot be read.
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """
    _freeze(model, phase, config)
    if cut is None:
        return Trained(model, None, splits)
    features = FeatureSettings(
        image_size=config.image_size, normalization=normalization,
        augment=config.augment_settings() if config.bank_views else None, seed=config.seed, fit=config.fit,
    )  # fmt: skip
    bank = BankOfRun(
        settings=_bank_settings(config), data=config.part(DataSettings), info=info, features=features,
        batch_size=config.global_batch_size,
    )  # fmt: skip
    return open_banked_phase(cut, bank, splits, runtime=runtime, stop=stop)
