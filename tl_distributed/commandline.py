"""What every command shares: settings as a frozen dataclass, absl flags made from it, one-line errors.

A command declares its flags as a dataclass whose fields are made by `setting`; `run_command` turns the
command line into one frozen instance, calls the command with it, and ends a user's mistake with one line
on standard error and exit code 2. Nothing below the commands reads flags.
"""

import contextlib
import dataclasses
import errno
import logging
import math
import os
import re
import select
import signal
import sys
import tempfile
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

_QUIET = "3"  # TF_CPP_MIN_LOG_LEVEL, unless the user set one: TensorFlow's chatter hides our own lines
_WHERE_IN_INPUT = re.compile(r"^(\{\{function_node \S+\}\} )?(Error in user-defined function .*? Iterator::\S+: )?")


class UserError(Exception):
    """A mistake that the user can mend: a flag, a path, a file, a record.

    The message is one line that names the culprit and says what to do. Commands print it without a
    traceback and exit with code 2.
    """

    exit_code = 2


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


_FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_EXPECTS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


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
        self._check_range(value)
        return value

    def _convert(self, argument: Any) -> Any:
        if self._kind is bool and not isinstance(argument, bool):
            words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
            if str(argument).lower() not in words:
                raise ValueError
            return words[str(argument).lower()]
        return self._kind(argument)

    def _check_range(self, value: Any) -> None:
        choices, low, high = (self._meta[key] for key in ("choices", "minimum", "maximum"))
        if choices and value not in choices:
            raise ValueError(f"takes one of {', '.join(choices)}")
        if not isinstance(value, (int, float)):
            return
        if not math.isfinite(value):
            raise ValueError("expects a finite number")
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
            raise ValueError("takes " + " and ".join(filter(None, bounds)))


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
      UserError: An unknown flag, or a value that the flag does not take.
    """
    flag_values = flags.FlagValues()
    define_flags(config_class, flag_values)
    try:
        arguments = flag_values.read_flags_from_files(arguments)
        if hasattr(config_class, "expand_arguments"):
            arguments = config_class.expand_arguments(arguments)
        positional = flag_values(["command", *arguments])[1:]
    except (flags.Error, ValueError) as error:  # absl's ValueError: --noNAME=value
        raise UserError(_one_line(error).removeprefix("ERROR:: ")) from None
    names = [field.name for field in dataclasses.fields(config_class) if "topic" in field.metadata]
    return config_class(**{name: flag_values[name].value for name in names}), positional


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


def run_command(
    main: Callable[[Any, list[str]], int | None],
    config_class: type,
    description: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parses the command line, calls `main(config, positional)`, and exits.

    A `UserError` ends with its one line and exit code 2, Ctrl-C with 130, a reader of the output that went away
    (`| head`) with 141; anything else is a defect and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _QUIET)
    try:
        if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments):
            print(help_text(config_class, description))
            code = 0
        else:
            config, positional = parse_arguments(config_class, arguments)
            code = main(config, positional)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        raise SystemExit(128 + signal.SIGPIPE) from None
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    raise SystemExit(code or 0)


def _stdout_is_closed() -> bool:
    """Tells whether nobody reads standard output any more; if so, what is left for it is thrown away."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are reported whatever is asked for
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def start_logging() -> None:
    """Sends this project's log lines to standard error, with the time and nothing else."""
    logger = logging.getLogger("tl_distributed")  # TensorFlow's and absl's own lines stay out
    logger.handlers[:] = [logging.StreamHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    set_log_name("")


def set_log_name(name: str) -> None:
    """Puts the name of this process, of several that write to one log, in front of its lines."""
    for handler in logging.getLogger("tl_distributed").handlers:
        line = f"%(asctime)s {name}: %(message)s" if name else "%(asctime)s %(message)s"
        handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))


def import_tensorflow() -> None:
    """Imports TensorFlow without the lines that it prints on every start, whatever its log level.

    They are written by C++ before its logging obeys TF_CPP_MIN_LOG_LEVEL; any other line is passed on.
    """
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") != _QUIET:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            captured.seek(0)
            lines = captured.read().decode(errors="replace").splitlines()
            for line in lines:
                if not line.startswith(("I0000 ", "WARNING: All log messages before absl::InitializeLog")):
                    print(line, file=sys.stderr)


def refuse_positional(positional: Sequence[str]) -> None:
    """Raises `UserError` for words that a command without positional arguments was given."""
    if positional:
        raise UserError(f"unexpected argument {positional[0]!r}; flags are written --name=value")


@contextlib.contextmanager
def full_disk_to_mend(folder: str) -> Iterator[None]:
    """Turns what Python, TensorFlow or HDF5 raise where `folder` has no room left into a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError, *_tensorflow_errors()) as error:
        cause = next((text for text in _FULL_DISK if text in str(error)), None)
        if cause is None:
            raise
        raise UserError(
            f"{folder}: {cause.lower()}; make room, and start again: the run goes on from its last checkpoint"
        ) from None


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    return (sys.modules["tensorflow"].errors.OpError,) if "tensorflow" in sys.modules else ()


def tensorflow_cause(message: str) -> str:
    """Returns the line of a TensorFlow error's message that says what is wrong, without the Python stack before it."""
    lines = [line for line in message.splitlines() if line.strip()]
    stack = ("Graph execution error", "Detected at node", "<stack traces unavailable>", "  File ", "\t")
    cause = next((line.strip() for line in lines if not line.startswith(stack)), " ".join(message.split()))
    return _WHERE_IN_INPUT.sub("", cause)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
