"""Progress: plain lines in a log file, a bar on a terminal."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import types

import numpy as np
import pytest

from tl_distributed import progress as progress_module
from tl_distributed.progress import Progress, format_duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test sets `seconds`."""
    clock = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock.seconds)
    return clock


def _lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_lines_show_share_speed_time_left_and_values(clock):
    stream = io.StringIO()
    with Progress(total=4000, unit="images", label="Build", stream=stream, log_every_seconds=10) as progress:
        clock.seconds += 2
        progress.update(400, loss=0.9)
        clock.seconds += 10
        progress.update(800, loss=0.52)
        clock.seconds += 28
        progress.update(2800, loss=np.float32(0.25), images=np.int64(3))
    assert _lines(stream) == [
        "Build: 0/4000 images (0 %)",
        "Build: 1200/4000 images (30 %), 100 images/s, 0:28 left, loss 0.52",
        "Build: 4000/4000 images (100 %), 100 images/s, in 0:40, loss 0.25, images 3",
    ]


def test_speed_of_a_line_leaves_out_the_slow_start(clock):
    stream = io.StringIO()
    with Progress(total=100, unit="steps", label="Train", stream=stream, log_every_seconds=5) as progress:
        clock.seconds += 60  # compilation
        progress.update(1)
        clock.seconds += 5
        progress.update(10)
        progress.update(0)
        clock.seconds += 5
        progress.update(0)
    assert _lines(stream)[1:] == [
        "Train: 1/100 steps (1 %), 0.0167 steps/s, 1:39:00 left",
        "Train: 11/100 steps (11 %), 2 steps/s, 0:44 left",
        "Train: 11/100 steps (11 %)",  # nothing done, no speed to divide by
        "Train: 11/100 steps (11 %), 0.157 steps/s, in 1:10",
    ]


def test_resumed_units_count_as_done_but_not_as_speed(clock):
    stream = io.StringIO()
    with Progress(total=100, unit="steps", label="Train", initial=90, stream=stream) as progress:
        clock.seconds += 5
        progress.update(10)
    assert _lines(stream) == ["Train: 90/100 steps (90 %)", "Train: 100/100 steps (100 %), 2 steps/s, in 0:05"]


@pytest.mark.parametrize(
    ("total", "first", "last"),
    [(0, "A: 0/0 files (100 %)", "A: 0/0 files (100 %), in 0:00"), (None, "A: 0 files", "A: 0 files, in 0:00")],
)
def test_nothing_to_do(clock, total, first, last):
    stream = io.StringIO()
    with Progress(total=total, unit="files", label="A", stream=stream):
        pass
    assert _lines(stream) == [first, last]


def test_unknown_total_has_no_share_and_no_time_left(clock):
    stream = io.StringIO()
    with Progress(total=None, unit="files", label="A", stream=stream, log_every_seconds=1) as progress:
        clock.seconds += 2
        progress.update(50)
    assert _lines(stream) == ["A: 0 files", "A: 50 files, 25 files/s", "A: 50 files, 25 files/s, in 0:02"]


def test_an_error_inside_is_not_hidden_and_the_last_line_says_where(clock):
    stream = io.StringIO()
    with (
        pytest.raises(KeyError, match="broken"),
        Progress(total=9, unit="files", label="A", stream=stream) as progress,
    ):
        clock.seconds += 1
        progress.update(4)
        raise KeyError("broken")
    assert _lines(stream)[-1] == "A: 4/9 files (44 %), 4 files/s, stopped after 0:01"


def test_what_is_over_before_the_delay_shows_nothing_and_what_takes_longer_does(clock):
    for seconds, expected in ((4, []), (5, ["A: 1/9 files (11 %), 0.2 files/s, 0:40 left"])):
        stream = io.StringIO()
        with Progress(
            total=9, unit="files", label="A", stream=stream, log_every_seconds=3, delay_seconds=5
        ) as progress:  # fmt: skip
            clock.seconds += seconds
            progress.update(1)
            progress.update(8)
        ending = [f"A: 9/9 files (100 %), {9 / seconds:.3g} files/s, in 0:0{seconds}"] if expected else []
        assert _lines(stream) == expected + ending


def test_notes_are_lines_of_their_own_and_nothing_is_a_control_character(clock):
    stream = io.StringIO()
    with Progress(total=2, unit="files", label="A", stream=stream, log_every_seconds=0) as progress:
        progress.update(1)
        progress.note("b.png: unreadable, skipped")
        progress.update(1)
    assert "b.png: unreadable, skipped" in _lines(stream)
    assert all(character.isprintable() or character == "\n" for character in stream.getvalue())


def test_standard_error_is_the_default(capsys):
    with Progress(total=1, unit="files", label="A"):
        pass
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("A: 0/1 files")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (90061, "25:01:01")]
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


_TERMINAL_SCRIPT = """
import time
from tl_distributed.progress import Progress
with Progress(total=40, unit="images", label="Build") as progress:
    for i in range(4):
        time.sleep(0.12)
        progress.update(10, loss=0.5)
        if i == 1:
            progress.note("a note")
"""


_DELAYED_SCRIPT = """
import time
from tl_distributed.progress import Progress
with Progress(total=40, unit="images", label="Build") as progress:
    for label, seconds in (("quick", 0.02), ("long", 0.2)):
        with Progress(total=4, unit="images", label=label, delay_seconds=0.3) as inner:
            for i in range(4):
                time.sleep(seconds)
                inner.update(1)
    progress.update(40)
"""


def _run_on_terminal(columns: int, script: str = _TERMINAL_SCRIPT) -> str:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen([sys.executable, "-c", script], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        output = b""
        while True:
            try:
                block = os.read(master, 4096)
            except OSError:  # Linux answers so once the other side is closed
                break
            if not block:
                break
            output += block
    os.close(master)
    assert process.returncode == 0, output.decode()
    return output.decode()


def test_terminal_gets_a_bar_and_undamaged_notes():
    output = _run_on_terminal(columns=100)
    assert "Build:  50%" in output and "40/40 [" in output and "images/s, loss 0.5]" in output
    assert output.count("\r") > 5
    assert "a note" in [line.split("\r")[-1] for line in output.replace("\r\n", "\n").split("\n")]


def test_a_delayed_bar_comes_below_another_and_goes_at_its_end():
    output = _run_on_terminal(100, _DELAYED_SCRIPT)
    assert "quick" not in output and "long:" in output
    shown = output[output.rindex("long:") :]
    assert " " * 80 in shown and "Build: 100%" in shown  # wiped, and the other bar goes on


def test_terminal_without_width_gets_lines():
    assert "Build: 40/40 images (100 %)" in _run_on_terminal(columns=0)


@pytest.mark.parametrize("columns", [100, 0])
def test_a_terminal_that_is_gone_ends_nothing(columns, tmp_path):
    """As after `disown`: no signal, but every line is an error from then on."""
    script = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.stdin.readline()\n"
    script += _TERMINAL_SCRIPT + f"\nopen({str(tmp_path / 'done')!r}, 'w')"
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=end, stderr=end) as process:
        os.close(end)
        os.close(terminal)
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "done").exists()


def test_a_log_file_on_a_full_disk_loses_lines_and_ends_nothing(tmp_path):
    """The lines come again once there is room; what could not be written is not written later."""
    log, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from tl_distributed.progress import Progress\n"
        "from tl_distributed.streams import show_line\n"
        "show_line('lost')\n"
        "with Progress(total=3, unit='images', label='Build') as progress:\n"
        "    progress.update(3)\n"
        f"os.dup2(os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT), 2)\n"
        "show_line('there is room')\n"
    )
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, script], stderr=full, check=False).returncode == 0
    assert log.read_text() == "there is room\n"


def test_imports_no_tensorflow():
    code = "import sys, tl_distributed.progress; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
