"""Free memory: the machine's, or what the process's cgroup leaves of it."""

import psutil
import pytest

from tl_distributed.data import free_memory


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("1000\n", "300\n", 700), ("1000\n", "2000\n", 0), ("max\n", "300\n", None), (None, None, None)],
)
def test_the_smaller_of_machine_and_cgroup(tmp_path, monkeypatch, limit, used, expected):
    files = tmp_path / "memory.max", tmp_path / "memory.current"
    for path, text in zip(files, (limit, used), strict=True):
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr(free_memory, "_cgroup_files", lambda: [tuple(map(str, files))])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    assert free_memory.free_memory_bytes() == (10**9 if expected is None else expected)


def test_every_cgroup_from_the_process_to_the_root_is_asked(tmp_path, monkeypatch):
    listing = tmp_path / "cgroup"
    listing.write_text("0::/slurm/job_7\n5:cpu:/other\n4:memory:/old\n")
    monkeypatch.setattr(free_memory, "_CGROUP_LIST", str(listing))
    limits = [limit for limit, _ in free_memory._cgroup_files()]
    assert limits == [
        "/sys/fs/cgroup/slurm/job_7/memory.max",
        "/sys/fs/cgroup/slurm/memory.max",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/old/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
