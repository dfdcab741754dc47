"""An input of which only the names are there, for what is decided by names alone."""

from data_prep.source_parts.containers import Container, Member
from data_prep.source_parts.image_layout import LayoutOptions, find_layout


class ListedFiles(Container):
    """Files of these names, with the content where one is given."""

    def __init__(self, names, contents=None):
        self.path = "photos"
        self._contents = contents or {}
        self.files = sorted([*names, *self._contents])
        parts = [name.split("/")[:-1] for name in self.files]
        self.folders = sorted({"/".join(part[: depth + 1]) for part in parts for depth in range(len(part))})

    def only(self, names):
        return ListedFiles(names, {name: self._contents[name] for name in names if name in self._contents})

    def members(self, names):
        for name in names:
            yield Member(name, 0, lambda name=name: self._contents[name])


def files_of(folders, count=2, ending=".png"):
    """Returns `count` names in each of the folders, e.g. `files_of("train/ant train/bee")`."""
    return [f"{folder}/{number}{ending}" for folder in folders.split() for number in range(count)]


def layout_of(names, contents=None, **options):
    return find_layout(ListedFiles(names, contents), LayoutOptions(**options))


def counts(layout):
    """Returns {split: {class name: number of pictures}}."""
    names = layout.class_names
    return {
        split: {name: list(labels.values()).count(number) for number, name in enumerate(names)}
        for split, labels in layout.files.items()
    }
