"""The thread that writes beside training: order, room for two jobs, failures."""

import threading

import pytest

from tl_distributed.training.background_writer import BackgroundWriter

SECONDS = 30


def test_jobs_are_done_in_order_one_at_a_time():
    writer, order = BackgroundWriter(), []
    for number in range(5):
        writer.make_room()

        def job(number=number):
            order.append(("begins", number))
            order.append(("ends", number))

        writer.submit(job)
    writer.wait()
    assert order == [(what, number) for number in range(5) for what in ("begins", "ends")]
    assert writer.finished == 5 and writer.seconds > 0


def test_there_is_room_for_two_jobs():
    writer, release = BackgroundWriter(), threading.Event()
    for _ in range(2):
        writer.make_room()  # does not wait
        writer.submit(lambda: release.wait(SECONDS))
    waiter = threading.Thread(target=writer.make_room)
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    release.set()
    waiter.join(SECONDS)
    assert not waiter.is_alive()
    writer.wait()


def test_nothing_is_begun_after_a_failure_which_the_next_call_raises():
    writer, release, done = BackgroundWriter(), threading.Event(), []

    def fails():
        release.wait(SECONDS)
        raise OSError("no space left")

    writer.submit(fails)
    writer.submit(lambda: done.append("after"))
    writer.raise_failure()  # not yet
    release.set()
    for call in (writer.wait, writer.make_room, writer.raise_failure):
        with pytest.raises(OSError, match="no space left"):
            call()
    assert not done and writer.finished == 0
    assert str(writer.finish()) == "no space left"
