"""A user's mistakes, each in one line, and what TensorFlow, HDF5 and the system raise turned into one."""

import contextlib
import errno
import os
import re
import sys
import unicodedata
from collections.abc import Iterator

_FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_WHERE_IN_INPUT = re.compile(r"^(\{\{function_node \S+\}\} )?(Error in user-defined function .*? Iterator::\S+: )?")


_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # categories of Unicode


class UserError(Exception):
    """A mistake that the user can mend: a flag, a path, a file, a record.

    The message is one line that names the culprit and says what to do. Commands print it without a
    traceback and exit with code 2.
    """

    exit_code = 2


class DownloadError(UserError):
    """ImageNet weights could not be downloaded; `cause` says why, without what else can be done."""

    def __init__(self, message: str, cause: str):
        super().__init__(message)
        self.cause = cause


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


def printable(text: str) -> str:
    """Returns text of others (a class name, a path) as it can stand in one line of a terminal, a table or a figure.

    Control characters, line separators and what is no UTF-8 are written as escapes, e.g. `\\u2028`.
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


def one_line(error: BaseException) -> str:
    """Returns the error's message on one line."""
    return " ".join(str(error).split())
