"""How a call of the API begins and ends: TensorFlow is imported quietly, what a user can mend is a `UserError`."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from tl_distributed.errors import Stopped, UserError, file_error_line, one_line
from tl_distributed.files import absolute
from tl_distributed.settings.command import QUIET_TENSORFLOW, import_tensorflow, start_logging


@contextlib.contextmanager
def api_call() -> Iterator[None]:
    """Imports TensorFlow, shows the log, and turns what ends a command into exceptions.

    Raises:
      UserError: An error of a file system on some path; not under `python -X dev`, as for commands.
      Stopped: A signal asked the run to stop.
    """
    _show_log()
    quiet_tensorflow()
    try:
        yield
    except UserError:
        raise
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > 128:
            raise Stopped(stop.code - 128) from None
        raise
    except Exception as error:
        line = None if sys.flags.dev_mode else file_error_line(error)
        if line is None:
            raise
        raise UserError(one_line(line)) from error


def kept_path(path: str | os.PathLike) -> str:
    """Returns a path as an object keeps it that reads there later: a program may go to another folder meanwhile."""
    return absolute(os.path.expanduser(os.fspath(path)))


def quiet_tensorflow() -> None:
    """Imports TensorFlow without its lines on every start, unless TF_CPP_MIN_LOG_LEVEL asks for them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET_TENSORFLOW)
    import_tensorflow()


def _show_log() -> None:
    """Shows the log lines on standard error, unless the program has its own handlers or level for them."""
    logger = logging.getLogger("tl_distributed")
    if logger.handlers:
        return
    level = logger.level
    start_logging()
    if level:
        logger.setLevel(level)
