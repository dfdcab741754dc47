"""A command in a process of its own (`processes`): killed with what started it, it ends as if told to."""

import ctypes
import os
import runpy
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


def _stop_with_parent() -> None:
    """Otherwise a study that was killed and started again would train in a folder that is still written to."""

    def stop_once(number: int, _: FrameType | None) -> None:
        # Each thread of a dying parent may send one, and a second SIGTERM would end the run without a checkpoint.
        signal.signal(number, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, stop_once)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


if __name__ == "__main__":
    if sys.platform == "linux":
        _stop_with_parent()
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__")  # the command, with what it was given
