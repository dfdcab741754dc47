"""Transfer learning with ImageNet backbones on one GPU or many, from Python:

    import tl_distributed as tl

    run = tl.train(data_dir="data/photos", backbone="mobilenet_v2")  # the flags of `python -m tl_distributed.train`
    run.results["test_accuracy"], run.history, run.model.predict(images)

`tl.load(workdir)` opens a run that is there, `tl.study({"a": {...}, "b": {...}}, seeds=3)` compares ways of training,
`tl.rank(backbones=[...])` says which backbones are worth it.

Importing this package imports no TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

import importlib
import os
import platform
import sys
import types
from typing import Any

__version__ = "0.2.0"

if platform.machine().lower() in ("x86_64", "amd64"):
    # TensorFlow takes oneDNN's kernels by itself where a CPU has AVX-512 VNNI or the like; they are faster than its own
    # on others too. It looks when it is imported; `TF_ENABLE_ONEDNN_OPTS=0` in the environment switches them off.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_HOMES = {
    "Backbone": "tl_distributed.models.backbones",
    "Classification": "tl_distributed.training.tasks",
    "Config": "tl_distributed.settings.config",
    "Model": "tl_distributed.api.model",
    "MultiLabel": "tl_distributed.training.tasks",
    "Ranking": "tl_distributed.api.rank",
    "Run": "tl_distributed.api.run",
    "Stopped": "tl_distributed.errors",
    "Study": "tl_distributed.api.study",
    "Task": "tl_distributed.training.tasks",
    "UserError": "tl_distributed.errors",
    "load": "tl_distributed.api.run",
    "rank": "tl_distributed.api.rank",
    "register_backbone": "tl_distributed.models.build",
    "study": "tl_distributed.api.study",
    "train": "tl_distributed.api.run",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports what the package offers when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Keeps `tl.train`, `tl.study` and `tl.rank` the functions: commands of these names are modules."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
