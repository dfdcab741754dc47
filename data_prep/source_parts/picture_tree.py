"""The folders of an input as a tree: which of them hold pictures, at any depth or themselves."""

from collections.abc import Collection, Sequence


class PictureTree:
    """Answers what lies in a folder; folders are named with a `/` at the end, and the input itself is "".

    Attributes:
      path: Of the input, for messages.
      pictures: Paths of all pictures, relative to the input.
      folders: Paths of all folders.
      others: Paths of the files that are no pictures.
    """

    def __init__(self, path: str, pictures: Sequence[str], folders: Sequence[str], others: Sequence[str] = ()):
        self.path, self.pictures, self.folders, self.others = path, pictures, folders, others
        self._direct: set[str] = set()
        self._with_pictures: dict[str, set[str]] = {}
        self._all: dict[str, set[str]] = {}
        for picture in pictures:
            folder = picture[: picture.rfind("/") + 1]
            if folder not in self._direct:
                self._direct.add(folder)
                _register(folder, self._with_pictures)
                _register(folder, self._all)
        for folder in folders:
            _register(f"{folder}/", self._all)

    def folders_with_pictures(self, folder: str) -> list[str]:
        """Returns the names of the folders in `folder` that hold pictures at any depth, sorted."""
        return sorted(self._with_pictures.get(folder, ()))

    def parents(self) -> Collection[str]:
        """Returns the folders in which folders lie that hold pictures."""
        return self._with_pictures.keys()

    def folders_in(self, folder: str) -> list[str]:
        """Returns the names of all folders in `folder`, sorted."""
        return sorted(self._all.get(folder, ()))

    def pictures_directly_in(self, folder: str) -> bool:
        """Tells whether pictures lie in `folder` itself."""
        return folder in self._direct

    def has_pictures(self, folder: str) -> bool:
        """Tells whether pictures lie in `folder` at any depth."""
        return folder in self._direct or folder in self._with_pictures


def _register(folder: str, inside: dict[str, set[str]]) -> None:
    """Enters a folder and all that hold it."""
    while folder:
        parent, name = folder[: folder.rstrip("/").rfind("/") + 1], folder.rstrip("/").rsplit("/", 1)[-1]
        known = inside.setdefault(parent, set())
        if name in known:
            return
        known.add(name)
        folder = parent
