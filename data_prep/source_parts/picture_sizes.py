"""How large the pictures of a source are, before they are resized."""

import array
from typing import Any

import numpy as np


class PictureSizes:
    """Collects (width, height) in pixels from any thread, in 8 bytes a picture."""

    def __init__(self) -> None:
        self._sizes = array.array("Q")

    def add(self, size: tuple[int, int] | None) -> None:
        """Adds one picture's (width, height), if it is known."""
        if size is not None:
            self._sizes.append(size[0] << 32 | size[1])

    def describe(self) -> dict[str, Any]:
        """Returns `median`, `smallest` and `largest` as [width, height], the last two by area; or nothing."""
        if not self._sizes:
            return {}
        sizes = np.sort(np.array(self._sizes, np.uint64))  # the threads' order is chance
        width, height = sizes >> np.uint64(32), sizes & np.uint64(2**32 - 1)
        by_area = np.argsort(width * height, kind="stable")
        pairs = {"smallest": by_area[0], "largest": by_area[-1]}
        median = [int(np.median(width)), int(np.median(height))]
        return {"median": median} | {name: [int(width[row]), int(height[row])] for name, row in pairs.items()}
