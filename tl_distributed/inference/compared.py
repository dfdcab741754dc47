"""What an export loses: its answers beside those of the model that it was made of, on the same pictures."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import read_manifest
from tl_distributed.data.splits import Batch
from tl_distributed.errors import UserError
from tl_distributed.inference.class_order import in_order_of_data
from tl_distributed.inference.pictures import fitted_squares
from tl_distributed.inference.saved import SavedModel
from tl_distributed.inference.scoring import check_data_set
from tl_distributed.progress import Progress
from tl_distributed.reporting.label_scores import THRESHOLD, multi_hot
from tl_distributed.reporting.shown_scores import percentage

LOUD_POINTS = 2.0  # of accuracy: who loses more is told so
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two models on the same pictures.

    Attributes:
      split: Where the pictures are from.
      num_images: How many.
      accuracy: Of the export, a share; where pictures have any number of labels, of those whose labels are all right.
      reference_accuracy: Of the model that it was made of.
      agreement: Share of the pictures that both call the same.
    """

    split: str
    num_images: int
    accuracy: float
    reference_accuracy: float
    agreement: float

    @property
    def lost_points(self) -> float:
        """Percentage points of accuracy that the export lost; below 0, it won some."""
        return 100 * (self.reference_accuracy - self.accuracy)

    def line(self) -> str:
        """Returns the comparison in one line."""
        return (
            f"accuracy {percentage(self.accuracy, 2)}% on {self.num_images:,} images of {self.split}, the float model "
            f"{percentage(self.reference_accuracy, 2)}%; both give the same answer for {percentage(self.agreement, 2)}%"
        )


class DataOfModel:
    """The pictures that a model was trained and is scored on, as it takes them."""

    def __init__(self, data_dir: str, model: SavedModel):
        """Opens a data set.

        Raises:
          UserError: It cannot be read, or is of other shapes or classes than the model.
        """
        self._data_dir, self._model, self._info = data_dir, model, read_manifest(data_dir)
        check_data_set(model, self._info, data_dir)

    def train_pictures(self, count: int) -> np.ndarray:
        """Returns the first pictures of train, which lies shuffled, as `[count or fewer, height, width, 3] uint8`.

        Raises:
          UserError: The data set has no train split.
        """
        if "train" not in self._info.splits:
            raise UserError(f"--data_dir={self._data_dir}: has no train split to take representative pictures from")
        return np.concatenate([images for images, _ in self._batches("train", count)])

    def compare(self, predict: Callable[[np.ndarray], np.ndarray], *, most_images: int) -> Compared | None:
        """Scores an export and the model on test, or on val where there is no test; `None` where there is neither.

        Args:
          predict: The export, from `[n, height, width, 3] uint8` to `[n, num_classes]` probabilities.
          most_images: The first so many, since shards lie shuffled; 0 takes all.
        """
        split = next((name for name in ("test", "val") if name in self._info.splits), None)
        if split is None:
            return None
        count = self._info.splits[split].num_examples
        count = min(most_images, count) if most_images else count
        right = np.zeros(3, np.int64)
        with Progress(total=count, unit="images", label=f"Comparing on {split}") as progress:
            for images, labels in self._batches(split, count):
                answers, expected = map(self._answers, (predict(images), self._model.predict(images)))
                truth = multi_hot(labels, self._info.num_classes) if self._info.is_multi_label else labels
                right += [_same(answers, truth), _same(expected, truth), _same(answers, expected)]
                progress.update(len(labels))
        return Compared(split, count, *(right / count).tolist())

    def _answers(self, probabilities: np.ndarray) -> np.ndarray:
        probabilities = in_order_of_data(probabilities, self._model.class_names, self._info.class_names)
        return probabilities > THRESHOLD if self._info.is_multi_label else probabilities.argmax(-1)

    def _batches(self, split: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (pictures, labels) of the first examples of a split, which are read and no others where that goes."""
        mode = "disk" if self._info.is_indexed else "memory"
        examples = load_splits(self._data_dir, self._info, (split,), input_mode=mode)[split]
        size, fit, left = self._model.image_shape[0], self._model.fit or self._info.fit, count
        for padded in examples.eval_batches(_BATCH_SIZE):
            batch = _first(padded.valid(), left)
            yield fitted_squares(batch.images, batch.sizes, size=size, fit=fit), np.asarray(batch.labels)
            left -= len(batch.labels)
            if left <= 0:
                return


def _same(one: np.ndarray, other: np.ndarray) -> int:
    """Returns for how many pictures two answers are the same, `[n]` or `[n, num_classes]`."""
    return int((one == other).reshape(len(one), -1).all(axis=1).sum())


def _first(batch: Batch, count: int) -> Batch:
    return Batch(*(None if part is None else part[:count] for part in batch))
