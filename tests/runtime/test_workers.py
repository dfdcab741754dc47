"""How workers join, agree and notice one another's end: processes on loopback, without TensorFlow."""

import signal
import socket
import time

import pytest
from worker_processes import WorkerProcesses

from tl_distributed.runtime.connections import Connection
from tl_distributed.runtime.workers import Workers


@pytest.fixture
def talk(tmp_path):
    """Starts workers by their words, `None` for one that does not come; returns exit codes, logs, seconds."""

    def run(*words: list[str] | None, timeout: float = 20.0) -> tuple[list[int], list[str], float]:
        with WorkerProcesses(tmp_path / "logs", "talk.py", len(words)) as workers:
            started = time.monotonic()
            for index, own in enumerate(words):
                if own is not None:
                    workers.start(index, str(timeout), str(index), ",".join(workers.addresses), *own)
            stopped = [index for index, own in enumerate(words) if own and "freeze" in own]
            for index in set(workers.processes) - set(stopped):
                workers.processes[index].wait(timeout=60)
            seconds = time.monotonic() - started
            for index in stopped:
                workers.processes[index].send_signal(signal.SIGCONT)
            return workers.wait(), [workers.log(index) for index in sorted(workers.processes)], seconds

    return run


def test_one_process_agrees_with_itself():
    with Workers() as alone:
        assert alone.is_chief and alone.exchange("any", {"value": 1}) == [{"value": 1}]
        alone.require_same({"any": 1}, "hint")


def test_workers_exchange_and_leave_in_order(talk):
    codes, logs, _ = talk(*[["ports", *[f"exchange={topic}" for topic in "abc"], "same=red"]] * 3)
    assert codes == [0, 0, 0]
    assert logs == ["2\n2\n2\nleft in order\n"] * 3


def test_a_worker_that_does_not_come_is_named_within_the_timeout(talk):
    codes, logs, seconds = talk([], None, [], timeout=2)
    assert codes == [2, 2] and seconds < 10
    assert "error: worker 1 (127.0.0.1:" in logs[0] and "did not join within 2 s" in logs[0]
    assert "did not take worker 2" in logs[1] and "worker 1 (127.0.0.1:" in logs[1]


def test_a_chief_that_does_not_come_is_named_within_the_timeout(talk):
    codes, logs, seconds = talk(None, [], timeout=2)
    assert codes == [2] and seconds < 10
    assert "cannot reach the chief (127.0.0.1:" in logs[0] and "Connection refused" in logs[0]
    assert logs[0].count("\n") == 1


def test_different_values_end_all_with_one_line(talk):
    codes, logs, _ = talk(["same=red"], ["same=red"], ["same=blue"])
    assert codes == [2, 2, 2]
    for log in logs:
        assert "worker 2 (127.0.0.1:" in log and "--colour blue, the chief" in log and log.count("error: ") == 1


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize(
    ("word", "code", "reason"),
    [
        ("mistake=pink", 2, "--colour=pink: no such colour"),
        ("defect", 1, "ZeroDivisionError: a defect"),
        ("die", 75, "ended without a word"),
    ],
)
def test_whatever_ends_one_ends_all_at_once_and_says_why(talk, culprit, word, code, reason):
    words = [["exchange=a", "sleep=30"], ["exchange=a", "exchange=b"], ["exchange=a", "exchange=b"]]
    words[culprit] = ["exchange=a", word]
    codes, logs, seconds = talk(*words)
    assert seconds < 15
    for index in {0, 1, 2} - {culprit}:
        assert codes[index] == code
        assert reason in logs[index] and ("the chief" if culprit == 0 else "worker 2") in logs[index]


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_frozen_worker_ends_the_others_within_the_timeout(talk, culprit):
    words = [["exchange=a", "exchange=b"]] * 3
    words[culprit] = ["exchange=a", "freeze", "sleep=30"]
    codes, logs, seconds = talk(*words, timeout=2)
    assert codes == [75, 75, 75] and seconds < 12  # the frozen one too, once it goes on
    for index in {0, 1, 2} - {culprit}:
        assert "has given no sign of life for 2 s" in logs[index]
        assert ("the chief" if culprit == 0 else "worker 1") in logs[index]


def test_what_failed_in_time_is_not_said_to_be_late(talk):
    codes, logs, _ = talk(["exchange=a", "broken=no such device"], ["exchange=a", "exchange=b"], timeout=2)
    assert codes == [1, 1]
    assert "InternalError: no such device" in logs[0] and "InternalError: no such device" in logs[1]


def test_a_request_to_stop_reaches_all(talk):
    codes, logs, _ = talk(["stopped", "exchange=a"], ["stop=15", "exchange=a"], ["stopped", "exchange=a"])
    assert codes == [0, 0, 0]
    assert logs[0].startswith("15\n") and logs[2].startswith("15\n")


def test_ports_in_use_and_foreign_callers(tmp_path):
    with WorkerProcesses(tmp_path / "taken", "talk.py", 2) as workers:
        port = int(workers.addresses[1].rsplit(":", 1)[1])
        with socket.create_server(("", port)):
            for index in (0, 1):
                workers.start(index, "20", str(index), ",".join(workers.addresses), "ports")
            assert workers.wait() == [2, 2]
        assert f"port {port} of this machine: Address already in use" in workers.log(1)
    with WorkerProcesses(tmp_path / "foreign", "talk.py", 2) as workers:
        chief = workers.start(0, "20", "0", ",".join(workers.addresses), "exchange=a")
        while True:
            try:
                with socket.create_connection(("127.0.0.1", workers.control_port)) as caller:
                    caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
            except ConnectionRefusedError:
                assert chief.poll() is None
                time.sleep(0.02)
        workers.start(1, "20", "1", ",".join(workers.addresses), "exchange=a")
        assert workers.wait() == [0, 0], workers.log(0)


@pytest.mark.parametrize(
    ("version", "flags", "reason"),
    [
        ("2.21", ["--learning_rate=0.02"], "has --learning_rate 0.02, the chief"),
        ("2.20", [], "has tensorflow 2.20, the chief"),
        ("2.21", ["--data_dir=elsewhere"], None),
    ],
)
def test_other_flags_or_versions_end_all_with_one_line(tmp_path, version, flags, reason):
    with WorkerProcesses(tmp_path, "talk.py", 2) as workers:
        workers.start(0, "join", "2.21", "--learning_rate=0.01", *workers.flags_of(0))
        workers.start(1, "join", version, "--learning_rate=0.01", *workers.flags_of(1), *flags)
        assert workers.wait() == ([2, 2] if reason else [0, 0])
        for index in (0, 1):
            log = workers.log(index)
            assert (f"worker 1 ({workers.addresses[1]}) {reason}" in log) if reason else log == "joined 2\n"
            assert log.count("\n") == 1


def test_another_list_of_workers_and_one_index_twice_are_refused(tmp_path):
    for name, indices, reason in (
        ("twice", (0, 1, 1), "two processes say that they are worker 1"),
        ("list", (0, 1), "was given"),
    ):
        with WorkerProcesses(tmp_path / name, "talk.py", 3) as workers:
            for started, index in enumerate(indices):
                addresses = workers.addresses if name == "twice" or index == 0 else workers.addresses[:2]
                workers.start(started, "10", str(index), ",".join(addresses), "exchange=a")
            assert set(workers.wait()) == {2}
            assert reason in workers.log(0)


def test_a_message_that_nobody_takes_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other = server.accept()[0]
    with other:
        connection = Connection(one)
        connection.limit_sending(0.5)
        started = time.monotonic()
        connection.send({"kind": "value", "value": "x" * 2**26})
        assert 0.4 < time.monotonic() - started < 10
        started = time.monotonic()
        connection.send({"kind": "alive"})
        assert time.monotonic() - started < 0.4
        connection.close()
