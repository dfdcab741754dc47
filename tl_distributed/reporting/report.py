"""What a run leaves behind as data: the summary of a classification, JSON files, and the log of metrics."""

import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_distributed.commandline import UserError

TOP_K = 5
_SMALLEST_PROBABILITY = 1e-7  # Keras clips here too, so that one certain mistake does not make the loss infinite


def classification_summary(
    *, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Summarises predictions; JSON values only.

    Args:
      labels: `[n]` integers, indices into `class_names`; classes may be absent.
      probabilities: `[n, classes]`, in [0, 1], each row adding up to one.
      class_names: Names of all classes.

    Returns:
      `num_examples`, `accuracy` and `loss` (mean cross-entropy in nats; NaN without examples),
      `top_5_accuracy` where there are more than five classes,
      `per_class` {name: {precision, recall, f1, accuracy, support}} and
      `confusion_matrix` (rows: true class, columns: predicted class; counts).
      The `accuracy` of a class is the share of its examples that were found, which is its recall. A class without
      examples has recall and accuracy NaN, one that was never predicted has precision NaN.

    Raises:
      ValueError: The shapes do not fit each other, or a label is no index into `class_names`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    num_classes = len(class_names)
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(f"probabilities {probabilities.shape} for {len(labels)} labels and {num_classes} classes")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    if not len(labels):
        matrix = np.zeros((num_classes, num_classes), np.int64)
        rows = np.full((4, num_classes), np.nan)
        rows[3] = 0
    else:
        predictions, every_class = probabilities.argmax(1), np.arange(num_classes)
        matrix = confusion_matrix(labels, predictions, labels=every_class)
        rows = np.stack(precision_recall_fscore_support(labels, predictions, labels=every_class, zero_division=np.nan))
    summary = {"num_examples": len(labels), **_scores(labels, probabilities)}
    summary["per_class"] = {
        name: {"precision": precision, "recall": recall, "f1": f1, "accuracy": recall, "support": int(support)}
        for name, (precision, recall, f1, support) in zip(class_names, rows.T.tolist(), strict=True)
    }
    summary["confusion_matrix"] = matrix.tolist()
    return summary


def _scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Returns accuracy and loss, and top-5 accuracy where it says anything."""
    has_top_k = probabilities.shape[1] > TOP_K
    if not len(labels):
        return {"accuracy": math.nan, "loss": math.nan} | ({f"top_{TOP_K}_accuracy": math.nan} if has_top_k else {})
    of_truth = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)[:, 0]
    scores = {
        "accuracy": float(np.mean(probabilities.argmax(1) == labels)),
        "loss": float(-np.mean(np.log(np.maximum(of_truth, _SMALLEST_PROBABILITY)))),
    }
    if has_top_k:
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
        scores[f"top_{TOP_K}_accuracy"] = float(np.mean((top == labels[:, None]).any(1)))
    return scores


def to_json_values(value: Any) -> Any:
    """Returns `value` in JSON types.

    Scalars and arrays of numpy and TensorFlow become numbers and lists, NaN and infinities null.

    Raises:
      TypeError: A value of another type.
    """
    if isinstance(value, dict):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json_values(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int)) or value is None:  # bool is an int
        return value
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "numpy"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufUS":  # bfloat16 and its kin
            array = array.astype(np.float32)
        return to_json_values(array.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_json(path: str, value: Any) -> None:
    """Writes `value` as indented JSON (see `to_json_values`); the file appears whole or not at all."""
    text = json.dumps(to_json_values(value), indent=2, allow_nan=False) + "\n"
    write_file(path, text.encode())


def read_json(path: str) -> Any:
    """Returns the content of a JSON file, or `None` where there is none."""
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())


def write_file(path: str, content: bytes) -> None:
    """Writes a file of any file system under a temporary name, then renames it over `path`.

    The name is the process's own: the runs of a study may write the same file at the same time.
    """
    import tensorflow as tf

    temporary = f"{path}.{socket.gethostname()}.{os.getpid()}.tmp"
    try:
        with tf.io.gfile.GFile(temporary, "wb") as file:
            file.write(content)
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)
        raise


class MetricsLog:
    """The `metrics.jsonl` of a run: one JSON object a line, each with its `step`, on disk as soon as appended.

    A run that was killed has often logged steps beyond its last checkpoint. A run that resumes there logs
    them again, so they are dropped when the log is opened, as is a last line that was torn by the kill.
    """

    def __init__(self, path: str, *, resume_step: int):
        """Opens the log for appending.

        Args:
          path: The file; made when missing.
          resume_step: Step of the checkpoint from which the run goes on; rows beyond it are dropped.
            0: a new run, whose log starts empty.

        Raises:
          UserError: A line other than the last is no row.
        """
        import tensorflow as tf

        rows = read_metrics(path) if resume_step and tf.io.gfile.exists(path) else []
        kept = [row for row in rows if row["step"] <= resume_step]
        write_file(path, "".join(_line(row) for row in kept).encode())
        self._file = tf.io.gfile.GFile(path, "a")

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row, which holds its `step`; numpy values become numbers, NaN and infinities null."""
        self._file.write(_line({"step": int(row["step"]), **row}))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl`, also of a run that is still going; a torn last line is left out.

    Raises:
      UserError: No such file, or a line other than the last that is no JSON object with a `step`.
    """
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
        raise UserError(f"{path}: no such file; it is written by python -m tl_distributed.train")
    with tf.io.gfile.GFile(path, "rb") as file:
        lines = file.read().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        is_last = number == len(lines)  # what follows the last line feed: nothing, or a torn line
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"])})
        except (ValueError, TypeError, KeyError):
            if not is_last:
                raise UserError(f"{path}: line {number} is no JSON object with a step; remove the line") from None
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(to_json_values(row), allow_nan=False) + "\n"
