"""One study at a time in the folder of a run."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from tl_distributed.errors import UserError
from tl_distributed.files import LockedError, holder_line
from tl_distributed.training.workdir_lock import holder_of, in_use, locked_folder

_LOG = logging.getLogger(__name__)

_LOCK_FILE = "study.lock"  # beside that of the training, which is a process of its own
_POLL_SECONDS = 0.5
_WAIT_SECONDS = 120.0  # for the checkpoint of a training that is told to stop


@contextlib.contextmanager
def sole_study(folder: str, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other studies from a run's folder, and waits for a training there that a killed study has left.

    Such a training was told to stop when its study died, and writes its checkpoint.

    Raises:
      UserError: Another study, or a training that does not end, uses the folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder, _LOCK_FILE))
        except LockedError as error:
            raise UserError(in_use(folder, error.holder)) from None
        _wait_until_free(folder, while_waiting)
        yield


def _wait_until_free(folder: str, while_waiting: Callable[[], None]) -> None:
    deadline, waiting = time.monotonic() + _WAIT_SECONDS, False
    while (holder := holder_of(folder)) is not None:
        if time.monotonic() > deadline:
            raise UserError(in_use(folder, holder))
        if not waiting:
            _LOG.info("%s: waiting for the end of %s.", folder, holder_line(holder))
        waiting = True
        while_waiting()
        time.sleep(_POLL_SECONDS)
