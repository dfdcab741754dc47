"""Finds the pictures that a table names: by path, by a part of it, or by the bare name with or without ending."""

import functools
import posixpath
import unicodedata
from collections.abc import Callable, Iterable


def composed(name: str) -> str:
    """Returns the name in Unicode's composed form (NFC): macOS stores accents as characters of their own."""
    return unicodedata.normalize("NFC", name)


@functools.lru_cache(2**14)  # a table names its classes in every line
def look_of(name: str) -> str:
    """Returns what names share that look alike: but for case, spaces and characters that show nothing.

    Text that was copied from a web page or another program often holds such characters: a zero-width space, a mark of
    direction, a soft hyphen (Unicode's category Cf).
    """
    seen = "".join(character for character in composed(name) if unicodedata.category(character) != "Cf")
    return " ".join(seen.split()).casefold()


class PictureIndex:
    """Looks up the pictures of an input."""

    def __init__(self, pictures: Iterable[str], split_of: Callable[[str], str | None]):
        """Takes paths relative to the input, and what tells the split folder that a path lies in."""
        self._split_of = split_of
        self._by_path: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        for picture in pictures:
            path = composed(picture)
            stem = posixpath.splitext(path)[0]
            for key, place in ((path, self._by_path), (stem, self._by_path)):
                place.setdefault(key, []).append(picture)
            for key in (posixpath.basename(path), posixpath.basename(stem)):
                self._by_name.setdefault(key, []).append(picture)

    def find(self, entry: str, split: str | None) -> list[str]:
        """Returns the pictures that an entry of a table may mean: one where it is clear, none where there is none.

        Of several that a bare name may mean, those in the folder of `split` are taken, or else those in train's: Kaggle
        numbers the pictures of train and test alike, and labels those of train.
        """
        entry = composed(entry.strip()).replace("\\", "/").removeprefix("./").lstrip("/")
        found = self._by_path.get(entry) or self._by_part(entry)
        if len(found) > 1:
            found = [one for one in found if self._split_of(one) == (split or "train")] or found
        return found

    def _by_part(self, entry: str) -> list[str]:
        found = self._by_name.get(posixpath.basename(entry), [])
        return [one for one in found if _ends_alike(one, entry)] if "/" in entry else found


def _ends_alike(picture: str, entry: str) -> bool:
    """Tells whether one path ends as the other, with or without the picture's ending."""
    path = f"/{composed(picture)}"
    return any(one.endswith(f"/{entry}") or f"/{entry}".endswith(one) for one in (path, posixpath.splitext(path)[0]))
