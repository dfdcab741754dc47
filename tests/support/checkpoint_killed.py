"""A process of its own for the tests of checkpoints: saves step 1, then step 2, which the system or itself cuts short.

  python checkpoint_killed.py WORKDIR HOW

HOW is `data`: the kernel kills it while it writes the data; `list`: it kills itself with the data written and the
folder's list not; `error`: writing the data fails, and the process ends with what that raised.
"""

import os
import resource
import signal
import sys

import engine
import tensorflow as tf
from tiny_backbone import register_tiny_backbones

from tl_distributed.runtime.workers import Workers
from tl_distributed.training.checkpoints import Checkpoints
from tl_distributed.training.position import Position

register_tiny_backbones()
workdir, how = sys.argv[1:]
made = engine.make_engine(engine.runtime(), backbone="tiny")
with Checkpoints(workdir, keep=2, workers=Workers()) as checkpoints:
    made.train(1)
    checkpoints.save(made.model, made.step, Position(step=1))
    checkpoints.wait()
    made.train(1)
    if how == "list":
        tf.train.CheckpointManager._record_state = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    else:  # beyond this size the kernel sends SIGXFSZ, or, where that is ignored, writing fails
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how == "data" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    checkpoints.save(made.model, made.step, Position(step=2))
    checkpoints.wait()
