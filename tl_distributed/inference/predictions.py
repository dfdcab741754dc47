"""Classifies image files: decoded exactly as `data_prep` decodes the images that a model is trained on."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tl_distributed.data.decode import EXTENSIONS, UnreadableImage
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.fit_rules import FIT_OF_VERSION_1, Fit
from tl_distributed.data.picture_files import is_picture, is_unread_picture, list_folder
from tl_distributed.errors import UserError, printable
from tl_distributed.files import is_folder, path_exists
from tl_distributed.inference.pictures import PictureRule, prepare_picture
from tl_distributed.inference.saved import SavedModel
from tl_distributed.reporting.label_scores import THRESHOLD
from tl_distributed.streams import show_line


def find_images(paths: Sequence[str]) -> list[str]:
    """Returns the files among `paths` and the image files below its folders, each folder's in order of name.

    Hidden files, and what programs leave in folders, are no images; a link that points upwards repeats none. What of a
    folder is a picture in a format that is not read, is said.

    Raises:
      UserError: A path that does not exist, or a folder without images.
    """
    found: list[str] = []
    for path in paths:
        if not path_exists(path):
            raise UserError(f"{path}: no such file or folder")
        if not is_folder(path):
            found.append(path)
            continue
        files = list_folder(path).files
        inside = [os.path.join(path, name) for name in files if is_picture(name)]
        if not inside:
            raise UserError(f"{path}: no images in this folder ({', '.join(EXTENSIONS)})")
        if unread := [name for name in files if is_unread_picture(name)]:
            count = f"{len(unread):,} pictures of a format that is not read"
            show_line(f"{printable(path)}: left out {count} ({printable(unread[0])}); convert them")
        found += inside
    return found


def choose_fit(model: SavedModel, asked: Fit | None) -> tuple[Fit, str]:
    """Returns (the rule to prepare pictures by, a line for the user where that is not surely the model's own).

    Args:
      model: Opened.
      asked: Of the flags, which win; `None` takes the model's.
    """
    if asked and model.fit and model.fit != asked:
        return asked, f"{model.path}: it was trained with --fit={model.fit}; --fit={asked} is taken"
    if asked or model.fit:
        return asked or model.fit, ""
    return FIT_OF_VERSION_1, (
        f"{model.path}: does not say how its pictures were fitted, so --fit={FIT_OF_VERSION_1} is assumed; give "
        "--fit=crop if its data set was built with --crop_to_aspect_ratio"
    )


def predict_files(
    model: SavedModel, files: Iterable[str], *, top: int, batch_size: int, fit: Fit,
    max_megapixels: float = DecodeSettings.max_megapixels,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yields for each file, in order, `file` and either `class`, `probability`, `top`, or `error`.

    Of a model of pictures with any number of labels, `labels` (those with a probability above a half, the highest
    first) is in place of `class` and `probability`; of one that returns no probabilities, `top` holds `output`s.

    Args:
      model: Opened.
      files: Image files.
      top: Number of best classes in `top`, a list of {class, probability}.
      batch_size: Images at once.
      fit: What becomes of pictures that are not square; the model's own, unless the user wants another.
      max_megapixels: Million pixels that one picture may hold once decoded.

    Raises:
      UserError: The model takes images that are not square.
    """
    rows = file_probabilities(model, files, batch_size=batch_size, fit=fit, max_megapixels=max_megapixels)
    for path, row in rows:
        yield {"file": path, **({"error": row} if isinstance(row, str) else _best(row, model, top))}


def file_probabilities(
    model: SavedModel, files: Iterable[str], *, batch_size: int, fit: Fit,
    max_megapixels: float = DecodeSettings.max_megapixels,
) -> Iterator[tuple[str, np.ndarray | str]]:  # fmt: skip
    """Yields each file, in order, with its probabilities `[num_classes] float32`, or why it cannot be read.

    Args and raises as `predict_files`.
    """
    height, width, _ = model.image_shape
    if height != width:
        raise UserError(f"{model.path}: takes {height} x {width} images; only square ones are prepared here")
    rule = PictureRule(height, fit, model.storage, model.stored_size)
    remaining = iter(files)
    while batch := list(itertools.islice(remaining, batch_size)):
        decoded = [_decode(path, rule, max_megapixels) for path in batch]
        images = [image for image in decoded if isinstance(image, np.ndarray)]
        rows = iter(model.predict(np.stack(images)) if images else ())
        for path, image in zip(batch, decoded, strict=True):
            yield path, image if isinstance(image, str) else next(rows)


def print_predictions(results: Iterable[dict[str, Any]], *, as_table: bool) -> int:
    """Prints results as they come, errors to standard error; returns the number of errors."""
    errors = 0
    for result in results:
        if "error" in result:
            errors += 1
            show_line(f"{printable(result['file'])}: {printable(result['error'])}; left out")
        elif as_table:
            print(f"{printable(result['file'])}  {_in_words(result)}", flush=True)
        else:
            print(json.dumps(result), flush=True)
    return errors


def _decode(path: str, rule: PictureRule, max_megapixels: float) -> np.ndarray | str:
    """Returns the image, or why it cannot be read."""
    try:
        return prepare_picture(path, rule, max_megapixels=max_megapixels)
    except UnreadableImage as error:
        return str(error)


def _in_words(result: dict[str, Any]) -> str:
    best = "  ".join(
        f"{printable(row['class'])} "
        + (f"{row['probability']:.1%}" if "probability" in row else f"{row['output']:.4g}")
        for row in result["top"]
    )
    if "labels" not in result:
        return best
    return f"{', '.join(map(printable, result['labels'])) or '(none)'}  [{best}]"


def _best(outputs: np.ndarray, model: SavedModel, top: int) -> dict[str, Any]:
    order = np.argsort(-outputs, kind="stable")
    names = model.class_names or [str(index) for index in range(len(outputs))]
    what = "output" if model.activation == "linear" else "probability"
    rows = [{"class": names[index], what: round(float(outputs[index]), 6)} for index in order[:top]]
    if model.activation == "sigmoid":
        return {"labels": [names[index] for index in order if outputs[index] > THRESHOLD], "top": rows}
    return {**rows[0], "top": rows}
