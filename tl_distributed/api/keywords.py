"""Keywords of the API become settings by way of the command line, so that both take, refuse and say the same."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from tl_distributed.errors import UserError
from tl_distributed.settings.flags import parse_arguments

_READ_FIRST = ("flagfile", "recipe")  # what is given beside them wins over what they say
_Settings = TypeVar("_Settings")


def as_arguments(keywords: Mapping[str, Any]) -> list[str]:
    """Returns keywords as `--flag=value`; `None` leaves a flag at its default, and a path object is its text."""
    names = sorted(keywords, key=lambda name: name not in _READ_FIRST)
    return [f"--{name}={_text(keywords[name])}" for name in names if keywords[name] is not None]


def settings_of(kind: type[_Settings], keywords: Mapping[str, Any]) -> _Settings:
    """Returns the settings that the command would have with these flags.

    Raises:
      UserError: An unknown flag, or a value that the flag does not take.
    """
    if keywords.get("recipe") == "list":
        raise UserError("--recipe=list: the commands print the recipes; name one of them here")
    return parse_arguments(kind, as_arguments(keywords))[0]


def checked(settings: _Settings) -> _Settings:
    """Returns settings that a program made by their dataclass, each value read as its flag reads it.

    Raises:
      UserError: A value that the flag does not take.
    """
    # A recipe is a label by now: its flags are among the settings, and must not win over them.
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    recipe = values.pop("recipe", "")
    read = settings_of(type(settings), values)
    return dataclasses.replace(read, recipe=recipe) if recipe else read


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return str(os.fspath(value) if isinstance(value, os.PathLike) else value)
