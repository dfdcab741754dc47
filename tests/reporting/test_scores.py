"""Summaries against scikit-learn and Keras, JSON files, and the metrics log through kills and resumes."""

import json
import math
import multiprocessing
import time
import tracemalloc

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import (
    balanced_accuracy_score,
    classification_report,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from tl_distributed.errors import UserError
from tl_distributed.files import to_json_values, write_file, write_json
from tl_distributed.reporting.metrics_log import MetricsLog, read_metrics
from tl_distributed.reporting.scores import ExampleScores, classification_summary, summarise


def _predictions(num_examples: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(0, num_classes, num_examples)
    logits = rng.normal(size=(num_examples, num_classes)) + 2 * np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, probabilities.astype(np.float32), [f"class {index}" for index in range(num_classes)]


@pytest.mark.parametrize("num_classes", [2, 5, 10])
def test_summary_equals_sklearn_and_keras(num_classes):
    labels, probabilities, names = _predictions(400, num_classes)
    summary = classification_summary(labels=labels, probabilities=probabilities, class_names=names)
    predictions = probabilities.argmax(1)
    report = classification_report(labels, predictions, target_names=names, output_dict=True)
    assert summary["accuracy"] == pytest.approx(report["accuracy"])
    assert summary["loss"] == pytest.approx(
        float(keras.losses.SparseCategoricalCrossentropy()(labels, probabilities)), rel=1e-5
    )
    for name in names:
        expected, got = report[name], summary["per_class"][name]
        assert (got["precision"], got["recall"], got["f1"], got["support"]) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"], expected["support"])
        )
        assert got["accuracy"] == pytest.approx(np.mean(predictions[labels == names.index(name)] == names.index(name)))
    assert summary["confusion_matrix"] == sklearn_confusion_matrix(labels, predictions).tolist()
    assert summary["num_examples"] == 400
    assert summary["loss"] == pytest.approx(log_loss(labels, probabilities.astype(np.float64)), rel=1e-6)
    assert summary["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert summary["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    if num_classes > 5:
        expected = top_k_accuracy_score(labels, probabilities, k=5)
        assert summary["top5_accuracy"] == summary["top_5_accuracy"] == pytest.approx(expected) and expected < 1
    else:
        assert not {"top5_accuracy", "top_5_accuracy"} & set(summary)


def test_classes_without_examples_or_predictions():
    probabilities = np.array([[0.8, 0.1, 0.1, 0.0], [0.1, 0.8, 0.1, 0.0], [0.7, 0.2, 0.1, 0.0]])
    summary = classification_summary(labels=np.array([0, 0, 2]), probabilities=probabilities, class_names=list("abcd"))
    per_class = summary["per_class"]
    assert per_class["a"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.5, "support": 2}
    assert (
        per_class["b"]["support"] == 0 and math.isnan(per_class["b"]["accuracy"]) and per_class["b"]["precision"] == 0
    )
    assert per_class["c"]["accuracy"] == 0 and math.isnan(per_class["c"]["precision"]) and per_class["c"]["f1"] == 0
    assert math.isnan(per_class["d"]["recall"]) and math.isnan(per_class["d"]["f1"])
    assert summary["confusion_matrix"] == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert summary["balanced_accuracy"] == balanced_accuracy_score([0, 0, 2], [0, 1, 0])
    assert summary["macro_f1"] == pytest.approx(f1_score([0, 0, 2], [0, 1, 0], average="macro"))


def test_a_certain_mistake_has_a_finite_loss():
    summary = classification_summary(labels=np.array([1]), probabilities=np.array([[1.0, 0.0]]), class_names=["a", "b"])
    assert summary["loss"] == pytest.approx(
        float(keras.losses.SparseCategoricalCrossentropy()(np.array([1]), np.array([[1.0, 0.0]]))), rel=1e-4
    )


def test_what_is_answered_with_nan_is_wrong():
    """Of it any class would be the first, and five of the five best right."""
    probabilities = np.full((4, 8), np.nan, np.float32)
    probabilities[3] = np.eye(8)[2]
    summary = classification_summary(labels=np.array([0, 1, 7, 2]), probabilities=probabilities, class_names="abcdefgh")
    assert (summary["accuracy"], summary["top5_accuracy"], summary["per_class"]["a"]["recall"]) == (0.25, 0.25, 0.0)
    assert math.isnan(summary["loss"]) and all(true != taken for true, taken, _ in summary["most_confused"])


def test_no_examples():
    summary = classification_summary(
        labels=np.zeros(0, np.int64), probabilities=np.zeros((0, 6)), class_names=list("abcdef")
    )
    assert math.isnan(summary["accuracy"]) and math.isnan(summary["loss"]) and math.isnan(summary["top_5_accuracy"])
    assert summary["confusion_matrix"] == [[0] * 6] * 6 and summary["per_class"]["a"]["support"] == 0


@pytest.mark.parametrize(("labels", "shape"), [([0, 1], (3, 2)), ([0, 1], (2, 3)), ([0, 2], (2, 2)), ([-1, 0], (2, 2))])
def test_what_does_not_fit_is_refused(labels, shape):
    with pytest.raises(ValueError, match="labels"):
        classification_summary(labels=np.array(labels), probabilities=np.full(shape, 0.5), class_names=["a", "b"])


def test_json_values_of_numpy_and_tensorflow():
    value = {
        1: np.float32(0.5),
        "nan": [math.nan, np.inf, np.float64("nan")],
        "array": np.array([[1, 2]], np.uint8),
        "bfloat16": np.array([1.5], ml_dtypes.bfloat16),
        "tensor": tf.constant([True, False]),
        "rest": (None, "text", 3, True),
    }
    assert to_json_values(value) == {
        "1": 0.5,
        "nan": [None, None, None],
        "array": [[1, 2]],
        "bfloat16": [1.5],
        "tensor": [True, False],
        "rest": [None, "text", 3, True],
    }
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_json_values({"a": object()})


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(str(path), {"accuracy": 0.5})
    with pytest.raises(TypeError):
        write_json(str(path), {"accuracy": object()})

    def broken_rename(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(tf.io.gfile, "rename", broken_rename)
    with pytest.raises(OSError, match="disk full"):
        write_file(str(path), b"new")
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def _logged(path, steps, resume_step):
    log = MetricsLog(str(path), resume_step=resume_step)
    for step in steps:
        log.append({"step": step, "loss": np.float32(1 / step)})
    return log


def test_rows_are_on_disk_at_once(tmp_path):
    log = _logged(tmp_path / "m.jsonl", [1, 2], resume_step=0)
    log.append({"step": np.int64(3), "loss": math.nan})
    assert read_metrics(str(tmp_path / "m.jsonl")) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": None},
    ]
    log.close()


def test_resuming_drops_later_rows_and_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    _logged(path, [10, 20, 30], resume_step=0)
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed in the middle of a line
    assert [row["step"] for row in read_metrics(str(path))] == [10, 20, 30]
    _logged(path, [30, 40], resume_step=20).close()
    assert [row["step"] for row in read_metrics(str(path))] == [10, 20, 30, 40]
    assert path.read_text().count("\n") == 4


def test_a_torn_line_at_the_resumed_step_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 10}\n{"step": 2')
    _logged(path, [20], resume_step=10).close()
    assert [row["step"] for row in read_metrics(str(path))] == [10, 20]


def test_a_new_run_starts_an_empty_log(tmp_path):
    _logged(tmp_path / "m.jsonl", [1, 2], resume_step=0).close()
    _logged(tmp_path / "m.jsonl", [5], resume_step=0).close()
    assert [row["step"] for row in read_metrics(str(tmp_path / "m.jsonl"))] == [5]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"loss": 1}', "", "\ufffd"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r"m\.jsonl: line 2 "):
        read_metrics(str(path))
    with pytest.raises(UserError, match="line 2"):
        MetricsLog(str(path), resume_step=2)


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        read_metrics(str(tmp_path / "nowhere.jsonl"))


def test_processes_can_write_the_same_file_at_the_same_time(tmp_path):
    """As the machines do that train the arms of one study."""
    path = tmp_path / "plan.json"

    def write() -> None:
        for number in range(200):
            write_json(str(path), {"number": number, "filling": "x" * 10_000})

    processes = [multiprocessing.get_context("fork").Process(target=write) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert json.loads(path.read_text())["number"] == 199
    assert [other.name for other in tmp_path.iterdir()] == ["plan.json"]


def test_5000_classes_take_seconds_and_little_memory():
    """Beside the probabilities themselves, of which these are 1 GB; all rows here are one, which takes no room."""
    num_classes, count = 5_000, 50_000
    generator = np.random.default_rng(0)
    row = generator.dirichlet(np.ones(num_classes)).astype(np.float32)
    probabilities, labels = np.broadcast_to(row, (count, num_classes)), generator.integers(0, num_classes, count)
    names = [f"class {index}" for index in range(num_classes)]
    tracemalloc.start()
    start = time.process_time()
    summary = classification_summary(labels=labels, probabilities=probabilities, class_names=names)
    text = json.dumps(summary)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5 and peak < 500e6 and len(text) < 2_000_000
    assert summary["accuracy"] == np.mean(labels == row.argmax())
    best = np.argsort(-row)[:5]
    assert summary["top5_accuracy"] == np.mean(np.isin(labels, best))


def test_size_of_a_summary_grows_with_the_classes_not_with_their_square():
    """10,000 classes: a dense matrix would be 300 MB of JSON, more than workers can tell one another."""
    num_classes, count = 10_000, 50_000
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, num_classes, (2, count))
    scores = ExampleScores(
        labels=labels,
        predictions=predictions,
        losses=np.ones(count),
        in_top_k=np.zeros(count, bool),
        confidences=np.ones(count),
    )
    summary = summarise(scores, [f"class {index}" for index in range(num_classes)])
    assert summary["confusion_matrix"] == [] and len(json.dumps(summary)) < 4_000_000
    assert len(summary["most_confused"]) == 2 * num_classes


def test_most_confused_are_the_most_frequent_mistakes():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predictions = np.array([1, 1, 0, 0, 1, 1, 1, 1])
    scores = ExampleScores(
        labels=labels, predictions=predictions, losses=labels * 0.0, in_top_k=labels == 0, confidences=labels * 0.0
    )
    assert summarise(scores, list("abc"))["most_confused"] == [["c", "b", 3], ["a", "b", 2], ["b", "a", 1]]
