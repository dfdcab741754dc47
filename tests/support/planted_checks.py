"""Checks that go well or end badly, for the tests of the doctor; a new process imports them without TensorFlow."""

import os
import sys
import time

from tl_distributed.diagnosis.checks import Check, NotRunError
from tl_distributed.diagnosis.report import OK, Finding
from tl_distributed.errors import UserError


def good(subject):
    yield Finding(topic="Planted", name="good", value=f"process {os.getpid()}", status=OK)


def remembers_the_dead(subject):
    yield Finding(topic="Planted", name="died", value=",".join(sorted(subject.died)))


def raises(subject):
    yield Finding(topic="Planted", name="begun", value="before the error", status=OK)
    raise ZeroDivisionError("first line\nsecond line")


def user_error(subject):
    raise UserError("--flag=3: too many; not three; use --flag=2")


def not_run(subject):
    raise NotRunError("something else failed")


def aborts(subject):
    os.write(2, b"F external/driver.cc:7 Check failed: status == OK\n")
    os.abort()


def is_killed(subject):
    os.kill(os.getpid(), 9)


def exits(subject):
    sys.stderr.write("error: worker 1 ended without a word\n")
    sys.stderr.flush()
    os._exit(75)


def hangs(subject):
    time.sleep(600)


def lasts(subject):
    time.sleep(2.5)
    yield from good(subject)


def planted(function, **settings) -> Check:
    return Check("Planted", function.__name__, function, **settings)
