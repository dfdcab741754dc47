"""16-bit pictures that use 12 bits or fewer: noticed while they are decoded, and said once."""

from tl_distributed.data.decode import Picture


class SampleBits:
    """Counts the 16-bit pictures of a split, and those of them that are stored nearly black."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._wide = self._dark = self._most_bits = 0
        self._first = ""

    def add(self, name: str, picture: Picture) -> None:
        self._wide += picture.used_bits is not None
        if picture.is_dark:
            self._first = self._first or name
            self._dark += 1
            self._most_bits = max(self._most_bits, picture.used_bits)

    def notes(self, path: str, split: str) -> list[str]:
        """Returns a line about what was added since the last call, or none."""
        lines = []
        if self._dark:
            lines.append(
                f"{path}: {self._dark:,} of {self._wide:,} 16-bit pictures of {split} use at most {self._most_bits} "
                f"bits (the first: {self._first}) and were stored nearly black, since the upper byte is kept; "
                f"multiply their values by {2 ** (16 - self._most_bits)} to use all 16, and build again"
            )
        self._start()
        return lines
