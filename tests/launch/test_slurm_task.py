"""What every task of a SLURM step runs, without SLURM: here the copy of the data set that cannot be locked."""

import os
import pathlib
import subprocess
import tempfile

import pytest
from paths import REPO


@pytest.mark.parametrize("code", [65, 71])
def test_a_disk_without_locks_gets_no_copy(tmp_path, code):
    """Else the task would ask for the lock for ever."""
    flock = tmp_path / "bin" / "flock"
    flock.parent.mkdir()
    flock.write_text(f"#!/bin/sh\nexit {code}\n")  # of util-linux, where the file system refuses: ENOLCK, EOPNOTSUPP
    flock.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.json").write_text("{}")
    other_disk = next((path for path in ("/dev/shm", "/run", "/tmp") if _is_other_disk(path, data)), None)
    if other_disk is None:
        pytest.skip("one disk alone")
    with tempfile.TemporaryDirectory(dir=other_disk) as disk:
        environment = {**os.environ, "PATH": f"{flock.parent}:{os.environ['PATH']}", "SLURM_TMPDIR": disk}
        command = ["bash", f"{REPO}/launch/slurm_task.sh", str(data), "echo", "trained"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0 and done.stdout == "trained\n", done.stderr
        assert "has no locks" in done.stderr and f"no copy of {data}; it is read where it is" in done.stderr
        assert not os.listdir(disk)


def _is_other_disk(path: str, data: pathlib.Path) -> bool:
    return os.access(path, os.W_OK) and os.stat(path).st_dev != data.stat().st_dev
