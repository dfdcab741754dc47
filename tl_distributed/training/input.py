"""The data of a run: the same data set on all workers, and its splits in one mode."""

from tl_distributed.data.dataset import choose_input_mode, load_splits, load_subset
from tl_distributed.data.device_split import DeviceSplit
from tl_distributed.data.fit_rules import Fit
from tl_distributed.data.records import MANIFEST_FILE, SPLITS, DatasetInfo, read_manifest
from tl_distributed.data.settings import DataSettings
from tl_distributed.data.splits import Split
from tl_distributed.errors import UserError
from tl_distributed.files import path_exists
from tl_distributed.runtime.devices import Runtime
from tl_distributed.runtime.workers import Workers


def read_data_set(settings: DataSettings, workers: Workers) -> DatasetInfo:
    """Reads the manifest of the data set, which is the same for all workers.

    Raises:
      UserError: There is none, without a train split, another one on another worker, or a copy of another one.
    """
    info = read_manifest(settings.data_dir)
    if copy := settings.data_copy_dir:
        is_there = path_exists(f"{copy.rstrip('/')}/{MANIFEST_FILE}")
        if not is_there or read_manifest(copy).digest() != info.digest():
            raise UserError(f"--data_copy_dir={copy} is no copy of {settings.data_dir}; copy it again")
    workers.require_same({"a dataset.json of SHA-256": info.digest()}, "give all the same data set (--data_dir)")
    if "train" not in info.splits:
        raise UserError(f"--data_dir={settings.data_dir}: no train split")
    return info


def fit_of_run(asked: str, info: DatasetInfo) -> Fit:
    """Returns the rule by which the run makes pictures square.

    Args:
      asked: By the flag; auto for the data set's own.
      info: The data set's manifest.

    Raises:
      UserError: Another rule than that by which the pixels were stored.
    """
    if asked == "auto":
        return info.fit
    if info.storage == "pixels" and asked != info.fit:
        raise UserError(
            f"--fit={asked}: the data set stores pixels that were fitted by --fit={info.fit} when it was built; drop "
            "the flag, or build it anew with --fit or with --storage=jpeg, which leaves the choice to the run"
        )
    return asked


def open_splits(settings: DataSettings, info: DatasetInfo, runtime: Runtime, *, seed: int) -> dict[str, Split]:
    """Opens every split that there is; of the training split no more images than `--images_per_class` says.

    Args:
      settings: `input_mode` may be auto, which goes by the memory that is free on every worker.
      info: The data set's manifest.
      runtime: Whose devices hold the training split in device mode.
      seed: Chooses the images of a part of the training split.

    Raises:
      UserError: A split that cannot be read, or does not fit.
    """
    workers, mode, chosen = runtime.workers, settings.input_mode, {}
    if settings.images_per_class:
        sizes = {"images_per_class": settings.images_per_class, "seed": seed}
        chosen = {"train": load_subset(settings.shard_dir, info, "train", **sizes)}
    names = tuple(name for name in SPLITS if name not in chosen)
    if mode == "auto":
        own = choose_input_mode(info, names, processes_on_machine=workers.count_on_machine)
        mode = "disk" if "disk" in workers.exchange("input mode", own) else "memory"
    rest = load_splits(settings.shard_dir, info, names, input_mode="memory" if mode == "device" else mode)
    splits = {**chosen, **rest}
    if settings.input_mode == "device":
        splits["train"] = DeviceSplit(splits["train"], runtime.strategy)
    return splits
