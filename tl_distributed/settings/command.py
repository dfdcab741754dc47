"""The frame of every command: the command line becomes one frozen config, a user's mistake one line and exit code 2."""

import logging
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import tl_distributed
from tl_distributed.errors import UserError, file_error_line, one_line
from tl_distributed.settings.flags import help_text, parse_arguments
from tl_distributed.streams import forget_closed, open_closed_streams, show_line, unwritten_output

HELP = ("--help", "-h", "-help", "--helpfull")
QUIET_TENSORFLOW = "3"  # TF_CPP_MIN_LOG_LEVEL, unless the user set one: TensorFlow's chatter hides our own lines


def run_command(
    main: Callable[[Any, list[str]], int | None],
    config_class: type,
    description: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parses the command line, calls `main(config, positional)`, and exits as `run_to_exit` does."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def parsed() -> int | None:
        if any(argument in HELP for argument in arguments):
            print(help_text(config_class, description))
            return 0
        config, positional = parse_arguments(config_class, arguments)
        return main(config, positional)

    run_to_exit(parsed)


def run_to_exit(call: Callable[[], int | None]) -> None:
    """Calls, and exits with the code that it returns.

    A `UserError`, or an error of a file system on some path or of standard output, ends with its one line and exit code
    2, Ctrl-C with 130, a reader of the output that went away (`| head`) with 141; anything else is a defect and keeps
    its traceback. So does an error of a file system under `python -X dev`.
    """
    open_closed_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET_TENSORFLOW)
    try:
        code = call()
        sys.stdout.flush()
    except BrokenPipeError:
        if not forget_closed(sys.stdout.fileno()):
            raise
        raise SystemExit(128 + signal.SIGPIPE) from None
    except UserError as error:
        show_line(f"error: {one_line(error)}")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        show_line("interrupted")
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        line = unwritten_output(error) if isinstance(error, OSError) else None
        if line is None and not sys.flags.dev_mode:
            line = file_error_line(error)
        if line is None:
            raise
        show_line(f"error: {one_line(line)}")
        raise SystemExit(UserError.exit_code) from None
    raise SystemExit(code or 0)


class _StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time: a notebook, or a program that redirects it, puts another in place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def start_logging() -> None:
    """Sends this project's log lines to standard error, with the time and nothing else."""
    logger = logging.getLogger("tl_distributed")  # TensorFlow's and absl's own lines stay out
    logger.handlers[:] = [_StderrHandler()]
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
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") != QUIET_TENSORFLOW:
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


def typed_arguments(console_script: str) -> list[str] | None:
    """Returns what was typed after the name of the command, or `None` where a program calls it: its own are others.

    Args:
      console_script: By which the command may have been started, e.g. `tl-train`.
    """
    package = pathlib.Path(tl_distributed.__file__).resolve().parent
    program = pathlib.Path(sys.argv[0]).resolve()  # of `python -m` a file of the package; a program may be a train.py
    return sys.argv[1:] if program.is_relative_to(package) or program.name == console_script else None


def refuse_positional(positional: Sequence[str]) -> None:
    """Raises `UserError` for words that a command without positional arguments was given."""
    if positional:
        raise UserError(f"unexpected argument {positional[0]!r}; flags are written --name=value")
