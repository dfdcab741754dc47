"""Images in class folders, in a folder or an archive of one."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_prep.config import BuildConfig
from data_prep.id_file import IdFile
from data_prep.index import NO_BITS, Index
from data_prep.picture_reader import PictureReader
from data_prep.source import Chunk, Part, Source
from data_prep.source_parts.archive_limits import ArchiveLimits
from data_prep.source_parts.containers import Container, open_container
from data_prep.source_parts.image_layout import LayoutOptions, find_layout
from tl_distributed.data.decode import is_dark
from tl_distributed.data.decoder import decoder_versions
from tl_distributed.data.records import SPLITS
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import printable

_LAYOUT_FLAGS = (
    "train_dir", "val_dir", "test_dir", "no_split_folders", "labels_csv", "multi_label", "class_names", "group_csv",
)  # fmt: skip
_LIMITS = ("max_megapixels", "max_archive_members", "max_archive_gib", "archive_encoding")
TAKES = ("input", "skip_unreadable", "fit", "crop_to_aspect_ratio", *_LAYOUT_FLAGS, *_LIMITS)
NEEDS = ("input",)
_NAMES_KEPT = 100  # unreadable images that `details` names
_PART_IMAGES = 2000  # of a folder or zip, that one worker reads


class ImageFolderSource(Source):
    """`train/<class>/*` with optional `val/` and `test/`, `<class>/*`, or any folders and a table of labels."""

    name = "image_folder"

    def __init__(
        self, *, path: str, skip_unreadable: bool, num_threads: int, layout: LayoutOptions | None = None,
        limits: ArchiveLimits | None = None,
    ):  # fmt: skip
        """Lists the container and checks its layout; reads no pixels.

        Args:
          path: Folder, zip or tar (plain or compressed).
          skip_unreadable: Leave out, count and name images that cannot be decoded; otherwise the first one is an error.
          num_threads: Threads that decode.
          layout: What the user says of the folders, and the tables beside them.
          limits: Of an archive; None: the default ones.

        Raises:
          UserError: The path or its layout is not what it should be.
        """
        self._container = open_container(path, limits)
        self._layout = find_layout(self._container, layout or LayoutOptions())
        self._reader = PictureReader(self._container.path, skip_unreadable, num_threads)
        self.class_names, self.label_sets = self._layout.class_names, self._layout.label_sets
        self.splits = tuple(self._layout.files)
        self.details = {
            "decoder": decoder_versions(),
            "unreadable": 0,
            "unreadable_files": [],
            "splits_told_by": self._layout.told_by,
            "left_out": dict(self._layout.left_out),
        }
        self.notes = list(self._layout.notes)
        if self._layout.left_out:
            listed = ", ".join(f"{count:,} {kind}" for kind, count in self._layout.left_out.items())
            self.notes.append(f"{path}: left out what is no picture in a class folder: {listed}")

    def count(self, split: str) -> int:
        return len(self._layout.files[split])

    def chunks(self, split: str, rule: StorageRule) -> Iterator[Chunk]:
        labels = self._layout.files[split]
        members = self._container.members(labels.keys())
        return self._reader.chunks(members, labels, self._layout.ids, self._layout.groups, rule)

    def parts(self, split: str) -> list[Part]:
        labels, layout = self._layout.files[split], self._layout
        reader = dataclasses.replace(self._reader, num_threads=1)  # parts are read side by side
        names = sorted(labels)
        step = _PART_IMAGES if self._container.is_random_access else max(1, len(names))
        return [
            _Files(
                reader, self._container.only(some), {name: labels[name] for name in some},
                {name: layout.ids[name] for name in some},
                {name: layout.groups[name] for name in some if name in layout.groups} if layout.groups else None,
            )
            for some in (names[start : start + step] for start in range(0, len(names), step))
        ]  # fmt: skip

    def tell(self, index: Index, ids: IdFile) -> None:
        path = self._container.path
        for split in self.splits:
            if unreadable := index.unreadable.get(split):
                self.notes.append(
                    f"{path}: left out {len(unreadable):,} unreadable images, the first {printable(unreadable[0])}"
                )
            self.notes += _dark_note(index, ids, path, split)
        left_out = [name for split in self.splits for name in index.unreadable.get(split, ())]
        self.details["unreadable"], self.details["unreadable_files"] = len(left_out), left_out[:_NAMES_KEPT]
        self.details["picture_sizes"] = _sizes(index.source_sizes)


@dataclasses.dataclass(frozen=True)
class _Files(Part):
    """Some files of a folder or archive."""

    reader: PictureReader
    container: Container
    labels: dict[str, int]
    ids: dict[str, str]
    groups: dict[str, str] | None

    def chunks(self, rule: StorageRule) -> Iterator[Chunk]:
        members = self.container.members(self.labels)
        for chunk in self.reader.chunks(members, self.labels, self.ids, self.groups or {}, rule):
            no_groups = [""] * len(chunk.names) if self.groups is not None else None
            yield chunk if chunk.groups or no_groups is None else dataclasses.replace(chunk, groups=no_groups)


def _dark_note(index: Index, ids: IdFile, path: str, split: str) -> list[str]:
    """Returns a line about the 16-bit pictures of a split that are stored nearly black, or none."""
    wide = np.flatnonzero((index.origins == SPLITS.index(split)) & (index.used_bits != NO_BITS))
    dark = wide[[is_dark(bits) for bits in index.used_bits[wide].tolist()]] if len(wide) else wide
    if not len(dark):
        return []
    (first,), most = ids.read(dark[:1]), int(index.used_bits[dark].max())
    return [
        f"{path}: {len(dark):,} of {len(wide):,} 16-bit pictures of {split} use at most {most} bits (the first: "
        f"{first}) and were stored nearly black, since the upper byte is kept; multiply their values by "
        f"{2 ** (16 - most)} to use all 16, and build again"
    ]


def _sizes(sizes: np.ndarray) -> dict[str, list[int]]:
    """Returns `median`, `smallest` and `largest` of `[n, 2]` widths and heights, the last two by area; or nothing."""
    if not len(sizes):
        return {}
    by_area = np.lexsort((sizes[:, 1], sizes[:, 0], sizes[:, 0].astype(np.int64) * sizes[:, 1]))
    median = [int(np.median(sizes[:, 0])), int(np.median(sizes[:, 1]))]
    return {"median": median, "smallest": sizes[by_area[0]].tolist(), "largest": sizes[by_area[-1]].tolist()}


def open_source(config: BuildConfig) -> Source:
    """Raises `UserError` as the source's constructor does."""
    return ImageFolderSource(
        path=config.input,
        skip_unreadable=config.skip_unreadable,
        num_threads=config.num_threads,
        layout=LayoutOptions(
            **{flag: getattr(config, flag) for flag in _LAYOUT_FLAGS},
            output_dir=config.output_dir,
            skip_missing=config.skip_unreadable,
        ),
        limits=config.archive_limits,
    )
