"""The sources of `--source`: each is a module here of that name, and nowhere else.

It has `TAKES`, the flags of `BuildConfig` that only some sources take; `NEEDS`, those that must be given; and
`open_source(config)`, which returns its `Source`. Importing it imports neither TensorFlow nor TFDS.
"""

import importlib
import pkgutil
from types import ModuleType

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def source_module(name: str) -> ModuleType:
    """Returns the module of the source that `--source` calls `name`."""
    return importlib.import_module(f"{__name__}.{name}")
