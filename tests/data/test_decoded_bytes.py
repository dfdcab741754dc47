"""The budget of decoded pixels: never more than it at once, but for one that is larger; and nobody waits for ever."""

import threading
import time

from tl_distributed.data.decoded_bytes import DecodedBytes


def test_threads_share_the_bytes():
    held, now, most, lock = DecodedBytes(100), [0], [0], threading.Lock()

    def work(num_bytes):
        with held.hold(num_bytes):
            with lock:
                now[0] += num_bytes
                most[0] = max(most[0], now[0])
            time.sleep(0.002)
            with lock:
                now[0] -= num_bytes

    sizes = [30, 60, 45, 10, 100] * 8
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 < most[0] <= 100


def test_one_that_is_larger_than_all_is_served_alone():
    held = DecodedBytes(10)
    entered = threading.Event()
    with held.hold(1000):
        other = threading.Thread(target=lambda: (held.hold(1).__enter__(), entered.set()), daemon=True)
        other.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
