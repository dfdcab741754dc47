"""The workdir of a run: whose it is, and whether this run may go on in it."""

import dataclasses
import json
import logging
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tl_distributed
from tl_distributed.data.order import ORDER_VERSION
from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.files import absolute, path_exists, read_json, write_json
from tl_distributed.models.weight_licences import weights_licence
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.command import typed_arguments
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import to_arguments
from tl_distributed.training.position import Position

_LOG = logging.getLogger(__name__)

# What may differ when a run goes on: where it runs, how often it reports, when it stops.
_FREE_SETTINGS = frozenset({
    "workdir", "data_dir", "data_copy_dir", "resume", "max_steps", "profile_steps", "log_every_steps",
    "checkpoint_every_steps", "keep_checkpoints", "steps_per_loop", "strategy", "recipe", "virtual_devices", "xla",
    "all_reduce_dtype", "gradient_buckets", "gpu_memory_limit_mib", "bank_dir", "workers", "worker_index", "grpc_port",
    "control_port", "worker_timeout_seconds", "scaling_reference", "input_mode", "bank_mode", "shuffle_buffer_examples",
    "track",
    "class_weights",  # of which the weights are compared, wherever their file is
})  # fmt: skip


# Of these, what still says how a run was made, and not only where it lies or how it reports.
_COMPARED = frozenset(
    {"data_dir", "recipe", "strategy", "xla", "all_reduce_dtype", "gradient_buckets", "steps_per_loop"}
)
# What runs did before there was the flag, where that is not its default now.
_BEFORE_THE_FLAG = {"batch_norm": "train", "finetune_warmup_fraction": 0.0}


def open_workdir(
    config: Config, info: DatasetInfo, position: Position | None, *, class_weights: Sequence[float] | None = None
) -> Config:
    """Checks that the run may start or go on in `config.workdir`; returns the config to go on with.

    A run that chose whether to bank features keeps to it. `--epochs` may grow where that changes nothing of the epochs
    before.

    Args:
      config: Resolved.
      info: The data set's manifest.
      position: Where the newest checkpoint stands, if there is one.
      class_weights: In order of label; `None` where all classes count alike.

    Raises:
      UserError: `--resume` does not allow it, or the run there has other settings or another data set.
    """
    path = f"{config.workdir}/config.json"
    exists = path_exists(path)
    if config.resume == "must" and position is None:
        raise UserError(f"--resume=must: {config.workdir} has no checkpoint; check --workdir")
    if config.resume == "never" and (exists or position is not None):
        raise UserError(f"--resume=never: {config.workdir} holds a run already; choose another --workdir")
    if position is None and not _has_finished(config.workdir):
        return config  # nothing to lose: a run that died before its first checkpoint starts again
    if not exists:
        left = "results" if position is None else "checkpoints"
        raise UserError(
            f"{config.workdir} has {left} and no config.json, which says what they are of; put it back, or choose "
            "another --workdir, or delete that folder"
        )
    saved = read_json(path) or {}
    if saved.get("order_version", 1) != ORDER_VERSION:
        raise UserError(
            f"{config.workdir} holds a run whose images came in another order (order_version "
            f"{saved.get('order_version', 1)} there, {ORDER_VERSION} here), so it cannot go on; choose another "
            f"--workdir, e.g. --workdir={_other(config.workdir, {})}, or delete that folder"
        )
    if config.feature_bank == "auto":
        config = dataclasses.replace(config, feature_bank=saved["config"].get("feature_bank", "auto"))
    current, before = json.loads(json.dumps(dataclasses.asdict(config))), settings_of(saved["config"])
    if before["fit"] == "auto":  # of before there was the flag: the data set's
        before["fit"] = saved.get("fit", current["fit"])
    if before["task"] == "auto":  # of before there was the flag: nothing else was learnt
        before["task"] = "classification"
    names = [name for name, value in current.items() if name not in _FREE_SETTINGS and before[name] != value]
    differing = [f"{name} {before[name]} there, {current[name]} here" for name in names]
    if saved["dataset_sha256"] != info.digest():
        differing.append("another data set")
    if (saved.get("class_weights") or None) != _by_name(info, class_weights):
        differing.append("other class weights")
    before_sources = saved.get("plugin_sha256", {})
    differing += [
        f"the source of {name}, which has changed since"
        for name, digest in config.plugin_sources().items()
        if before_sources.get(name, digest) != digest
    ]
    if names == ["epochs"] and len(differing) == 1 and config.epochs > before["epochs"]:
        return _with_more_epochs(config, before, position)
    if differing:
        other = _other(config.workdir, {name: current[name] for name in names})
        raise UserError(
            f"{config.workdir} holds a run with other settings ({'; '.join(differing[:5])}); "
            f"choose another --workdir, e.g. --workdir={other}, or delete that folder"
        )
    return config


def _has_finished(workdir: str) -> bool:
    """Whether a run has left its results there; its checkpoints may have been deleted since, to make room."""
    return bool((read_json(f"{workdir}/results.json") or {}).get("finished"))


def _with_more_epochs(config: Config, before: dict[str, Any], position: Position | None) -> Config:
    why_not = why_not_longer(before, config.epochs) or ("its checkpoints are gone" if position is None else "")
    if why_not:
        other = _other(config.workdir, {"epochs": config.epochs})
        raise UserError(
            f"--epochs={config.epochs}: {config.workdir} cannot be trained for longer, since {why_not}; train on from "
            f"its weights: --weights={shlex.quote(config.workdir)} --transfer=full --workdir={other} (a run with "
            "--schedule=constant can be made longer at any time)"
        )
    _LOG.info("%s was asked for %d epochs, now for %d.", config.workdir, before["epochs"], config.epochs)
    return config


def _other(workdir: str, changes: dict[str, Any]) -> str:
    """Returns `_free_name` as a shell takes it."""
    return shlex.quote(_free_name(workdir, changes))


def _free_name(workdir: str, changes: dict[str, Any]) -> str:
    """Returns a folder beside `workdir` that is not there, named by the first change that reads as a name."""
    texts = (f"{name}_{value}" for name, value in changes.items())
    ending = next((text for text in texts if re.fullmatch(r"[\w.+-]{1,40}", text)), "")
    names = [f"{workdir}-{ending}"] if ending else []
    names += [f"{workdir}-{number}" for number in range(2, 1000)]
    return next((name for name in names if not tf.io.gfile.exists(name)), f"{workdir}-other")


def why_not_longer(before: dict[str, Any], epochs: int) -> str:
    """Returns why a run cannot be made longer, such that it is as if asked for as long at once; nothing where it can.

    Args:
      before: Its settings, as `config.json` has them.
      epochs: That are asked for.
    """
    if epochs < before["epochs"]:
        return f"it was asked for {before['epochs']} epochs already"
    if before["schedule"] != "constant":
        return f"its rate follows --schedule={before['schedule']}, which ends with its {before['epochs']} epochs"
    if before["warmup_epochs"] > before["epochs"]:
        return f"its {before['epochs']} epochs are all warm-up"
    return ""


def settings_of(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns saved settings; what the version that saved them did not have is as it was then: off, or its default."""
    defaults = {
        field.name: field.metadata.get("strengths", {}).get("none", field.default)
        for field in dataclasses.fields(Config)
    }
    return {**json.loads(json.dumps(defaults)), **_BEFORE_THE_FLAG, **saved}


def layout_change(workdir: str, runtime: Runtime) -> str:
    """Returns what to say where the run in `workdir` had other workers, replicas or precision so far, or nothing."""
    saved = read_json(f"{workdir}/config.json") or {}
    before = saved.get("workers", 1), saved["replicas"]
    now = runtime.workers.count, runtime.num_replicas
    other = ""
    if saved["precision"] != runtime.precision:
        other = f"So far it ran in {saved['precision']}, now in {runtime.precision}: it is a run of both."
    if before == now:
        return other
    differs = "only the order in which sums are rounded differs"
    if before[1] != now[1]:
        differs = (
            "BatchNorm's statistics (each is of a replica's part of the batch), dropout's draws and the order in which "
            "sums are rounded differ"
        )
    return (
        f"So far it ran on {before[0]} workers with {before[1]} replicas, now on {now[0]} with {now[1]}: the global "
        f"batch, the order of the data and its augmentation stay; {differs}. {other}".rstrip()
    )


def finished_results(config: Config, position: Position | None) -> dict[str, Any] | None:
    """Returns the results of a run that has nothing left to do, else `None`."""
    results = read_json(f"{config.workdir}/results.json")
    if results is None or not results["finished"] or (position is not None and results["steps"] != position.step):
        return None
    epochs = settings_of(read_json(f"{config.workdir}/config.json")["config"])["epochs"]
    if position is not None and config.epochs > epochs:
        if not 0 < config.early_stopping_epochs <= position.stale_epochs:
            return None
        _LOG.info("%s stopped early, as --early_stopping_epochs asks: more --epochs change nothing.", config.workdir)
    return results


def compared_settings(config: Config) -> dict[str, Any]:
    """Returns the settings by which runs are compared."""
    settings = dataclasses.asdict(config)
    return {name: value for name, value in settings.items() if name not in _FREE_SETTINGS or name in _COMPARED}


def reopen(workdir: str) -> None:
    """Marks the results of a finished run that is trained on as those of an unfinished one, before anything changes."""
    path = f"{workdir}/results.json"
    results = read_json(path)
    if results is not None and results["finished"]:
        write_json(path, {**results, "finished": False})


def _by_name(info: DatasetInfo, class_weights: Sequence[float] | None) -> dict[str, float] | None:
    return None if class_weights is None else dict(zip(info.class_names, class_weights, strict=True))


def _command(config: Config) -> list[str]:
    """Returns what was typed, or where a program trains its name and the flags that say the same."""
    if typed_arguments("tl-train") is not None:
        return sys.argv
    return [sys.argv[0], *to_arguments(dataclasses.replace(config, recipe=""))]  # which the settings came of


def write_config(
    config: Config, info: DatasetInfo, runtime: Runtime, class_weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Writes `config.json`: resolved settings, versions, commit, devices, data set, class weights; returns it."""
    content = {
        "config": dataclasses.asdict(config),
        "command": _command(config),
        "versions": {
            "tl_distributed": tl_distributed.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "commit": checkout_commit(),
        "devices": list(runtime.devices),
        "workers": runtime.workers.count,
        "replicas": runtime.num_replicas,
        "precision": runtime.precision,
        "xla": runtime.use_xla,
        "dataset_sha256": info.digest(),
        "fit": config.fit,
        "order_version": ORDER_VERSION,
        "class_weights": _by_name(info, class_weights),
        "plugin_sha256": config.plugin_sources(),
        "weights_licence": weights_licence(config.backbone, config.weights),
        # From these the data set is found after the run, or both, have moved (`inference.run_data`).
        "absolute_paths": {"data_dir": absolute(config.data_dir), "workdir": absolute(config.workdir)},
    }
    write_json(f"{config.workdir}/config.json", content)
    return content


def checkout_commit() -> str | None:
    """Returns the commit of the package's checkout, or `None` where it was installed without one, or git is not."""
    folder = tl_distributed.__path__[0]
    try:
        result = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return None
    return result.stdout.strip() or None
