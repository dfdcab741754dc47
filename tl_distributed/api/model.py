"""A trained model from Python: arrays or picture files in, probabilities or classes out."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_distributed.api.calls import api_call, kept_path
from tl_distributed.errors import UserError

if TYPE_CHECKING:
    import keras

Images = np.ndarray | str | os.PathLike | Sequence[np.ndarray | str | os.PathLike]


class Model:
    """A saved model ready to predict; made by `tl.load` and `tl.train`.

    Attributes:
      path: Of the file or folder that was opened.
      class_names: In order of label; empty where none are stored with the model.
      image_shape: (height, width, 3) of the uint8 images that it takes; others are fitted to it.
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a `.keras`, `.h5` or `.tflite` file, a SavedModel folder, or a run's workdir.

        Raises:
          UserError: Nothing there, or no model of images.
        """
        with api_call():
            from tl_distributed.inference.saved import open_model

            self._saved = open_model(kept_path(path))
        self.path: str = self._saved.path
        self.class_names: tuple[str, ...] = self._saved.class_names
        self.image_shape: tuple[int, int, int] = self._saved.image_shape

    def predict(self, images: Images, *, batch_size: int = 64) -> np.ndarray:
        """Returns a row of probabilities for each image, `[n, num_classes] float32`.

        Args:
          images: `[n, height, width, 3] uint8` RGB, or one image without the first axis; or the path of a picture, or
            of a folder with pictures, in order of name; or a list of arrays and paths. Whatever has another size is
            fitted as the pictures were that the model was trained on.
          batch_size: Images at once.

        Raises:
          UserError: An array of another type or shape, or a file that is no picture.
        """
        _refuse_below_one(batch_size=batch_size)
        with api_call():
            return np.concatenate([self._of_one_kind(part, batch_size) for part in _parts(images)])

    def classify(
        self, paths: str | os.PathLike | Sequence[str | os.PathLike], *, top: int = 3, batch_size: int = 64
    ) -> list[dict[str, Any]]:
        """Returns for each picture file what the command `predict` prints of it.

        Args:
          paths: Files, or folders with pictures.
          top: Number of best classes in `top`.
          batch_size: Images at once.

        Returns:
          Rows of `file`, and either `class`, `probability` and `top` (a list of class and probability), or `error`.
          Where pictures have any number of labels, `labels`, those above a half, is in place of `class` and
          `probability`.

        Raises:
          UserError: A path that is not there, or a folder without pictures.
        """
        from tl_distributed.inference.predictions import predict_files

        _refuse_below_one(top=top, batch_size=batch_size)
        with api_call():
            return list(predict_files(self._saved, self._files(paths), top=top, batch_size=batch_size, fit=self._fit()))

    def evaluate(self, data_dir: str | os.PathLike, *, split: str = "test", batch_size: int = 128) -> dict[str, Any]:
        """Scores the model on a split of a data set: accuracy, loss, scores by class, confusion matrix; where pictures
        have any number of labels mean average precision and what else the command `evaluate` says.

        Args:
          data_dir: Folder of a data set that `data_prep.build_tfrecords` wrote.
          split: train, val or test.
          batch_size: Images at once.

        Raises:
          UserError: No such data set or split, or one of other images or classes.
        """
        _refuse_below_one(batch_size=batch_size)
        with api_call():
            from tl_distributed.inference.scoring import score_model

            return score_model(self.path, kept_path(data_dir), split=split, batch_size=batch_size)

    @property
    def keras(self) -> "keras.Model":
        """The model by Keras: uint8 images `[batch, height, width, 3]` to probabilities; of `.keras` and `.h5` files.

        Raises:
          UserError: A file of another kind.
        """
        if not self.path.endswith((".keras", ".h5")):
            raise UserError(f"{self.path}: no file of Keras; a run's model.keras is one")
        from tl_distributed.inference.saved import load_keras

        return load_keras(self.path)

    def __repr__(self) -> str:
        height, width, _ = self.image_shape
        return f"<Model {self.path}: {height} x {width} pixels, {self._saved.num_classes} classes>"

    def _of_one_kind(self, part: np.ndarray | list[Any], batch_size: int) -> np.ndarray:
        if not isinstance(part, np.ndarray):
            return self._of_files(part, batch_size)
        images = self._fitted(part)
        starts = range(0, len(images), batch_size)
        rows = [self._saved.predict(images[start : start + batch_size]) for start in starts]
        return np.concatenate(rows) if rows else np.zeros((0, self._saved.num_classes), np.float32)

    def _of_files(self, paths: Sequence[str | os.PathLike], batch_size: int) -> np.ndarray:
        from tl_distributed.inference.predictions import file_probabilities

        rows = []
        for path, row in file_probabilities(self._saved, self._files(paths), batch_size=batch_size, fit=self._fit()):
            if isinstance(row, str):
                raise UserError(f"{path}: {row}")
            rows.append(row)
        return np.stack(rows)

    def _files(self, paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
        from tl_distributed.inference.predictions import find_images

        given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
        for path in given:
            if not isinstance(path, (str, os.PathLike)):
                raise UserError(f"classify takes paths of pictures, not {type(path).__name__}; predict takes arrays")
        return find_images([os.path.expanduser(os.fspath(path)) for path in given])

    def _fit(self) -> Any:
        from tl_distributed.inference.predictions import choose_fit

        return choose_fit(self._saved, None)[0]

    def _fitted(self, images: np.ndarray) -> np.ndarray:
        """Returns `[n, height, width, 3] uint8` of the model's size."""
        if images.ndim == 3:
            images = images[np.newaxis]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"predict takes uint8 images [n, height, width, 3] in RGB, not {images.dtype} {list(images.shape)}"
            )
        if not len(images) or images.shape[1:] == self.image_shape:
            return images
        from PIL import Image

        from tl_distributed.data.fitting import resize_image

        height, width, _ = self.image_shape
        if height != width:
            raise UserError(f"{self.path}: takes {height} x {width} images; only square ones are fitted here")
        fit = self._fit()
        return np.stack([resize_image(Image.fromarray(image), size=height, fit=fit) for image in images])


def _refuse_below_one(**numbers: int) -> None:
    """Raises `UserError` for a number of things that is none: no pictures would be answered, without a word."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise UserError(f"{name}={number}: takes a whole number, at least 1")


def _parts(images: Images) -> list[np.ndarray | list[Any]]:
    """Returns images in their order as arrays and lists of paths."""
    if isinstance(images, (str, os.PathLike)):
        return [[images]]
    if isinstance(images, np.ndarray):
        return [images]
    if not isinstance(images, (list, tuple)):
        return [np.asarray(images)]  # a tensor
    parts: list[np.ndarray | list[Any]] = []
    for image in images:
        if not isinstance(image, (str, os.PathLike)):
            parts.append(np.asarray(image))
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(image)
        else:
            parts.append([image])
    if not parts:
        raise UserError("predict was given no images")
    return parts
