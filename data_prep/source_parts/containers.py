"""A folder, a zip or a tar as a list of files to read; archives are never unpacked to the disk.

Untrusted archives: a member that is absolute, climbs with `..` or is a link is refused, as is one that claims an
absurd size; what is read of headers, names, members and of the whole is bounded (`archive_limits`).
"""

import abc
import array
import bisect
import contextlib
import copy
import dataclasses
import functools
import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NoReturn

from data_prep.source_parts import zip_archive
from data_prep.source_parts.archive_limits import ArchiveLimits, RefusedArchive, UnreadableFile
from data_prep.source_parts.tar_archive import TarReader
from tl_distributed.data.picture_files import list_folder, open_file
from tl_distributed.errors import UserError, one_line

MAX_FILE_BYTES = 512 * 2**20  # no photograph is larger; a few kilobytes of zip can claim to be
_ROOT = "."  # a member of archives that `tar -C FOLDER -cf a.tar .` packs: the folder itself


@dataclasses.dataclass(frozen=True)
class Member:
    """One file: its path within the container, its size in bytes, and a function that reads it from any thread.

    `read` raises `UnreadableFile`.
    """

    name: str
    num_bytes: int
    read: Callable[[], bytes]


class Container(abc.ABC):
    """Files below one root.

    Attributes:
      path: Of the folder or archive.
      files: Paths of the regular files relative to the root, `/` between parts, sorted.
      folders: Paths of the folders, sorted; an archive may leave out folders that hold files.
      repeated: Links of a folder that were not followed, because what they point to is listed already.
      is_random_access: Whether any file can be read without those before it.
    """

    path: str
    files: list[str]
    folders: list[str]
    repeated: Sequence[str] = ()
    is_random_access = True

    @abc.abstractmethod
    def only(self, names: Sequence[str]) -> "Container":
        """Returns a container of these files alone, which may be sent to another process."""

    @abc.abstractmethod
    def members(self, names: Collection[str]) -> Iterator[Member]:
        """Yields the named files, in an order that is always the same but not always that of `names`."""


def open_container(path: str, limits: ArchiveLimits | None = None) -> Container:
    """Opens the folder or archive at `path` and lists it.

    Args:
      path: Of a folder, zip or tar (plain or compressed).
      limits: Of an archive; None: the default ones.

    Raises:
      UserError: Nothing there, neither folder nor archive, damaged, over the limits, or with members that are
        refused.
    """
    import tensorflow as tf

    limits = limits or ArchiveLimits()

    try:
        if not tf.io.gfile.exists(path):
            raise UserError(f"--input={path}: no such file or folder")
        if tf.io.gfile.isdir(path):
            return _Folder(path)
        with open_file(path) as file, _archive_errors(path):
            is_zip = zipfile.is_zipfile(file)
        return _Zip(path, limits) if is_zip else _Tar(path, limits)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--input={path}: cannot be read ({error})") from None


class _Folder(Container):
    def __init__(self, path: str):
        self.path = path.rstrip("/") or "/"
        listing = list_folder(self.path)
        self.files, self.folders, self.repeated = listing.files, listing.folders, listing.repeated

    def only(self, names: Sequence[str]) -> Container:
        part = copy.copy(self)
        part.files, part.folders, part.repeated = sorted(names), [], ()
        return part

    def members(self, names: Collection[str]) -> Iterator[Member]:
        for name in sorted(names):
            yield Member(name, 0, lambda name=name: self._read(name))

    def _read(self, name: str) -> bytes:
        import tensorflow as tf

        try:
            with open_file(posixpath.join(self.path, name)) as file:
                return file.read()
        except (OSError, tf.errors.OpError) as error:
            cause = getattr(error, "message", None) or getattr(error, "strerror", None) or error
            raise UnreadableFile(str(cause)) from None


class _Zip(Container):
    def __init__(self, path: str, limits: ArchiveLimits):
        self.path, self._limits = path, limits
        file = open_file(path)  # stays open as long as the container lives
        with _archive_errors(path):
            self._zip = zip_archive.open_zip(file, limits)
            stored_names = zip_archive.names_of(self._zip.infolist(), limits.archive_encoding)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        folders = set()
        for info, stored_name in zip(self._zip.infolist(), stored_names, strict=True):
            name = _safe_name(stored_name, path)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(
                    f"--input={path}: {stored_name!r} is a link; an archive may hold files and folders only"
                )
            if stored_name.endswith("/"):
                folders.add(name)
            elif name in self._infos:
                raise UserError(f"--input={path}: holds {name!r} twice")
            else:
                self._infos[name] = info
        self.files, self.folders = sorted(self._infos), sorted(folders - {_ROOT})

    def only(self, names: Sequence[str]) -> Container:
        return _ClosedZip(self.path, self._limits, names)

    def members(self, names: Collection[str]) -> Iterator[Member]:
        for name in sorted(names):
            yield Member(name, self._infos[name].file_size, lambda name=name: self._read(self._infos[name]))

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        return zip_archive.read_member(self._zip, info, max_bytes=MAX_FILE_BYTES)


class _ClosedZip(Container):
    """Some files of a zip, whose directory is read again by who reads them."""

    def __init__(self, path: str, limits: ArchiveLimits, names: Sequence[str]):
        self.path, self._limits = path, limits
        self.files, self.folders = sorted(names), []

    def only(self, names: Sequence[str]) -> Container:
        return _ClosedZip(self.path, self._limits, names)

    def members(self, names: Collection[str]) -> Iterator[Member]:
        yield from open_container(self.path, self._limits).members(names)


class _Tar(Container):
    """Any tar that Python knows: plain, gzip, bzip2, xz. Listed once, with where each file lies."""

    def __init__(self, path: str, limits: ArchiveLimits):
        self.path, self._limits = path, limits
        places: dict[str, tuple[int, int]] = {}
        folders = set()
        self._sparse: dict[str, list[tuple[int, int]]] = {}  # of files with holes: the parts that are there
        with open_file(path) as file, _archive_errors(path):
            reader = TarReader(file, limits)
            self.is_random_access = not reader.is_packed
            for stored_name, info in reader.walk():
                name = _safe_name(stored_name, path)
                if info.isdir():
                    folders.add(name)
                elif not info.isreg():
                    raise UserError(
                        f"--input={path}: {stored_name!r} is a link or device; an archive may hold files and "
                        "folders only"
                    )
                elif name in places:
                    raise UserError(f"--input={path}: holds {name!r} twice")
                else:
                    places[name] = info.offset_data, info.size
                    if info.sparse:
                        self._sparse[name] = info.sparse
        self.files, self.folders = sorted(places), sorted(folders - {_ROOT})
        self._offsets = array.array("q", (places[name][0] for name in self.files))
        self._sizes = array.array("q", (places[name][1] for name in self.files))

    def only(self, names: Sequence[str]) -> Container:
        part = copy.copy(self)
        part.files, part.folders = sorted(names), []
        places = [bisect.bisect_left(self.files, name) for name in part.files]
        part._offsets, part._sizes = (
            array.array("q", map(column.__getitem__, places)) for column in (self._offsets, self._sizes)
        )
        part._sparse = {name: self._sparse[name] for name in names if name in self._sparse}
        return part

    def members(self, names: Collection[str]) -> Iterator[Member]:
        places = sorted((bisect.bisect_left(self.files, name) for name in names), key=self._offsets.__getitem__)
        with open_file(self.path) as file, _archive_errors(self.path):
            reader = TarReader(file, self._limits)
            for place in places:
                yield self._read_now(place, reader)

    def _read_now(self, place: int, reader: TarReader) -> Member:
        """Returns a member that holds its bytes, or why it has none: a tar is read where it stands."""
        name, offset, size = self.files[place], self._offsets[place], self._sizes[place]
        if size > MAX_FILE_BYTES:
            return Member(name, 0, functools.partial(_raise, f"has {size:,} bytes, more than {MAX_FILE_BYTES:,}"))
        if name not in self._sparse:
            data = reader.read_at(offset, size)
        else:
            parts = bytearray(size)
            for start, length in self._sparse[name]:
                parts[start : start + length] = reader.read_at(offset, length)
                offset += length
            data = bytes(parts)
        return Member(name, size, lambda: data)


def _raise(cause: str) -> NoReturn:
    raise UnreadableFile(cause)


def _safe_name(name: str, archive: str) -> str:
    """Returns the normalised path of a member, e.g. `train/cat` of `./train//cat/`."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:3] in (":\\", ":/"):
        raise UserError(f"--input={archive}: member {name!r} lies outside the archive's folder; not read")
    return posixpath.normpath(name)


@contextlib.contextmanager
def _archive_errors(path: str) -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except RefusedArchive as error:
        raise UserError(f"--input={path}: {error}") from None
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        tf.errors.OpError,
    ) as error:
        raise UserError(f"--input={path}: not a tar or zip archive, or a damaged one ({one_line(error)})") from None
