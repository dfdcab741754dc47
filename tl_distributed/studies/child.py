"""The train command as the study starts it: killed with the study, it ends like any other, with a checkpoint."""

import ctypes
import signal
import sys

from tl_distributed.commandline import run_command
from tl_distributed.config import Config
from tl_distributed.train import DESCRIPTION, main

_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies

if __name__ == "__main__":
    if sys.platform == "linux":
        # Otherwise a study that was killed and started again would train in a folder that is still written to.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    run_command(main, Config, DESCRIPTION)
