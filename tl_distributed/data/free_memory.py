"""How much memory a process may still take: the machine's, or less inside a SLURM job or a container."""

import psutil
import tensorflow as tf

_CGROUP_LIST = "/proc/self/cgroup"


def free_memory_bytes() -> int:
    """Returns the smaller of the machine's available memory and what the process's cgroup leaves."""
    free = psutil.virtual_memory().available
    for limit_file, used_file in _cgroup_files():
        limit, used = _read_number(limit_file), _read_number(used_file)
        if limit is not None and used is not None:
            free = min(free, max(limit - used, 0))
    return free


def _cgroup_files() -> list[tuple[str, str]]:
    """Returns the (limit, usage) files of every cgroup, version 1 or 2, from the process's own up to the root."""
    if not tf.io.gfile.exists(_CGROUP_LIST):
        return []
    with tf.io.gfile.GFile(_CGROUP_LIST) as file:
        entries = [line.split(":", 2) for line in file.read().splitlines()]
    pairs = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        version_2 = controllers == ""
        if not version_2 and "memory" not in controllers.split(","):
            continue
        root = "/sys/fs/cgroup" if version_2 else "/sys/fs/cgroup/memory"
        names = ("memory.max", "memory.current") if version_2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = "/".join([root, *parts[:depth]])
            pairs.append((f"{folder}/{names[0]}", f"{folder}/{names[1]}"))
    return pairs


def _read_number(path: str) -> int | None:
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        text = file.read().strip()
    return int(text) if text.isdigit() else None
