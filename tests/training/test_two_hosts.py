"""Whole runs on two hosts of their own: network namespaces, each with its address, and a cable that can be cut."""

import re
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from counting_backbone import seen_images
from kill_campaign import COUNTS, compare
from network_namespaces import Namespaces, why_unavailable
from restarted_run import read_rows
from toy_dataset import write_toy_dataset
from worker_processes import WorkerProcesses

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 6
SETTINGS = {
    "backbone": "counting", "transfer": "scratch", "augment": "none", "epochs": 10, "global_batch_size": 8,
    "learning_rate": 0.01, "precision": "float32", "xla": "off", "log_every_steps": 1, "checkpoint_every_steps": 5,
    "shuffle_buffer_examples": 16, "worker_timeout_seconds": TIMEOUT_SECONDS,
}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", counts=COUNTS, num_shards=3, numbered=True)


@pytest.fixture(scope="module")
def hosts():
    if reason := why_unavailable():
        pytest.skip(reason)
    with Namespaces(2) as made:
        yield made


def flags(data_dir: str, workdir, **changes) -> list[str]:
    given = {**SETTINGS, "data_dir": data_dir, "workdir": workdir, **changes}
    return [f"--{name}={value}" for name, value in given.items()]


def start(hosts, data_dir, workdir, name: str, **changes) -> WorkerProcesses:
    workers = WorkerProcesses(workdir.parent / name, "train_counting.py", 2, hosts=hosts)
    return workers.start_all(*flags(data_dir, workdir, **changes))


@pytest.fixture(scope="module", params=["memory", "disk"])
def whole(request, hosts, data_dir, tmp_path_factory):
    """Input mode, and workdir of a run on both hosts that nothing interrupted."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    with start(hosts, data_dir, workdir, "logs", input_mode=request.param) as workers:
        assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
        for index, address in enumerate(hosts.addresses):
            assert f"({address}:" in workers.log(index)
    return request.param, workdir


def curves(workdir) -> dict[str, list[float]]:
    rows = read_rows(workdir)
    return {name: [row[name] for row in rows if name in row] for name in ("loss", "gradient_norm", "val_loss")}


def checkpoint_steps(workdir) -> list[int]:
    """Returns the steps of the checkpoints that are listed, all of which can be read."""
    state = tf.train.get_checkpoint_state(str(workdir / "checkpoints"))
    for path in state.all_model_checkpoint_paths if state else ():
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    return [int(path.rsplit("-", 1)[1]) for path in state.all_model_checkpoint_paths] if state else []


def test_two_hosts_train_to_the_losses_of_one_process(whole, data_dir, tmp_path):
    mode, workdir = whole
    with WorkerProcesses(tmp_path / "logs", "train_counting.py", 1) as alone:
        alone.start(0, *flags(data_dir, tmp_path / "run", input_mode=mode, strategy="mirrored", virtual_devices=2))
        assert alone.wait() == [0], alone.log(0)
    expected = curves(tmp_path / "run")
    assert len(expected["loss"]) == 120 and len(expected["val_loss"]) == 10
    for name, values in curves(workdir).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, err_msg=name)
    for folder in (workdir, tmp_path / "run"):
        np.testing.assert_array_equal(seen_images(str(folder / "checkpoints")), np.full(COUNTS["train"], 10))


def test_a_cut_link_ends_both_and_the_resumed_run_ends_with_the_same_weights(whole, hosts, data_dir, tmp_path):
    mode, uninterrupted = whole
    workdir = tmp_path / "run"
    with start(hosts, data_dir, workdir, "cut", input_mode=mode) as workers:
        workers.wait_until(lambda: (workdir / "checkpoints" / "checkpoint").exists())
        hosts.cut(1)
        cut_at = time.monotonic()
        try:
            assert workers.wait() == [75, 75], workers.log(0) + workers.log(1)
        finally:
            hosts.restore(1)
        assert time.monotonic() - cut_at < 2 * TIMEOUT_SECONDS + 8
        for index in (0, 1):
            errors = re.findall(r"^error: .*$", workers.log(index), re.MULTILINE)
            assert len(errors) == 1 and "Traceback" not in workers.log(index), workers.log(index)
            assert re.search(rf"{hosts.addresses[1 - index]}:\d+\) has given no sign of life for 6 s", errors[0])
    assert checkpoint_steps(workdir)
    with start(hosts, data_dir, workdir, "again", input_mode=mode, resume="must") as workers:
        assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    found = compare(workdir, uninterrupted, epochs=10)
    assert found == {
        "same_weights": True, "same_metrics": True, "same_test_loss": True, "steps": 120, "images_wrong": 0,
    }  # fmt: skip


def test_a_pause_shorter_than_the_timeout_is_survived(hosts, data_dir, tmp_path):
    """TensorFlow's coordination service would count a worker as dead after ten seconds, whatever the flag says."""
    workdir = tmp_path / "run"
    given = {"input_mode": "memory", "worker_timeout_seconds": 60}
    with start(hosts, data_dir, workdir, "paused", **given) as workers:
        workers.wait_until(lambda: bool(checkpoint_steps(workdir)))
        workers.processes[1].send_signal(signal.SIGSTOP)
        time.sleep(20)
        workers.processes[1].send_signal(signal.SIGCONT)
        assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    np.testing.assert_array_equal(seen_images(str(workdir / "checkpoints")), np.full(COUNTS["train"], 10))
