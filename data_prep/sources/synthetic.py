"""The embedded data set: two tasks of procedurally drawn classes, for trying transfer without any download.

A class is a figure: an outline, a texture and a part. The `source` task has 24 combinations of six outlines
and six textures with some hundred images each; the `target` task has ten other classes with few: eight
combinations that the source task leaves out, and two with outlines and a texture it never shows. So features
learnt on the source carry over to the target, while no class does. Colours, pose, background, clutter,
occlusion, light and noise are chance and say nothing about the class.
"""

from collections.abc import Iterator

import numpy as np

from data_prep.config import BuildConfig
from data_prep.source import Chunk, Source
from data_prep.source_parts.drawing import PARTS, Figure, draw
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError

TAKES, NEEDS = ("images_per_class",), ()
TASKS = ("source", "target")
SMALLEST_IMAGE_SIZE = 16  # below, textures are finer than the pixels

_OUTLINES = ("disk", "square", "triangle", "star", "cross", "crescent")
_TEXTURES = ("plain", "striped", "checked", "dotted", "ringed", "wavy")
_NEW_IN_TARGET = (Figure("bow", "split", "whole"), Figure("capsule", "dotted", "pierced"))
_NUM_HELD_OUT = 8
_TRAIN_IMAGES_PER_CLASS = {"source": 300, "target": 25}
_TEST_IMAGES_PER_CLASS = {"source": 50, "target": 150}
_CHUNK_IMAGES = 250


def _figures(task: str) -> tuple[Figure, ...]:
    """Deals the grid of outlines and textures: every third diagonal is held out for the target task."""
    dealt: dict[bool, list[Figure]] = {True: [], False: []}
    for row, outline in enumerate(_OUTLINES):
        for column, texture in enumerate(_TEXTURES):
            figure = Figure(outline, texture, PARTS[(row + 2 * column) % len(PARTS)])
            dealt[(row + column) % 3 == 0].append(figure)
    return tuple(dealt[False]) if task == "source" else (*dealt[True][:_NUM_HELD_OUT], *_NEW_IN_TARGET)


class SyntheticSource(Source):
    """Draws the images of one task; each is a function of (seed, task, split, class, index) alone."""

    name = "synthetic"
    splits = ("train", "test")

    def __init__(self, *, task: str, image_size: int, seed: int, images_per_class: int):
        """Prepares a task; nothing is drawn yet.

        Args:
          task: `"source"` (24 classes) or `"target"` (10 other classes).
          image_size: Height and width in pixels.
          seed: Another seed, other images of the same classes; not negative.
          images_per_class: Training images of each class (validation is taken from them); 0 for the task's own
            number, 300 (source) or 25 (target). The test split has 50 (source) or 150 (target) always.

        Raises:
          UserError: A task, size, seed or number that cannot be.
        """
        if task not in TASKS:
            raise UserError(f"synthetic task {task!r}: takes one of {', '.join(TASKS)}")
        if image_size < SMALLEST_IMAGE_SIZE:
            raise UserError(
                f"--image_size={image_size}: the synthetic source draws {SMALLEST_IMAGE_SIZE} pixels or more"
            )
        if seed < 0 or images_per_class < 0:
            culprit = f"--seed={seed}" if seed < 0 else f"images per class {images_per_class}"
            raise UserError(f"{culprit}: takes 0 or more")
        self._image_size = image_size
        self._task, self._seed, self._figures = task, seed, _figures(task)
        self.class_names = tuple(figure.name for figure in self._figures)
        self._images_per_class = {
            "train": images_per_class or _TRAIN_IMAGES_PER_CLASS[task],
            "test": _TEST_IMAGES_PER_CLASS[task],
        }
        self.details = {"task": task, "images_per_class": dict(self._images_per_class)}
        self.notes = []

    def count(self, split: str) -> int:
        return self._images_per_class[split] * len(self._figures)

    def chunks(self, split: str, rule: StorageRule) -> Iterator[Chunk]:
        """Yields the split class by class; see `Source.chunks`."""
        del rule  # nothing is decoded here
        per_class = self._images_per_class[split]
        for start in range(0, self.count(split), _CHUNK_IMAGES):
            positions = range(start, min(start + _CHUNK_IMAGES, self.count(split)))
            pairs = [divmod(position, per_class) for position in positions]
            yield Chunk(
                images=np.stack([self._image(split, label, index) for label, index in pairs]),
                labels=np.array([label for label, _ in pairs], np.int64),
                names=[f"{split}/{self.class_names[label]}/{index:05d}" for label, index in pairs],
            )

    def _image(self, split: str, label: int, index: int) -> np.ndarray:
        key = [self._seed, TASKS.index(self._task), self.splits.index(split), label, index]
        return draw(
            self._figures[label], np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))), self._image_size
        )


def open_source(config: BuildConfig) -> Source:
    """Raises `UserError` as the source's constructor does."""
    return SyntheticSource(
        task=config.synthetic_task,
        image_size=config.image_size,
        seed=config.seed,
        images_per_class=config.images_per_class,
    )
