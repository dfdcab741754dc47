"""Free memory: the machine's, or what the process's cgroup leaves of it."""

import psutil
import pytest

from tl_distributed.data import machine


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("1000\n", "300\n", 700), ("1000\n", "2000\n", 0), ("max\n", "300\n", None), (None, None, None)],
)
def test_the_smaller_of_machine_and_cgroup(tmp_path, monkeypatch, limit, used, expected):
    files = tmp_path / "memory.max", tmp_path / "memory.current"
    for path, text in zip(files, (limit, used), strict=True):
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr(machine, "_cgroup_files", lambda: [tuple(map(str, files))])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    assert machine.free_memory_bytes() == (10**9 if expected is None else expected)


@pytest.mark.parametrize(
    ("version", "counts"),
    [
        (2, "anon 250\nfile 600\nshmem 50\ninactive_file 400\nactive_file 150\n"),
        (1, "cache 1\ninactive_file 1\nactive_file 1\ntotal_inactive_file 400\ntotal_active_file 150\n"),
    ],
)
def test_what_the_page_cache_holds_of_files_is_free(tmp_path, monkeypatch, version, counts):
    """A job that has copied its data set has used all of its limit for nothing else."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}[version]
    for name, text in zip((*names, "memory.stat"), ("1000\n", "950\n", counts), strict=True):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: [(str(tmp_path), version)])
    assert machine.free_memory_bytes() == 1000 - (950 - 550)


def test_runs_side_by_side_have_a_share_each(monkeypatch):
    """All of them look before any of them has taken something."""
    monkeypatch.setattr(machine, "_cgroup_files", list)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8000}))
    monkeypatch.setenv(machine.RUNS_ON_NODE, "8")
    assert machine.free_memory_bytes() == 1000


def test_every_cgroup_from_the_process_to_the_root_is_asked(tmp_path, monkeypatch):
    listing = tmp_path / "cgroup"
    listing.write_text("0::/slurm/job_7\n5:cpu:/other\n4:memory:/old\n")
    monkeypatch.setattr(machine, "_CGROUP_LIST", str(listing))
    limits = [limit for limit, _ in machine._cgroup_files()]
    assert limits == [
        "/sys/fs/cgroup/slurm/job_7/memory.max",
        "/sys/fs/cgroup/slurm/memory.max",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/old/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"job/cpu.max": "max 100000\n", "cpu.max": "150000 100000\n"}, 1.5),
        ({"job/cpu.max": "50000 100000\n", "cpu.max": "150000 100000\n"}, 0.5),
        ({"job/cpu.max": "max 100000\n"}, None),
        ({}, None),
    ],
)
def test_quota_is_the_smallest_on_the_way_to_the_root(tmp_path, monkeypatch, files, expected):
    (tmp_path / "job").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    folders = [(str(tmp_path / "job"), 2), (str(tmp_path), 2)]
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: folders)
    assert machine.cpu_quota() == expected


def test_quota_of_the_first_version_of_cgroups(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: [(str(tmp_path), 1)])
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.cpu_quota() is None
    (tmp_path / "cpu.cfs_quota_us").write_text("250000\n")
    assert machine.cpu_quota() == 2.5


def test_total_memory_is_the_cgroups_where_that_is_less(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: [(str(tmp_path), 2)])
    assert machine.total_memory_bytes() == 1000 and machine.free_memory_bytes() == 700
