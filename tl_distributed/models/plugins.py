"""Code of one's own that a setting names: `MODULE:FUNCTION` of a file, or an object that a program gave.

Importing this module imports no TensorFlow; what a plug-in imports is its own affair. Modules that a command line names
are imported, ones that a file of a run names are not: reading a run of somebody else runs no code of theirs.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tl_distributed.errors import UserError, one_line
from tl_distributed.models.hub_files import is_hub

KNOWN_PACKAGES = frozenset({"builtins", "keras", "keras_hub", "tensorflow", "tl_distributed"})
GIVEN_PREFIX = "python="  # in a setting: what a program gave, under this name
_given: dict[str, tuple[Any, str]] = {}  # by the setting's text: the object and the digest of what it is


def is_own(text: str) -> bool:
    """Whether a setting names code of one's own, and nothing of this package's tables nor of KerasHub."""
    return (":" in text and not is_hub(text)) or text.startswith(GIVEN_PREFIX)


def give(thing: Any, name: str, content: bytes) -> str:
    """Keeps an object of the program for as long as the process lives; returns the text of the setting that means it.

    Args:
      thing: A function.
      name: For people.
      content: What it is: another content under the same name is another setting for a run that goes on.
    """
    text = f"{GIVEN_PREFIX}{name}"
    _given[text] = thing, hashlib.sha256(content).hexdigest()
    return text


def function_of(flag: str, text: str) -> Callable[..., Any]:
    """Returns the function that a setting names, whose module is imported.

    Raises:
      UserError: No such module or function, or one that a program gave, in a process to which it was not given.
    """
    if text.startswith(GIVEN_PREFIX):
        if text not in _given:
            raise UserError(f"--{flag}={text}: was given by a program; give it again, by tl.train(...)")
        return _given[text][0]
    module_name, _, name = text.partition(":")
    function = getattr(import_plugin(flag, text, module_name), name, None)
    if not callable(function):
        raise UserError(f"--{flag}={text}: {module_name} has no function {name!r}")
    return function


def import_plugins(names: Sequence[str]) -> None:
    """Imports the modules of `--plugin`, which register what they bring."""
    for name in names:
        import_plugin("plugin", name, name)


def import_plugin(flag: str, text: str, module_name: str) -> Any:
    """Imports a module, also of the folder in which the process was started.

    Raises:
      UserError: No such module, or a text that is no name of one. What a module itself raises is passed on.
    """
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f"--{flag}={text}: takes MODULE:FUNCTION with a module's name as `import` takes it")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # an installed command does not look there by itself
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"--{flag}={text}: no module {error.name}; it has to be in this folder, on PYTHONPATH or installed"
            ) from None
        raise UserError(f"--{flag}={text}: {module_name} cannot be imported ({one_line(error)})") from None


_Settings = Mapping[str, str | Sequence[str]]  # the values of flags that may name code of one's own, by the flag


def modules_of(settings: _Settings) -> list[str]:
    """Returns the names of the modules that settings name, without importing them."""
    return [text.partition(":")[0] for flag, text in _named(settings) if not text.startswith(GIVEN_PREFIX)]


def sources_of(settings: _Settings) -> dict[str, str]:
    """Returns the SHA-256 of the source of each module, or of each given object, that settings name.

    Raises:
      UserError: As `function_of`.
    """
    sources = {}
    for flag, text in _named(settings):
        if text.startswith(GIVEN_PREFIX):
            function_of(flag, text)
            sources[text] = _given[text][1]
        else:
            name = text.partition(":")[0]
            sources[name] = _source_digest(import_plugin(flag, text, name))
    return sources


def sources_of_layers(model: Any) -> dict[str, str]:
    """Returns the SHA-256 of the source of each module of one's own that a Keras model's layers are classes of.

    What such a layer computes is in no config of the model; a class of a notebook counts by its own source.
    """
    kinds = {kind for layer in model._flatten_layers() for kind in type(layer).__mro__}
    sources = {}
    for kind in sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__)):
        if kind.__module__.partition(".")[0] in KNOWN_PACKAGES:
            continue
        module = _source_digest(sys.modules.get(kind.__module__))
        own = hashlib.sha256(source_of_function(kind)).hexdigest()
        sources[kind.__module__ if module else f"{kind.__module__}.{kind.__qualname__}"] = module or own
    return sources


def _named(settings: _Settings) -> Iterator[tuple[str, str]]:
    for flag, value in settings.items():
        for text in [value] if isinstance(value, str) else value:
            if flag == "plugin" or is_own(text):
                yield flag, text


def source_of_function(function: Callable[..., Any]) -> bytes:
    """Returns what tells one function from another of the same name: its source, or else its byte code."""
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return b"" if code is None else code.co_code + repr(code.co_consts).encode()


def _source_digest(module: Any) -> str:
    try:
        with open(inspect.getsourcefile(module) or "", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, TypeError):  # no file of Python: an extension, or a module made by a program
        return ""
