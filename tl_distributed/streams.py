"""Standard streams that a shell closed, a terminal that is gone, a log on a full disk: none of them ends a run."""

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def to_nowhere(descriptor: int) -> None:
    """Throws away what is written to a file descriptor from now on, and what is left in Python's buffer for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def forget_closed(*descriptors: int) -> bool:
    """Throws away what is written to those whose reader or terminal is gone; tells whether there is one.

    An error of it would end a run, or its exit code.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, 0)  # errors and hang-ups are reported whatever is asked for
    closed = [descriptor for descriptor, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for descriptor in closed:
        to_nowhere(descriptor)
    return bool(closed)


def show_line(line: str, stream: TextIO | None = None) -> None:
    """Writes a line at once, to standard error unless `stream` is given, if that takes it (`without_its_reader`)."""
    stream = sys.stderr if stream is None else stream
    with without_its_reader(stream):
        print(line, file=stream, flush=True)


@contextlib.contextmanager
def without_its_reader(stream: TextIO) -> Iterator[None]:
    """Lets a loop go on whose lines cannot be written.

    Where the terminal has been closed, as after `disown`, what is written here and all that follows go nowhere. Where
    the disk of a log file is full, these lines are lost, and later ones are written once there is room.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            to_nowhere(stream.fileno())
        elif error.errno in FULL_DISK:
            _drop_buffer(stream)
        else:
            raise


def _drop_buffer(stream: TextIO) -> None:
    """Throws away what Python holds for a stream, which would be written before the next line, or fail again."""
    file = os.dup(stream.fileno())
    to_nowhere(stream.fileno())
    stream.flush()
    os.dup2(file, stream.fileno())
    os.close(file)


def open_closed_streams() -> None:
    """Opens what the shell closed of standard input, output and error (`>&-`), to nowhere.

    The next file that is opened, a shard or a checkpoint, would have the free number otherwise, and get what TensorFlow
    writes to standard error.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))


def unwritten_output(error: OSError) -> str | None:
    """Returns one line where it is standard output that had no room, and drops the rest; else `None`.

    Python's error does not name the file, and forgets what it could not write: an empty line asks again.
    """
    if error.filename is not None or error.errno not in FULL_DISK:
        return None
    try:
        print(flush=True)
    except OSError as again:
        to_nowhere(sys.stdout.fileno())
        return f"standard output: {again.strerror.lower()}; make room, or send it elsewhere"
    return None
