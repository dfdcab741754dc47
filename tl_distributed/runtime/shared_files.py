"""Files that one worker writes and others read: on a network file system they may be late, or another folder's."""

import time

import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.files import matching_files
from tl_distributed.runtime.workers import Workers

_VISIBLE_SECONDS = 90.0  # NFS keeps what it knows of a folder for up to 60 (acdirmax), also that a file is not there


def wait_until_visible(path: str, workers: Workers, *, flag: str) -> None:
    """Waits until this worker sees a file that another wrote; `flag` names the folder that all have to share.

    Raises:
      UserError: It does not appear.
    """
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not tf.io.gfile.exists(path):
        if time.monotonic() > deadline:
            raise UserError(
                f"{workers.name(workers.index)} does not see {path}, which another worker wrote; put {flag} on a file "
                "system that all workers share"
            )
        matching_files(path.rpartition("/")[0], "*")  # listing the folder makes NFS look again
        time.sleep(0.1)
