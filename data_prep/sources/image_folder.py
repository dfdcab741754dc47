"""Images in class folders, in a folder or an archive of one."""

import collections
import concurrent.futures
from collections.abc import Iterator

import numpy as np

from data_prep.config import BuildConfig
from data_prep.source import Chunk, Source
from data_prep.source_parts.archive_limits import ArchiveLimits
from data_prep.source_parts.containers import Member, UnreadableFile, open_container
from data_prep.source_parts.image_layout import LayoutOptions, find_layout
from data_prep.source_parts.picture_sizes import PictureSizes
from data_prep.source_parts.sample_bits import SampleBits
from tl_distributed.data.decode import Picture, UnreadableImage, decode_picture
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.decoder import decoder_versions
from tl_distributed.data.fit_rules import IN_WORDS, Fit
from tl_distributed.errors import UserError, printable

_LAYOUT_FLAGS = ("train_dir", "val_dir", "test_dir", "no_split_folders", "labels_csv", "class_names", "group_csv")
_LIMITS = ("max_megapixels", "max_archive_members", "max_archive_gib")
TAKES = ("input", "skip_unreadable", "fit", "crop_to_aspect_ratio", *_LAYOUT_FLAGS, *_LIMITS)
NEEDS = ("input",)
_CHUNK_IMAGES = 256
_CHUNK_BYTES = 16 * 2**20  # of files read ahead for one chunk: large photographs travel in smaller chunks
_NAMES_KEPT = 100  # unreadable images that `details` names


class ImageFolderSource(Source):
    """`train/<class>/*` with optional `val/` and `test/`, `<class>/*`, or any folders and a table of labels.

    Pixels become what `decode.decode_image` describes. Threads decode, in the order of the files.
    """

    name = "image_folder"

    def __init__(
        self, *, path: str, image_size: int, fit: Fit, skip_unreadable: bool, num_threads: int,
        layout: LayoutOptions | None = None, max_megapixels: float = DecodeSettings.max_megapixels,
        limits: ArchiveLimits | None = None,
    ):  # fmt: skip
        """Lists the container and checks its layout; reads no pixels.

        Args:
          path: Folder, zip or tar (plain or compressed).
          image_size: Height and width to resize to, in pixels.
          fit: Of images that are not square, as in `fitting.resize_image`.
          skip_unreadable: Leave out, count and name images that cannot be decoded; otherwise the first one is an error.
          num_threads: Threads that decode.
          layout: What the user says of the folders, and the tables beside them.
          max_megapixels: Million pixels that one picture may hold once decoded.
          limits: Of an archive; None: the default ones.

        Raises:
          UserError: The path or its layout is not what it should be.
        """
        self.image_size = image_size
        self.fit, self._skip_unreadable, self._num_threads = fit, skip_unreadable, num_threads
        self._container = open_container(path, limits)
        self._layout = find_layout(self._container, layout or LayoutOptions())
        self.class_names = self._layout.class_names
        self.splits = tuple(self._layout.files)
        self._unreadable: list[str] = []
        self._max_megapixels = max_megapixels
        self._sample_bits, self._sizes = SampleBits(), PictureSizes()
        self.details = {
            "resize": f"bilinear, antialiased, {IN_WORDS[fit]}",
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

    def chunks(self, split: str) -> Iterator[Chunk]:
        labels = self._layout.files[split]
        members = self._container.members(labels.keys())
        with concurrent.futures.ThreadPoolExecutor(self._num_threads, "decoder") as pool:
            waiting: collections.deque[concurrent.futures.Future] = collections.deque()
            try:
                for batch in _batches(members):
                    waiting.append(pool.submit(self._decode, batch))
                    if len(waiting) > 2 * self._num_threads:
                        yield self._collect(waiting.popleft(), labels)
                while waiting:
                    yield self._collect(waiting.popleft(), labels)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self._report()
        self.notes += self._sample_bits.notes(self._container.path, split)

    def _decode(self, batch: list[Member]) -> list[tuple[str, Picture | str]]:
        """Returns (name, picture, or what is wrong with the file) of each member; runs in a thread."""
        decoded: list[tuple[str, Picture | str]] = []
        for member in batch:
            try:
                data = member.read()
                picture = decode_picture(data, size=self.image_size, fit=self.fit, max_megapixels=self._max_megapixels)
                decoded.append((member.name, picture))
                self._sizes.add((picture.width, picture.height))
            except (UnreadableFile, UnreadableImage) as error:
                decoded.append((member.name, str(error)))
        return decoded

    def _collect(self, future: concurrent.futures.Future, labels: dict[str, int]) -> Chunk:
        images, names = [], []
        for name, result in future.result():
            if isinstance(result, Picture):
                images.append(result.pixels)
                names.append(name)
                self._sample_bits.add(name, result)
            elif self._skip_unreadable:
                self._unreadable.append(f"{name}: {result}")
            else:
                raise UserError(
                    f"--input={self._container.path}: cannot read {printable(name)} ({result}); "
                    "mend or remove it, or add --skip_unreadable"
                )
        shape = (len(images), self.image_size, self.image_size, 3)
        stacked = np.stack(images) if images else np.zeros(shape, np.uint8)
        ids, groups = self._layout.ids, self._layout.groups
        return Chunk(
            stacked, np.array([labels[name] for name in names], np.int64), [ids[name] for name in names],
            [groups.get(name, "") for name in names] if groups else None,
        )  # fmt: skip

    def _report(self) -> None:
        new = len(self._unreadable) - self.details["unreadable"]
        if new:
            first = self._unreadable[self.details["unreadable"]]
            self.notes.append(
                f"{self._container.path}: left out {new:,} unreadable images, the first {printable(first)}"
            )
        self.details["unreadable"] = len(self._unreadable)
        self.details["unreadable_files"] = self._unreadable[:_NAMES_KEPT]
        self.details["picture_sizes"] = self._sizes.describe()


def _batches(members: Iterator[Member]) -> Iterator[list[Member]]:
    batch: list[Member] = []
    num_bytes = 0
    for member in members:
        batch.append(member)
        num_bytes += member.num_bytes
        if len(batch) >= _CHUNK_IMAGES or num_bytes >= _CHUNK_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def open_source(config: BuildConfig) -> Source:
    """Raises `UserError` as the source's constructor does."""
    return ImageFolderSource(
        path=config.input,
        image_size=config.image_size,
        fit=config.fitting_rule,
        skip_unreadable=config.skip_unreadable,
        num_threads=config.num_threads,
        layout=LayoutOptions(
            **{flag: getattr(config, flag) for flag in _LAYOUT_FLAGS},
            output_dir=config.output_dir,
            skip_missing=config.skip_unreadable,
        ),
        max_megapixels=config.max_megapixels,
        limits=config.archive_limits,
    )
