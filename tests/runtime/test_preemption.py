"""Signals between steps."""

import os
import signal

import pytest

from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_noted_and_agreed_between_steps(number):
    before = signal.getsignal(number)
    with StopRequest(Workers()) as stop:
        assert not stop.requested() and not stop.agree()
        send(number)
        assert stop.requested() and stop.signal_number is None
        assert stop.agree() and stop.signal_number == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        (signal.SIGINT, signal.SIGINT, True),
        (signal.SIGTERM, signal.SIGINT, True),
        (signal.SIGUSR1, signal.SIGTERM, False),  # the time limit, while the checkpoint is written
        (signal.SIGUSR1, signal.SIGUSR1, False),
        (signal.SIGTERM, signal.SIGUSR1, False),
        (signal.SIGHUP, signal.SIGHUP, False),  # the kernel's, and the shell's
        (signal.SIGTERM, signal.SIGHUP, False),  # of systemd, where a session ends
        (signal.SIGHUP, signal.SIGTERM, False),
    ],
)
def test_only_a_second_request_to_end_ends_at_once(first, second, ends):
    with StopRequest(Workers()) as stop:
        send(first)
        if ends:
            with pytest.raises(KeyboardInterrupt):
                send(second)
        else:
            send(second)
        assert stop.agree() and stop.signal_number == first


def test_nohup_stays():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(Workers()) as stop:
            send(signal.SIGHUP)
            assert not stop.requested() and not stop.agree()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class TwoWorkers(Workers):
    """The other one was sent SIGTERM."""

    count = 2
    announced = None
    peer_stop_signal = None

    def exchange(self, topic, value):
        return [value, int(signal.SIGTERM)]

    def announce_stop(self, signal_number):
        assert self.announced is None
        self.announced = signal_number


def test_another_workers_signal_stops_this_one():
    workers = TwoWorkers()
    with StopRequest(workers) as stop:
        assert not stop.requested()
        workers.peer_stop_signal = signal.SIGTERM
        assert stop.requested() and workers.announced is None
        assert stop.agree() and stop.signal_number == signal.SIGTERM


def test_a_signal_is_announced_once():
    workers = TwoWorkers()
    with StopRequest(workers) as stop:
        send(signal.SIGUSR1)
        assert stop.requested() and stop.requested()
        assert workers.announced == signal.SIGUSR1
