"""The log of a run's metrics: `metrics.jsonl`."""

import json
from collections.abc import Mapping
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.files import to_json_values, write_file


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
        self._dropped = {_name(row) for row in rows if row["step"] > resume_step}
        write_file(path, "".join(_line(row) for row in kept).encode())
        self._file = tf.io.gfile.GFile(path, "a")

    def had(self, row: Mapping[str, Any]) -> bool:
        """Tells whether the log held the row of this step, of training or of validation, before it was opened."""
        return _name(row) in self._dropped

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


def _name(row: Mapping[str, Any]) -> tuple[int, bool]:
    return int(row["step"]), any(key.startswith("val_") for key in row)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(to_json_values(row), allow_nan=False) + "\n"
