"""What lies with an export: its model card, and the script that uses it without this package."""

import os

import tensorflow as tf

from tl_distributed.files import write_file

_OF_FOLDER = {"card": "assets.extra/README.md", "script": "assets.extra/predict.py"}  # TensorFlow leaves it to others
_OF_FILE = {"card": ".md", "script": ".py"}


def card_path(path: str) -> str:
    """Returns where the card of the export at `path` lies: inside a SavedModel, beside a file."""
    return _path(path, "card")


def script_path(path: str) -> str:
    """Returns where the script of the export at `path` lies."""
    return _path(path, "script")


def remove_companions(path: str) -> None:
    """Removes those of an export that is about to be replaced."""
    for companion in (card_path(path), script_path(path)):
        if tf.io.gfile.exists(companion):
            tf.io.gfile.remove(companion)


def write_companions(path: str, *, card: str, script: str) -> None:
    """Writes both for the export at `path`, which is there."""
    write_file(card_path(path), card.encode())
    write_file(script_path(path), script.encode())


def script_name(path: str) -> str:
    """Returns how the script of `path` is named where the export's files are."""
    return f"assets.extra/{os.path.basename(script_path(path))}" if _is_folder(path) else (
        os.path.basename(script_path(path))
    )  # fmt: skip


def _path(path: str, companion: str) -> str:
    return f"{path}/{_OF_FOLDER[companion]}" if _is_folder(path) else f"{path}{_OF_FILE[companion]}"


def _is_folder(path: str) -> bool:
    return tf.io.gfile.isdir(path)
