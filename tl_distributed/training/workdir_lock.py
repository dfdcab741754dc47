"""One run at a time in a workdir: its chief holds a lock there while it trains."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.files import LockedError, file_lock, holder_line
from tl_distributed.runtime.workers import Workers

_LOG = logging.getLogger(__name__)

LOCK_FILE = "lock"


@contextlib.contextmanager
def locked_workdir(workdir: str, workers: Workers) -> Iterator[None]:
    """Makes the folder if need be, and holds its lock; the chief's part, who alone writes there.

    Raises:
      UserError: Another run holds the lock; names it.
      tf.errors.OpError: The folder cannot be made.
    """
    if not workers.is_chief:
        yield
        return
    is_new = not tf.io.gfile.exists(workdir)
    tf.io.gfile.makedirs(workdir)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(workdir, LOCK_FILE))
        except LockedError as error:
            raise UserError(in_use(workdir, error.holder)) from None
        try:
            yield
        finally:
            stack.close()
            if is_new:  # nothing came of it: the run was refused
                with contextlib.suppress(OSError):
                    os.rmdir(workdir)


@contextlib.contextmanager
def locked_folder(folder: str, lock_file: str) -> Iterator[None]:
    """Holds a lock in a folder; where there can be none, says so and goes on.

    A job that SLURM put back into its queue has the lock's holder behind it, though the file server may keep the lock
    of a node that was lost for a while: SLURM starts a job again after all of its earlier processes have ended.

    Raises:
      LockedError: Another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            reason = stack.enter_context(file_lock(f"{folder}/{lock_file}", **_slurm_job()))
        except LockedError as error:
            if not _is_earlier_start(error.holder):
                raise
            reason = f"{holder_line(error.holder)}, has it still, which was an earlier start of this SLURM job"
        except OSError as error:  # a finished run on a disk that can only be read is still reported
            reason = f"its {lock_file} cannot be made ({error.strerror})"
        if reason:
            _LOG.info("%s is not locked (%s): see to it that no other training uses it.", folder, reason)
        yield


def holder_of(workdir: str) -> dict[str, Any] | None:
    """Returns who trains in a workdir, as far as a lock tells; `None`: nobody."""
    try:
        with file_lock(f"{workdir}/{LOCK_FILE}"):
            return None
    except LockedError as error:
        return None if _is_earlier_start(error.holder) else error.holder
    except OSError:
        return None


def in_use(workdir: str, holder: dict[str, Any]) -> str:
    """Returns the line for a user whose run has to wait for another."""
    return f"{workdir} is in use by {holder_line(holder)}; wait for its end, or choose another --workdir"


def _slurm_job() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": job, "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0)} if job else {}


def _is_earlier_start(holder: dict[str, Any]) -> bool:
    job = _slurm_job()
    same = bool(job) and holder.get("slurm_job") == job["slurm_job"]
    return same and holder.get("slurm_restart", 0) < job["slurm_restart"]
