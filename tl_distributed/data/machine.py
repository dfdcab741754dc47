"""What of the machine a process may take: memory and cores, less of them inside a SLURM job or a container."""

import os

import psutil

RUNS_ON_NODE = "TL_DISTRIBUTED_RUNS_ON_NODE"  # an environment variable: runs of a study that share a node's memory
_CGROUP_LIST = "/proc/self/cgroup"


def free_memory_bytes() -> int:
    """Returns the smaller of the machine's available memory and what the process's cgroup leaves.

    Of the runs of a study that go on side by side each is told its share. A cgroup's use has in it what the page cache
    holds of files that its processes read and wrote, such as a copy of the data set: that is free, since the system
    drops it where memory is wanted.
    """
    free = psutil.virtual_memory().available
    for limit_file, used_file in _cgroup_files():
        limit, used = _read_number(limit_file), _read_number(used_file)
        if limit is not None and used is not None:
            cached = _cached_bytes(f"{os.path.dirname(used_file)}/memory.stat")
            free = min(free, max(limit - max(used - cached, 0), 0))
    return free // int(os.environ.get(RUNS_ON_NODE) or 1)


def total_memory_bytes() -> int:
    """Returns the smaller of the machine's memory and what the process's cgroup may take."""
    limits = [limit for limit in map(_read_number, (file for file, _ in _cgroup_files())) if limit is not None]
    return min([psutil.virtual_memory().total, *limits])


def usable_cores() -> int:
    """Returns the cores that this process may run on (its affinity mask, which SLURM sets)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Returns how many cores' worth of time the process's cgroups leave it, or `None` without a limit."""
    quotas = []
    for folder, version in cgroup_folders("cpu"):
        if version == 2:
            text = text_of(f"{folder}/cpu.max")
        else:
            text = f"{text_of(f'{folder}/cpu.cfs_quota_us')} {text_of(f'{folder}/cpu.cfs_period_us')}"
        parts = text.split()
        if len(parts) == 2 and all(part.isdigit() for part in parts):  # else "max 100000" or "-1 100000": no limit
            quotas.append(int(parts[0]) / int(parts[1]))
    return min(quotas, default=None)


def cgroup_folders(controller: str) -> list[tuple[str, int]]:
    """Returns folder and version (1 or 2) of every cgroup of a controller, from the process's own up to the root."""
    entries = [line.split(":", 2) for line in text_of(_CGROUP_LIST).splitlines()]
    folders = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        version = 2 if controllers == "" else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        root = "/sys/fs/cgroup" if version == 2 else f"/sys/fs/cgroup/{controller}"
        parts = [part for part in path.split("/") if part]
        folders += [("/".join([root, *parts[:depth]]), version) for depth in range(len(parts), -1, -1)]
    return folders


def _cgroup_files() -> list[tuple[str, str]]:
    """Returns the (limit, usage) files of every cgroup, from the process's own up to the root."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    return [
        (f"{folder}/{names[version][0]}", f"{folder}/{names[version][1]}")
        for folder, version in cgroup_folders("memory")
    ]


def _cached_bytes(stat_file: str) -> int:
    """Returns the bytes of files' pages, those below the cgroup included, which version 1 lists apart."""
    counts = dict(line.split(" ", 1) for line in text_of(stat_file).splitlines() if " " in line)
    names = ("inactive_file", "active_file")
    return sum(int(counts.get(f"total_{name}", counts.get(name, "0"))) for name in names)


def _read_number(path: str) -> int | None:
    text = text_of(path).strip()
    return int(text) if text.isdigit() else None


def text_of(path: str) -> str:
    """Returns the text of a file of the kernel's, which have no size; empty where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
