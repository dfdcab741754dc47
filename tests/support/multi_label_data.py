"""A small data set whose pictures have any number of labels: bright squares of three colours, built from files."""

import csv
import pathlib

import numpy as np
from PIL import Image

from data_prep.build import build
from data_prep.config import BuildConfig
from tl_distributed.data.records import DatasetInfo

NAMES, SIZE = ("blue", "green", "red"), 16
SPLITS = {"train": 72, "val": 24, "test": 24}


def labels_of(number: int) -> list[str]:
    """Returns the labels of a picture, of none up to all three."""
    return [name for place, name in enumerate(NAMES) if number >> place & 1]


def write_pictures(folder: pathlib.Path) -> pathlib.Path:
    """Writes pictures and `labels.csv`; returns its path. Each label is a square of its colour at its own place."""
    (folder / "images").mkdir(parents=True)
    generator, rows = np.random.default_rng(0), []
    for split, count in SPLITS.items():
        for number in range(count):
            pixels = generator.integers(0, 60, (SIZE, SIZE, 3))
            for place in range(3):
                if number >> place & 1:
                    pixels[4 * place : 4 * place + 6, 4 * place : 4 * place + 6, 2 - place] += 190
            name = f"{split}{number:03d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / name)
            rows.append({"file": name, "labels": "|".join(reversed(labels_of(number))), "split": split})
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "labels", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def build_config(folder: pathlib.Path, **changes) -> BuildConfig:
    settings = {
        "source": "image_folder", "input": str(folder), "labels_csv": str(folder / "labels.csv"), "multi_label": True,
        "image_size": SIZE, "output_dir": str(folder.parent / "data"),
    }  # fmt: skip
    return BuildConfig(**settings | changes)


def multi_label_data(folder: pathlib.Path, **changes) -> tuple[str, DatasetInfo]:
    """Builds the data set; returns its folder and manifest."""
    write_pictures(folder / "pictures")
    config = build_config(folder / "pictures", **changes)
    return config.output_dir, build(config)
