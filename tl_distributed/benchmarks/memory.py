"""How much memory the process holds."""

import contextlib

import psutil

_STATUS, _CLEAR = "/proc/self/status", "/proc/self/clear_refs"


def resident_bytes() -> int:
    """Returns the memory that the process holds now."""
    return psutil.Process().memory_info().rss


def reset_peak() -> None:
    """Lets `peak_bytes` begin anew, where the kernel can."""
    with contextlib.suppress(OSError), open(_CLEAR, "w") as file:
        file.write("5")


def peak_bytes() -> int:
    """Returns the most that the process has held since `reset_peak`; where the kernel does not tell, what it holds."""
    with contextlib.suppress(OSError), open(_STATUS) as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes()
