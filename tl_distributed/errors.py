"""A user's mistakes, each in one line, and what TensorFlow, HDF5 and the system raise turned into one."""

import contextlib
import errno
import os
import re
import signal
import socket
import sys
import unicodedata
from collections.abc import Iterator

from tl_distributed.streams import FULL_DISK

_FULL_DISK = tuple(os.strerror(number) for number in FULL_DISK)
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


class Stopped(KeyboardInterrupt):
    """A signal stopped a run of the Python API after a checkpoint; the same call goes on.

    A `KeyboardInterrupt`, so that a program's `except Exception` does not go on where its user wants it to stop.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; the same call goes on from the checkpoint")
        self.signal_number = signal_number


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


# How TensorFlow's messages name a file and say what is wrong with it; the last one is of object stores.
_FILE_MESSAGES = (
    re.compile(r"(?P<path>\S.*?); (?P<cause>[A-Z][^;]*)$"),
    re.compile(r"(?P<path>\S.*?) (?P<cause>is not a directory)$"),
    re.compile(r"(?P<cause>Could not find directory) (?P<path>\S.*)$"),
    re.compile(r"(?P<cause>.*\S)\W+(?P<path>(?!https?:|grpc:)[a-z][a-z0-9+.-]*://[^\s'\")]+)", re.DOTALL),
)
_NO_SCHEME = re.compile(r"File system scheme '(?P<scheme>[^']*)' not implemented \(file: '(?P<path>[^']*)'\)")
_OPERATION = re.compile(r"\s*\[Op:\w+\].*$", re.DOTALL)  # by which an eager call's message ends
_SYSTEM_CAUSES = {os.strerror(number) for number in errno.errorcode}
_REMEDIES = {
    errno.EACCES: "check who may read and write there, or name another path",
    errno.EPERM: "check who may read and write there, or name another path",
    errno.EROFS: "name another path",
    errno.ENOSPC: "make room, or name another path",
    errno.EDQUOT: "make room, or name another path",
}


def file_error_line(error: BaseException) -> str | None:
    """Returns one line for an error of a file system on some path: which, why, what to do; `None` of any other error.

    Python's own have a path, TensorFlow's name it in their message. Files of Python and of its packages are no user's.
    """
    if isinstance(error, _tensorflow_errors()) and (found := _NO_SCHEME.search(error.message or "")):
        return f"{found['path']}: {no_scheme(found['scheme'])}"
    if isinstance(error, OSError):
        path, cause = error.filename, error.strerror
    elif isinstance(error, _tensorflow_errors()):
        path, cause = _path_and_cause(tensorflow_cause(error.message or ""))
    else:
        return None
    if not path or not cause or isinstance(path, int):
        return None
    if os.fsdecode(path).startswith(os.path.dirname(os.__file__)) or "/site-packages/" in os.fsdecode(path):
        return None
    # Under which name a file is written first (`files.write_file`).
    shown = os.fsdecode(path).removesuffix(".tmp").removesuffix(f".{socket.gethostname()}.{os.getpid()}")
    number = next((number for number in errno.errorcode if os.strerror(number) == cause), 0)
    return f"{shown}: {_uncapitalised(cause)}; {_REMEDIES.get(number, 'check the path')}"


def _path_and_cause(message: str) -> tuple[str, str]:
    """Returns the path and the cause in a message of TensorFlow's, empty where it is about something else."""
    message = _OPERATION.sub("", message)
    for pattern in _FILE_MESSAGES:
        found = pattern.search(message)
        if found and (pattern is not _FILE_MESSAGES[0] or found["cause"] in _SYSTEM_CAUSES):
            return found["path"], found["cause"]
    return "", ""


def no_scheme(scheme: str) -> str:
    """Returns what is said of paths that begin with `scheme://` where nothing reads them."""
    return f"there is no file system {scheme}:// here: paths are local ones or gs://; copy it to one of them"


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


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

    Control characters, line separators and bytes that are no UTF-8, which Python holds as lone surrogates, are written
    as escapes, e.g. `\\u2028`, `\\xe9`.
    """
    return "".join(
        _escaped(character) if unicodedata.category(character) in _UNPRINTABLE else character for character in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


def one_line(error: BaseException) -> str:
    """Returns the error's message on one line."""
    return " ".join(str(error).split())
