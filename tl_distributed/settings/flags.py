"""Flags from dataclasses: a field made by `setting` is a flag, with its one default, its range and its help.

A command declares its flags as a frozen dataclass; a room declares its own beside its code, and `settings.config`
composes them. Nothing below the commands reads absl's flags.
"""

import dataclasses
import math
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from tl_distributed.errors import UserError, no_scheme, one_line

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_BUILT_IN_SCHEMES = ("file", "gs", "ram")  # of TensorFlow's wheel
_EXPECTS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def setting(
    default: Any,
    help_text: str,
    *,
    topic: str,
    choices: Sequence[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declares a dataclass field together with its flag.

    Args:
      default: The one default of this setting. `None` means "decided later"; `help_text` says how.
      help_text: One sentence, with the unit.
      topic: Heading under which `--help` lists the flag.
      choices: Allowed values of a string setting; empty allows any.
      minimum: Smallest allowed number, inclusive.
      maximum: Largest allowed number, inclusive.
    """
    metadata = {"help": help_text, "topic": topic, "choices": tuple(choices), "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


def borrowed(settings_class: type, name: str, *, topic: str) -> Any:
    """Declares a field that is a flag of other settings too, with the same default, range and help."""
    field = settings_class.__dataclass_fields__[name]
    return dataclasses.field(default=field.default, metadata={**field.metadata, "topic": topic})


class _SettingParser(flags.ArgumentParser):
    """Parses one flag by the annotation of its field; messages name what the flag takes."""

    def __init__(self, kind: type, is_list: bool, field: dataclasses.Field):
        super().__init__()
        self._kind, self._is_list, self._meta = kind, is_list, field.metadata
        self.syntactic_help = ""

    def parse(self, argument: Any) -> Any:
        if argument is None or (self._is_list and isinstance(argument, tuple)):
            return argument
        if self._is_list:
            parts = [part.strip() for part in str(argument).split(",")]
            return tuple(self._parse_one(part) for part in parts if part)
        return self._parse_one(argument)

    def _parse_one(self, argument: Any) -> Any:
        try:
            value = self._convert(argument)
        except (TypeError, ValueError):
            raise ValueError(f"expects {_EXPECTS[self._kind]}") from None
        _check_range(value, self._meta)
        if self._kind is str:
            _check_scheme(value)
            _check_encoding(value)
        return value

    def _convert(self, argument: Any) -> Any:
        if self._kind is bool and not isinstance(argument, bool):
            words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
            if str(argument).lower() not in words:
                raise ValueError
            return words[str(argument).lower()]
        if self._kind is str and str(argument).startswith("~"):  # of a path; nothing else begins so
            return os.path.expanduser(argument)
        return self._kind(argument)


def _check_range(value: Any, limits: Mapping[str, Any]) -> None:
    """Raises `ValueError`, saying what the setting takes."""
    choices, low, high = (limits[key] for key in ("choices", "minimum", "maximum"))
    if choices and value not in choices:
        raise ValueError(f"takes one of {', '.join(choices)}")
    if not isinstance(value, (int, float)):
        return
    if not math.isfinite(value):
        raise ValueError("expects a finite number")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
        raise ValueError("takes " + " and ".join(filter(None, bounds)))


def _check_scheme(text: str) -> None:
    """Raises `ValueError` for a path of a scheme that TensorFlow has no file system for.

    Those count too that a program has loaded before it calls a command.
    """
    found = _SCHEME.match(text)
    tensorflow = sys.modules.get("tensorflow")
    schemes = tensorflow.io.gfile.get_registered_schemes() if tensorflow else _BUILT_IN_SCHEMES
    if found and found[1] not in schemes:
        raise ValueError(no_scheme(found[1]))


def _check_encoding(text: str) -> None:
    """Raises `ValueError` for bytes that are not UTF-8, of which TensorFlow takes no path."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8; rename it, or give a link to it with such a name") from None


def check_values(settings: Any, fields: Iterable[dataclasses.Field]) -> None:
    """Checks values that came from elsewhere than the command line; `None` is taken.

    Raises:
      UserError: A value outside of its field's range.
    """
    for field in fields:
        value = getattr(settings, field.name)
        try:
            if value is not None:
                _check_range(value, field.metadata)
        except ValueError as error:
            raise UserError(f"--{field.name}={value}: {error}") from None


def _kind_of(annotation: Any) -> tuple[type, bool]:
    """Returns (scalar type, whether it is a comma-separated list) of a field's annotation."""
    if isinstance(annotation, types.UnionType):  # `int | None`
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def define_flags(config_class: type, flag_values: flags.FlagValues) -> None:
    """Defines one absl flag for each field of `config_class` that was made by `setting`."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if "topic" not in field.metadata:
            continue
        kind, is_list = _kind_of(hints[field.name])
        parser = _SettingParser(kind, is_list, field)
        if kind is bool:  # BooleanFlag brings --noNAME
            flag = flags.BooleanFlag(field.name, field.default, field.metadata["help"])
            flag.parser = parser
        else:
            flag = flags.Flag(parser, flags.ArgumentSerializer(), field.name, field.default, field.metadata["help"])
        flags.DEFINE_flag(flag, flag_values=flag_values)


def parse_arguments(config_class: type, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Turns command-line arguments (without the program's name) into (config, positional arguments).

    `--flagfile=PATH` is read in place, so that a later flag wins. A config class with a static method
    `expand_arguments` may replace arguments by others, after those files are read.

    Raises:
      UserError: An unknown flag, a value that the flag does not take, or a path that nothing here reads (`s3://`).
    """
    flag_values = flags.FlagValues()
    define_flags(config_class, flag_values)
    try:
        arguments = flag_values.read_flags_from_files(arguments)
        if hasattr(config_class, "expand_arguments"):
            arguments = config_class.expand_arguments(arguments)
        positional = flag_values(["command", *arguments])[1:]
    except (flags.Error, ValueError) as error:  # absl's ValueError: --noNAME=value
        raise UserError(one_line(error).removeprefix("ERROR:: ")) from None
    for text in positional:
        try:
            _check_scheme(text)
        except ValueError as error:
            raise UserError(f"{text}: {error}") from None
    names = [field.name for field in dataclasses.fields(config_class) if "topic" in field.metadata]
    return config_class(**{name: flag_values[name].value for name in names}), positional


def to_arguments(settings: Any) -> list[str]:
    """Returns arguments, of what differs from its default, that `parse_arguments` makes the same settings of.

    `None` in place of another default cannot be said.
    """
    arguments = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if "topic" not in field.metadata or value is None or value == field.default:
            continue
        if isinstance(value, bool):
            arguments.append(f"--{'' if value else 'no'}{field.name}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            arguments.append(f"--{field.name}={text}")
    return arguments


def help_text(config_class: type, description: str) -> str:
    """Returns the command's description and its flags, grouped by topic in order of declaration."""
    topics: dict[str, list[str]] = {}
    for field in dataclasses.fields(config_class):
        if "topic" not in field.metadata:
            continue
        meta, default = field.metadata, field.default
        takes = f" ({'|'.join(meta['choices'])})" if meta["choices"] else ""
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        ending = "" if shown in (None, "") else f" [default: {shown}]"
        body = textwrap.fill(meta["help"] + takes + ending, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        topics.setdefault(meta["topic"], []).append(f"  --{field.name}\n{body}")
    sections = [f"{topic}:\n" + "\n".join(lines) for topic, lines in topics.items()]
    return "\n\n".join([description.strip(), *sections])
