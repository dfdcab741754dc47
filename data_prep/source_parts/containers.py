"""A folder, a zip or a tar as a list of files to read; archives are never unpacked to the disk.

Untrusted archives: a member that is absolute, climbs with `..` or is a link is refused, as is one that claims an
absurd size; what is read of headers, names, members and of the whole is bounded (`archive_limits`).
"""

import abc
import contextlib
import dataclasses
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
    def members(self, names: Collection[str]) -> Iterator[Member]:
        """Yields the named files, in an order that is always the same but not always that of `names`."""


def open_container(path: str, limits: ArchiveLimits | None = None, *, names: Sequence[str] | None = None) -> Container:
    """Opens the folder or archive at `path` and lists it.

    Args:
      path: Of a folder, zip or tar (plain or compressed).
      limits: Of an archive; None: the default ones.
      names: The files that are known to be there, sorted, and are all that is wanted: then nothing is listed.

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
            return _Folder(path, names)
        with open_file(path) as file, _archive_errors(path):
            is_zip = zipfile.is_zipfile(file)
        return _Zip(path, limits) if is_zip else _Tar(path, limits, names)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--input={path}: cannot be read ({error})") from None


class _Folder(Container):
    def __init__(self, path: str, names: Sequence[str] | None):
        self.path = path.rstrip("/") or "/"
        if names is not None:
            self.files, self.folders = list(names), []
            return
        listing = list_folder(self.path)
        self.files, self.folders, self.repeated = listing.files, listing.folders, listing.repeated

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
        self.path = path
        file = open_file(path)  # stays open as long as the container lives
        with _archive_errors(path):
            self._zip = zip_archive.open_zip(file, limits)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        folders = set()
        for info in self._zip.infolist():
            stored_name = zip_archive.name_of(info)
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
        self.files, self.folders = sorted(self._infos), sorted(folders)

    def members(self, names: Collection[str]) -> Iterator[Member]:
        for name in sorted(names):
            yield Member(name, self._infos[name].file_size, lambda name=name: self._read(self._infos[name]))

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        return zip_archive.read_member(self._zip, info, max_bytes=MAX_FILE_BYTES)


class _Tar(Container):
    """Any tar that Python knows: plain, gzip, bzip2, xz. A compressed one is read from the front for every pass."""

    is_random_access = False

    def __init__(self, path: str, limits: ArchiveLimits, names: Sequence[str] | None):
        self.path, self._limits = path, limits
        if names is not None:
            self.files, self.folders = list(names), []
            return
        files, folders = set(), set()
        with open_file(path) as file, _archive_errors(path):
            for stored_name, info in TarReader(file, limits).walk():
                name = _safe_name(stored_name, path)
                if info.isdir():
                    folders.add(name)
                elif not info.isreg():
                    raise UserError(
                        f"--input={path}: {stored_name!r} is a link or device; an archive may hold files and "
                        "folders only"
                    )
                elif name in files:
                    raise UserError(f"--input={path}: holds {name!r} twice")
                else:
                    files.add(name)
        self.files, self.folders = sorted(files), sorted(folders)

    def members(self, names: Collection[str]) -> Iterator[Member]:
        wanted = frozenset(names)
        with open_file(self.path) as file, _archive_errors(self.path):
            reader = TarReader(file, self._limits)
            for stored_name, info in reader.walk():
                name = posixpath.normpath(stored_name)
                if name in wanted and info.isreg():
                    yield _read_now(name, info, reader)


def _raise(error: Exception) -> NoReturn:
    raise error


def _read_now(name: str, info: tarfile.TarInfo, reader: TarReader) -> Member:
    """Returns a member that holds its bytes, or why it has none: a tar is read where it stands."""
    try:
        data = reader.read(info, max_bytes=MAX_FILE_BYTES)
    except UnreadableFile as error:
        return Member(name, 0, lambda cause=str(error): _raise(UnreadableFile(cause)))
    return Member(name, info.size, lambda: data)


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
