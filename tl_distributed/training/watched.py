"""Evaluation within a run: it shows how far it is, and a signal that asks to stop ends it."""

from collections.abc import Mapping
from typing import Any

from tl_distributed.data.splits import Split
from tl_distributed.progress import Progress
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.evaluation import Evaluation, Evaluator

_LABELS = {"val": "Validation", "test": "Test"}
_DELAY_SECONDS = 5.0
_BATCHES_A_QUESTION = 16  # of several workers, which have to wait for one another's answer


class EvaluationStoppedError(Exception):
    """A signal came; `StopRequest.signal_number` says which. Every worker raises it after the same batch."""


class WatchedEvaluator:
    """Evaluates the splits of a run."""

    def __init__(
        self, evaluator: Evaluator, splits: Mapping[str, Split], *, batch_size: int, stop: StopRequest, workers: Workers
    ):
        """`splits`: by name. `batch_size`: global, rounded up to a multiple of the replicas."""
        self._evaluator, self._splits, self._batch_size = evaluator, splits, batch_size
        self._stop, self._workers = stop, workers

    def __call__(self, name: str, **options: Any) -> Evaluation | None:
        """Evaluates a split; `None` where there is none of the name.

        Args:
          name: val or test.
          options: Of `Evaluator.evaluate`.

        Raises:
          EvaluationStoppedError: A signal asked any worker to stop.
        """
        if name not in self._splits:
            return None
        split, batches = self._splits[name], 0

        def seen(num_images: int) -> None:
            nonlocal batches
            batches += 1
            progress.update(num_images)
            if self._workers.count == 1 or batches % _BATCHES_A_QUESTION == 0:
                self._obey()

        self._obey()
        with Progress(
            total=split.num_examples, unit="images", label=_LABELS[name], delay_seconds=_DELAY_SECONDS,
            silent=not self._workers.is_chief,
        ) as progress:  # fmt: skip
            return self._evaluator.evaluate(split, batch_size=self._batch_size, on_batch=seen, **options)

    def _obey(self) -> None:
        if self._stop.agree():
            raise EvaluationStoppedError
