"""The TensorBoard side of a run: its writer, and what happens to it when the run resumes.

All of a run is one entry of TensorBoard's list, its workdir: curves, pictures, settings and final scores (HParams). The
Custom Scalars dashboard draws training and validation in one chart (`board_tags`).

A run that was killed leaves points beyond its last checkpoint. The run that resumes cannot rewrite those
files; it starts new ones behind a session-start event, at which TensorBoard forgets every earlier point from
that step on (its `--purge_orphaned_data`, on by default).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

AUGMENTED_INPUT, CONFUSION_MATRIX, MISCLASSIFIED = "augmented_input", "confusion_matrix", "misclassified"
RELIABILITY = "reliability"
MOST_CONFUSED = "most_confused"  # in place of the matrix where classes are many
CONFIG = "config"

_GRID_COLUMNS = 8


class TensorBoardLog:
    """Writes one run's events. Disabled (every process but the chief), each method does nothing."""

    def __init__(self, workdir: str, *, enabled: bool, resume_step: int):
        """Opens no file before something is written to it.

        Args:
          workdir: The run's folder, on any file system.
          enabled: Whether to write at all.
          resume_step: Step of the checkpoint from which the run goes on; points of a killed run beyond it are purged.
            0: a new run, or one that begins anew in the same folder.
        """
        self._workdir, self._enabled, self._resume_step = workdir.rstrip("/"), enabled, resume_step
        self._writer: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to the curve of each tag."""
        import tensorflow as tf
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        if not self._enabled:
            return
        row = Summary()  # one write a row: a `tf.summary.scalar` for each value takes longer than a small head's steps
        for tag, value in values.items():
            row.MergeFrom(scalar_pb(tag, value))
        with self._writing(step):
            tf.summary.experimental.write_raw_pb(row.SerializeToString())

    def layout(self, layout: Any, step: int) -> None:
        """Sets what the Custom Scalars dashboard shows; `layout` is a `layout_pb2.Layout` of its plugin."""
        import tensorflow as tf
        from tensorboard.plugins.custom_scalar import summary

        if self._enabled:
            with self._writing(step):
                tf.summary.experimental.write_raw_pb(summary.pb(layout).SerializeToString())

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Shows Markdown."""
        import tensorflow as tf

        if self._enabled:
            with self._writing(step):
                tf.summary.text(tag, markdown)

    def images(self, tag: str, images: np.ndarray, step: int, captions: Sequence[str] = ()) -> None:
        """Shows `[n, height, width, 3] uint8` images: each by itself, or in one grid with a caption under each."""
        import tensorflow as tf

        from tl_distributed.reporting.plots import image_grid

        if not self._enabled or not len(images):
            return
        if captions:
            self.figure(tag, image_grid(images, captions, _GRID_COLUMNS), step)
            return
        with self._writing(step):
            tf.summary.image(tag, np.asarray(images, np.uint8), max_outputs=len(images))

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Shows a matplotlib figure as an image."""
        from tl_distributed.reporting.drawing import figure_png

        if self._enabled:
            self.png(tag, figure_png(figure), step)

    def png(self, tag: str, content: bytes, step: int) -> None:
        """Shows the content of a PNG file."""
        import tensorflow as tf

        if self._enabled:
            pixels = tf.io.decode_png(content, channels=3)
            with self._writing(step):
                tf.summary.image(tag, pixels[None])

    def hparams(self, settings: Mapping[str, Any], metrics: Mapping[str, float | None], step: int) -> None:
        """Adds the run to the HParams table.

        Args:
          settings: Names and values; what is no number, truth value or text (a list, None) is written as text.
          metrics: Final scores, which become scalars of the run; None values are left out.
          step: Step of the scores.
        """
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        if not self._enabled:
            return
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else _text(value)
            for name, value in settings.items()
        }
        with self._writing(step):
            api.hparams(plain, trial_id=self._workdir)
            for tag, value in metrics.items():
                if value is not None:
                    tf.summary.scalar(tag, value)

    def flush(self) -> None:
        """Puts everything written so far where a TensorBoard that is running finds it."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file; nothing can be written afterwards."""
        if self._writer is not None:
            self._writer.close()

    def _writing(self, step: int) -> Any:
        """Returns a context in which `tf.summary` writes at `step`."""
        import tensorflow as tf

        if self._writer is None:
            _mark_start(self._workdir, self._resume_step)
            self._writer = tf.summary.create_file_writer(self._workdir)
        return self._writer.as_default(step)


def _mark_start(folder: str, resume_step: int) -> None:
    """Writes an event file by which TensorBoard forgets the points after `resume_step` in the files before it.

    `tf.summary` cannot write a session start. TensorBoard reads the files of a folder in the order of their
    names: seconds, host, process. The hyphen, with which no host begins, puts this one before the file that
    `tf.summary` makes in the same second. The very first start of a folder only tells TensorBoard that starts are
    marked here, so every run has to write one.
    """
    import tensorflow as tf
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    now = time.time()
    start = SessionLog(status=SessionLog.START)
    tf.io.gfile.makedirs(folder)
    with tf.io.TFRecordWriter(f"{folder}/events.out.tfevents.{int(now):010d}.-start") as writer:
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        first_step = resume_step + 1 if resume_step else 0
        writer.write(Event(wall_time=now, step=first_step, session_log=start).SerializeToString())


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
