"""Whole runs on several workers: real processes on loopback against one process with as many replicas."""

import json
import pathlib
import re
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from toy_dataset import write_toy_dataset
from worker_processes import WorkerProcesses

from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate

COUNTS = {"train": 60, "val": 18, "test": 21}
COMMON = {
    "backbone": "tiny_norm", "transfer": "scratch", "augment": "basic", "epochs": 2, "global_batch_size": 8,
    "learning_rate": 0.01, "precision": "float32", "xla": "off", "log_every_steps": 1, "dropout": 0.0, "max_steps": 10,
    "input_mode": "memory",
}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Beside it lie weights of the classes, so that the workers' sums of weights differ."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "weights.json").write_text('{"dark": 0.5, "middle": 1, "bright": 3}')
    return write_toy_dataset(folder / "toy", counts=COUNTS, num_shards=3)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """Workdir of a run of one process with four replicas."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    train_alone(**settings(data_dir, workdir))
    return workdir


@pytest.fixture
def cluster(tmp_path):
    """Makes a group of train processes."""
    made = []

    def make(count: int, name: str = "logs") -> WorkerProcesses:
        made.append(WorkerProcesses(tmp_path / name, "train_tiny.py", count))
        return made[-1]

    yield make
    for workers in made:
        workers.__exit__()


def settings(data_dir: str, workdir: pathlib.Path, **changes) -> dict:
    weights = str(pathlib.Path(data_dir).parent / "weights.json")
    return {**COMMON, "data_dir": data_dir, "workdir": str(workdir), "class_weights": weights, **changes}


def flags(**given) -> list[str]:
    return [f"--{name}={value}" for name, value in given.items()]


def train_alone(**given) -> dict:
    config = Config(strategy="mirrored", **given)
    config.validate()
    return train_and_evaluate(config)


def curve(workdir: pathlib.Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """The layouts round sums in another order, and no more than that."""
    for name in ("loss", "accuracy", "gradient_norm", "val_loss", "val_accuracy"):
        expected = curve(one, name)
        assert len(expected) > 1
        np.testing.assert_allclose(curve(other, name), expected, rtol=1e-5, err_msg=name)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert results[0]["num_examples"] == results[1]["num_examples"] == {"val": COUNTS["val"], "test": COUNTS["test"]}
    assert results[0]["confusion_matrix"] == results[1]["confusion_matrix"]
    for name in ("temperature", "test_loss_calibrated", "test_balanced_accuracy"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-3), name
    predictions = [np.load(folder / "predictions_test.npz") for folder in (one, other)]
    np.testing.assert_array_equal(predictions[0]["labels"], predictions[1]["labels"])
    np.testing.assert_allclose(predictions[0]["probabilities"], predictions[1]["probabilities"], atol=1e-5)


@pytest.mark.slow
def test_four_workers_are_four_replicas(data_dir, tmp_path, cluster, alone):
    workers = cluster(4).start_all(*flags(**settings(data_dir, tmp_path / "many")))
    assert workers.wait() == [0] * 4, workers.log(0)
    assert_same_run(alone, tmp_path / "many")
    for index in range(4):
        log = workers.log(index)
        name = "the chief" if index == 0 else f"worker {index}"
        assert f"worker {index}/4: This is {name} ({workers.addresses[index]})" in log
        assert "2 for each of 4 replicas" in log
        for shown in ("Training main", "Test accuracy"):
            assert (shown in log) == (index == 0)
    written = json.loads((tmp_path / "many" / "config.json").read_text())
    assert (written["workers"], written["replicas"]) == (4, 4)
    files = [sorted(path.suffix for path in folder.rglob("*")) for folder in (alone, tmp_path / "many")]
    assert files[0] == files[1]  # the chief alone writes


@pytest.mark.slow
def test_a_task_of_ones_own_is_the_same_on_two_workers(data_dir, tmp_path, cluster):
    """Of two replicas each, which evaluation gathers from: of what lies on the host it would wait for ever."""
    own = {"task": "own_tasks:Ordinal", "class_weights": "none", "backbone": "tiny"}  # without BatchNorm of replicas
    shared = settings(data_dir, tmp_path / "many", **own)
    train_alone(**{**shared, "workdir": str(tmp_path / "alone")})
    workers = cluster(2).start_all(*flags(**shared, virtual_devices=2))
    assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    for name in ("loss", "off_by", "gradient_norm", "val_loss", "val_off_by"):
        expected = curve(tmp_path / "alone", name)
        assert len(expected) > 1
        np.testing.assert_allclose(curve(tmp_path / "many", name), expected, rtol=1e-5, err_msg=name)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "many")]
    assert results[1]["test_off_by"] == pytest.approx(results[0]["test_off_by"], rel=1e-5)


@pytest.mark.slow
def test_two_workers_of_two_replicas_stream_the_same_data(data_dir, tmp_path, cluster):
    shared = {"input_mode": "disk", "shuffle_blocks": 2, "ema_decay": 0.9}
    train_alone(**settings(data_dir, tmp_path / "alone", **shared))
    workers = cluster(2)
    given = settings(data_dir, tmp_path / "many", **shared, virtual_devices=2, strategy="multi_worker")
    for index in (0, 1):
        # Of a cluster whose way into the internet is a proxy, which does not lead to the workers.
        environment = {"TF_CONFIG": workers.tf_config_of(index), "http_proxy": "http://127.0.0.1:9"}
        workers.start(index, *flags(**given), **environment)
    assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    assert "disk mode" in workers.log(1)
    assert_same_run(tmp_path / "alone", tmp_path / "many")


@pytest.mark.slow
def test_the_chief_alone_tracks(data_dir, tmp_path, cluster, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="an extra: pip install -e .[mlflow]")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    workers = cluster(2).start_all(*flags(**settings(data_dir, tmp_path / "many", track="mlflow")))
    assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tl_distributed").experiment_id])
    history = client.get_metric_history(run.info.run_id, "quality/training_loss")
    assert [(one.step, one.value) for one in history] == list(enumerate(curve(tmp_path / "many", "loss"), start=1))
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_gradients_in_parts_are_summed_in_one_order_everywhere(data_dir, tmp_path, cluster, alone):
    """Two workers of two devices each: no hang, and the same sums."""
    workers = cluster(2)
    given = settings(data_dir, tmp_path / "many", virtual_devices=2, gradient_buckets=3)
    workers.start_all(*flags(**given))
    assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    assert "Gradients travel in 3 parts" in workers.log(0)
    assert_same_run(alone, tmp_path / "many")


@pytest.mark.slow
def test_every_worker_builds_its_share_of_the_feature_bank_under_xla(data_dir, tmp_path, cluster, alone):
    shared = {
        "transfer": "frozen", "weights": str(alone), "augment": "none", "feature_bank": "on",
    }  # fmt: skip
    train_alone(**settings(data_dir, tmp_path / "alone", **shared))
    given = settings(data_dir, tmp_path / "many", **shared, virtual_devices=2)
    workers = cluster(2).start_all(*flags(**{**given, "xla": "on"}))
    assert workers.wait() == [0, 0], workers.log(0) + workers.log(1)
    assert "XLA on" in workers.log(1)
    assert_same_run(tmp_path / "alone", tmp_path / "many")
    banks = {
        name: {path.name: path for path in (tmp_path / name / "feature_bank").glob("*/*.tfrecord")}
        for name in ("alone", "many")
    }
    assert banks["alone"].keys() == banks["many"].keys() and len(banks["many"]) == 9
    assert not list((tmp_path / "many").rglob("*.tmp"))


LONG = {"epochs": 100, "max_steps": 0, "checkpoint_every_steps": 5, "global_batch_size": 4, "worker_timeout_seconds": 6}


def has_checkpoint(workdir: pathlib.Path) -> bool:
    return (workdir / "checkpoints" / "checkpoint").exists()  # written last


def last_step(workdir: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint, all of which can be read."""
    path = tf.train.latest_checkpoint(str(workdir / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
    return int(path.rsplit("-", 1)[1])


@pytest.mark.parametrize(
    ("how", "culprit"), [(signal.SIGKILL, 1), pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow)]
)
def test_a_dead_or_frozen_worker_ends_the_other_within_the_timeout(data_dir, tmp_path, cluster, how, culprit):
    workdir = tmp_path / "run"
    workers = cluster(2).start_all(*flags(**settings(data_dir, workdir, **LONG)))
    workers.wait_until(lambda: has_checkpoint(workdir))
    workers.processes[culprit].send_signal(how)
    started = time.monotonic()
    code = workers.processes[1 - culprit].wait(timeout=60)
    log = workers.log(1 - culprit)
    assert code == 75, log
    assert time.monotonic() - started < LONG["worker_timeout_seconds"] + 10
    reason = "ended without a word" if how == signal.SIGKILL else "has given no sign of life for 6 s"
    assert re.search(rf"error: .*\(127\.0\.0\.1:\d+\) {reason}", log)
    assert "Traceback" not in log
    assert last_step(workdir) >= 5


@pytest.mark.slow
def test_a_signal_to_any_worker_stops_all_and_another_layout_goes_on(data_dir, tmp_path, cluster, alone, caplog):
    workdir = tmp_path / "run"
    given = settings(data_dir, workdir, checkpoint_every_steps=2, steps_per_loop=1)
    workers = cluster(2).start_all(*flags(**given, virtual_devices=2))
    workers.wait_until(lambda: has_checkpoint(workdir))
    workers.processes[1].send_signal(signal.SIGUSR1)
    assert workers.wait() == [128 + signal.SIGUSR1] * 2, workers.log(0) + workers.log(1)
    stopped = last_step(workdir)
    assert 2 <= stopped < 10
    for index in (0, 1):
        assert f"Stopped at step {stopped}, checkpoint written" in workers.log(index)
    with caplog.at_level("INFO", logger="tl_distributed"):
        train_alone(**given, resume="must")
    assert "So far it ran on 2 workers with 4 replicas, now on 1 with 4" in caplog.text
    assert_same_run(alone, workdir)
