"""Which workers there are, by flags, TF_CONFIG and SLURM's environment."""

import json

import pytest

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster import Cluster, resolve_cluster, split_address
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments

SLURM = {
    "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "node[2,10]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "0", "SLURMD_NODENAME": "node10",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch):
    for name in ("TF_CONFIG", *SLURM):
        monkeypatch.delenv(name, raising=False)


def resolve(*flags: str) -> Cluster:
    config = parse_arguments(Config, ["--strategy=multi_worker", *flags])[0]
    config.validate()
    return resolve_cluster(config)


def test_workers_by_flags():
    cluster = resolve("--workers=a:5000,[::1]:5001", "--worker_index=1")
    assert cluster == Cluster(("a:5000", "[::1]:5001"), 1, 4999)
    assert cluster.control_address == ("a", 4999)
    assert (cluster.name(0), cluster.name(1)) == ("the chief (a:5000)", "worker 1 ([::1]:5001)")
    assert split_address("[::1]:5001") == ("::1", 5001)
    assert resolve("--workers=a:5000,b:5000", "--worker_index=0", "--control_port=7000").control_port == 7000


def test_workers_by_tf_config(monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1000", "b:1000"]}, "task": {"type": "worker", "index": "1"}})
    )
    assert resolve() == Cluster(("a:1000", "b:1000"), 1, 999)
    chief = {"cluster": {"worker": ["b:1000"], "chief": ["a:1000"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(chief))
    assert resolve() == Cluster(("a:1000", "b:1000"), 1, 999)
    assert resolve("--workers=c:2000,d:2000", "--worker_index=0").addresses == ("c:2000", "d:2000")  # flags win


def test_workers_by_slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    # The resolver sorts names as text; SLURM's rank 2 is on node10 nevertheless.
    assert resolve("--grpc_port=9000") == Cluster(("node10:9000", "node10:9001", "node2:9000", "node2:9001"), 0, 8999)
    monkeypatch.setenv("SLURMD_NODENAME", "node2")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert resolve().index == 3
    monkeypatch.delenv("SLURM_LOCALID")
    with pytest.raises(UserError, match=r"SLURM's step cannot be read .'SLURM_LOCALID'.; start the workers with srun"):
        resolve()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no cluster; give --workers=HOST:PORT,HOST:PORT --worker_index=N, or TF_CONFIG, or start it with srun"),
        (["--workers=a:1000,b"], "go together"),
        (["--worker_index=1"], "go together"),
        (["--workers=a:1000,b", "--worker_index=1"], "--workers: 'b' is not HOST:PORT"),
        (["--workers=a:1000,b:70000", "--worker_index=1"], "'b:70000' is not HOST:PORT"),
        (["--workers=a:1000,a:1000", "--worker_index=1"], "two workers have the address a:1000"),
        (["--workers=a:1000,b:1000", "--worker_index=2"], "there is no worker 2 among the 2, 0 to 1"),
        (["--workers=a:1000,a:999", "--worker_index=1"], "--control_port=999 is a worker's gRPC port"),
        (["--workers=a:1,b:1", "--worker_index=1"], "--control_port: the chief has port 1"),
        (["--strategy=auto", "--workers=a:1000,b:1000"], "--workers needs --strategy=multi_worker, got"),
    ],
)  # fmt: skip
def test_what_does_not_name_a_cluster(flags, message):
    with pytest.raises(UserError) as raised:
        resolve(*flags)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"cluster": {"worker": ["a:1"]}}', '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}'],
)
def test_tf_config_that_is_none(monkeypatch, content):
    monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(UserError, match="TF_CONFIG: "):
        resolve()
