"""The speed of one replica, against which a run of several is held."""

import re

from tl_distributed.errors import UserError
from tl_distributed.files import read_json
from tl_distributed.pixels.augment_settings import AUGMENTATIONS
from tl_distributed.runtime.devices import Runtime
from tl_distributed.settings.config import Config
from tl_distributed.training.workdir import settings_of

# What an image costs.
_SAME_WORK = (
    "backbone", "image_size", "transfer", "unfreeze_last_layers", "unfreeze_from", "lora_rank", "head_units", "pooling",
    "feature_bank", "input_mode", "optimizer",
    *AUGMENTATIONS,
)  # fmt: skip


def one_replica_speeds(config: Config, runtime: Runtime, phases: list[str]) -> dict[str, float]:
    """Returns the images/s of the run that `--scaling_reference` names, by phase; none without the flag.

    Args:
      config: Resolved.
      runtime: Of this run.
      phases: Names of those that this run has.

    Raises:
      UserError: There is no such run, or it is not comparable.
    """
    if not config.scaling_reference:
        return {}
    flag, folder = f"--scaling_reference={config.scaling_reference}", config.scaling_reference.rstrip("/")
    saved, results = (read_json(f"{folder}/{name}.json") for name in ("config", "results"))
    if saved is None or results is None:
        missing = "config" if saved is None else "results"
        raise UserError(f"{flag}: no {missing}.json there; it names the workdir of a run of one replica that has ended")
    if saved["replicas"] != 1:
        raise UserError(f"{flag}: that run had {saved['replicas']} replicas; it names one of one replica")
    before = settings_of(saved["config"])
    pairs = {name: (before[name], _as_json(getattr(config, name))) for name in _SAME_WORK}
    pairs |= {
        "batch of a replica": (before["global_batch_size"], config.global_batch_size // runtime.num_replicas),
        "precision": (saved["precision"], runtime.precision),
        "xla": (saved["xla"], runtime.use_xla),
        "device": (_model_of(saved["devices"][0]), _model_of(runtime.devices[0])),
    }
    differing = [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]
    if differing:
        raise UserError(f"{flag}: not comparable ({'; '.join(differing[:5])}); name a run of one replica like this one")
    measured = {name: speed["images_per_second"] for name, speed in results.get("speed_by_phase", {}).items()}
    for phase in phases:
        if measured.get(phase) is None:
            raise UserError(f"{flag}: its results.json has no speed of the phase {phase}; train it again, for longer")
    return measured


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _model_of(device: str) -> str:
    """Returns e.g. "GPU (NVIDIA H100, compute capability 9.0)" of a line that also says which one it is."""
    match = re.search(r"device:([A-Za-z_]+):\d+(.*)", device)
    return "".join(match.groups()) if match else device
