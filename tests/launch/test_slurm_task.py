"""What every task of a SLURM step runs, without SLURM: the copy of the data set on the node's own disk."""

import os
import pathlib
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from paths import REPO

COPY = ["bash", "-c", 'stat -c "%A %N" "${1#*=}" "${1#*=}"/*; cat "${1#*=}/train"; exit 75', "-"]  # 1: the flag


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    (folder / "train").write_text("records\n")
    return folder


@pytest.fixture
def disk(data):
    """A folder on another disk than the data set's."""
    place = next((path for path in ("/dev/shm", "/run", "/tmp") if _is_other_disk(path, data)), None)
    if place is None:
        pytest.skip("one disk alone")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield folder


def run_task(data: pathlib.Path | str, disk: str, *command: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "SLURM_TMPDIR": disk, **options.pop("variables", {})}
    task = ["bash", f"{REPO}/launch/slurm_task.sh", str(data), *command]
    return subprocess.run(task, env=environment, capture_output=True, text=True, timeout=30, check=False, **options)


def put_in_place(folder: pathlib.Path, name: str, code: int) -> dict[str, str]:
    """Puts a program into `folder` that ends with an exit code; returns the environment that finds it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nexit {code}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("code", [65, 71, 127])
def test_a_disk_without_locks_gets_no_copy(tmp_path, data, disk, code):
    """Else the task would ask for the lock for ever: the file system refuses (ENOLCK, EOPNOTSUPP), or has no flock."""
    variables = put_in_place(tmp_path / "bin", "flock", code)
    done = run_task(data, disk, "echo", "trained", variables=variables)
    assert done.returncode == 0 and done.stdout == "trained\n", done.stderr
    assert "has no locks" in done.stderr and f"no copy of {data}; it is read where it is" in done.stderr
    assert not os.listdir(disk)


def test_a_link_to_the_data_set_is_followed(tmp_path, data, disk):
    """Also one from where the task is, which would lead nowhere from the node's disk; so do links to shards."""
    (data / "train").rename(tmp_path / "elsewhere")
    (data / "train").symlink_to("../elsewhere")
    (tmp_path / "link").symlink_to("data")
    done = run_task("link", disk, *COPY, cwd=tmp_path)
    assert done.stdout.count("copied link to") == 1 and "->" not in done.stdout
    assert done.stdout.endswith("records\n") and done.returncode == 75 and not os.listdir(disk)


def test_the_copy_of_what_can_only_be_read_can_be_removed(data, disk):
    (data / "train").chmod(0o444)
    data.chmod(0o555)
    done = run_task(data, disk, *COPY)
    modes = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("d", "-"))]
    assert len(modes) == 3 and all(mode[2] == "w" for mode in modes), done.stdout
    assert done.returncode == 75 and not os.listdir(disk)


def test_a_data_set_of_unknown_size_is_read_where_it_is(tmp_path, data, disk):
    variables = put_in_place(tmp_path / "bin", "du", 1)  # as for a folder in it that cannot be read
    done = run_task(data, disk, "echo", "trained", variables=variables)
    assert done.returncode == 0 and done.stdout == "trained\n" and "no copy" in done.stderr


def test_a_copy_that_was_made_before_is_used_and_then_removed(data, disk):
    alone = run_task(data, disk)
    assert alone.returncode == 0 and "copied" in alone.stdout
    done = run_task(data, disk, *COPY)
    assert "copied" not in done.stdout and done.stdout.endswith("records\n") and not os.listdir(disk)


def test_tasks_share_a_copy_at_the_same_time(tmp_path, data, disk):
    """Each goes on when all have begun, of which none could wait for another's end; the last one removes the copy."""
    all_begun = (
        f"touch {tmp_path}/begun.$$; for i in $(seq 200); do [ $(ls {tmp_path} | grep -c begun) -lt 4 ] || exit 0"
    )
    all_begun += "; sleep 0.05; done; exit 1"
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(run_task, data, disk, "bash", "-c", all_begun) for _ in range(4)]
    done = [run.result() for run in runs]
    assert [run.returncode for run in done] == [0] * 4
    assert "".join(run.stdout for run in done).count("copied") == 1 and not os.listdir(disk)


def test_a_script_that_changes_while_the_command_runs_changes_nothing(tmp_path):
    script = tmp_path / "slurm_task.sh"
    script.write_text((REPO / "launch/slurm_task.sh").read_text())
    command = ["bash", "-c", f"printf '#%.0s\\n' {{1..4000}} > {script}; echo ')' >> {script}; exit 75"]
    done = subprocess.run(["bash", str(script), "", *command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (75, "")


def test_no_task_begins_before_every_node_has_its_copy(tmp_path, data, disk):
    """The others wait for a worker no longer than --worker_timeout_seconds; here the second node's disk is slow."""
    programs = {
        "srun": """
            while [ "$1" != bash ]; do shift; done
            for node in fast slow; do
              mkdir -p "$DISK/$node"
              SLURMD_NODENAME=$node SLURM_TMPDIR=$DISK/$node "$@" &
            done
            wait""",
        "cp": """
            case $SLURM_TMPDIR in */slow) sleep 0.5 ;; esac
            exec /bin/cp "$@" """,
        "python": """
            case $1 in --version) echo Python ;; -c) echo "a line of a module's"; echo "$DATA" ;; *)
              echo "$SLURMD_NODENAME trains beside $(echo "$DISK"/*/*[0-9a-f])" ;; esac""",
    }
    bin_folder = tmp_path / "bin"
    for name, text in programs.items():
        variables = put_in_place(bin_folder, name, 0)
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
    job = {"ID": "1", "NODELIST": "fast,slow", "NUM_NODES": "2"}
    variables |= {f"SLURM_JOB_{name}": value for name, value in job.items()}
    variables |= {"REPOSITORY": str(REPO), "PYTHON": f"{bin_folder}/python", "DISK": disk, "DATA": str(data)}
    done = subprocess.run(
        ["bash", f"{REPO}/launch/slurm_multi_node.sbatch"], env={**os.environ, **variables}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split(" trains beside ") for line in done.stdout.splitlines() if " trains beside " in line]
    assert sorted(node for node, _ in lines) == ["fast", "slow"]
    copies = {pathlib.Path(path).parent.name for path in lines[0][1].split()}
    assert copies == {"fast", "slow"}, done.stdout  # when the first one began


def _is_other_disk(path: str, data: pathlib.Path) -> bool:
    return os.access(path, os.W_OK) and os.stat(path).st_dev != data.stat().st_dev
