"""Zips that nobody vouches for: what headers claim is checked before zipfile acts on it.

Bombs this stands against: a member that inflates to more than it claims, members that share their bytes (David
Fifield, "A better zip bomb", WOOT 2019), a directory of millions of members or of a size that is only claimed.
"""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from data_prep.source_parts.archive_limits import (
    READ_BYTES,
    ArchiveLimits,
    RefusedArchive,
    UnreadableFile,
    check_name,
)
from data_prep.source_parts.member_names import is_utf8, text_of

_DIRECTORY_BYTES_PER_MEMBER = 256  # on the average; 46, the name, and a few of attributes
_LOCAL_HEADER_BYTES = 30  # without the name
_ENTRY_SIGNATURE = b"PK\x01\x02"
_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Guarded:
    """A file of which zipfile reads the directory, in one piece, only if its size and its count are within limits."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits):
        self._file, self._limits = file, limits
        self.seek, self.tell = file.seek, file.tell

    def read(self, num_bytes: int = -1) -> bytes:
        most = max(READ_BYTES, _DIRECTORY_BYTES_PER_MEMBER * self._limits.max_archive_members)
        if num_bytes > most:
            raise RefusedArchive(
                f"its directory claims {num_bytes:,} bytes, more than {most:,}: damaged, or raise --max_archive_members"
            )
        data = self._file.read(num_bytes)
        self._limits.check_count(data.count(_ENTRY_SIGNATURE))
        return data

    def seekable(self) -> bool:
        return True


def open_zip(file: BinaryIO, limits: ArchiveLimits) -> zipfile.ZipFile:
    """Opens a zip whose directory is within the limits and honest about where members lie.

    Raises:
      RefusedArchive: More members or bytes than the limits, a name too long, or members that overlap.
      zipfile.BadZipFile: Damaged; zipfile raises other errors, too.
    """
    archive = zipfile.ZipFile(_Guarded(file, limits))
    infos = archive.infolist()
    limits.check_count(len(infos))
    limits.check_bytes(sum(info.file_size for info in infos))
    for info in infos:
        check_name(info.orig_filename)
    by_offset = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in by_offset[1:]] + [archive.start_dir]
    for info, end in zip(by_offset, ends, strict=False):
        if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > end:
            raise RefusedArchive(f"member {info.filename!r} overlaps what follows it, as in a zip bomb; not read")
    return archive


def names_of(infos: Sequence[zipfile.ZipInfo], encoding: str) -> list[str]:
    """Returns the members' names with `/` between their parts.

    The format knows UTF-8, marked as such or in a field of its own, and code page 437, for which many programs put the
    code page of their country. Some of Windows write backslashes. Names that do not say what they are, are of one
    program: one that is not UTF-8 shows that none is, though short ones of other code pages often could be.

    Args:
      infos: Of the directory.
      encoding: As in `text_of`.

    Raises:
      RefusedArchive: As `text_of`.
    """
    names = [_told_name(info) for info in infos]
    raws = [None if name else info.orig_filename.encode("cp437") for info, name in zip(infos, names, strict=True)]
    are_utf8 = all(raw is None or is_utf8(raw) for raw in raws)
    texts = [
        name if raw is None else text_of(raw, encoding, are_utf8=are_utf8)
        for name, raw in zip(names, raws, strict=True)
    ]
    return [text.split("\0")[0].replace("\\", "/") for text in texts]


def _told_name(info: zipfile.ZipInfo) -> str:
    """Returns the name of a member that says its encoding, or ""."""
    if info.flag_bits & _UTF8_FLAG:
        return info.orig_filename
    return _unicode_path(info.extra, info.orig_filename.encode("cp437"))  # as zipfile read it


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """Returns the name in Info-ZIP's field, which WinRAR writes too, where it is of the stored name; or ""."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and field[:1] == b"\x01" and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            with contextlib.suppress(UnicodeDecodeError):
                return field[5:].decode("utf-8")
    return ""


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, max_bytes: int) -> bytes:
    """Returns the member's bytes; inflates no more than it claims to have. Safe from any thread.

    Raises:
      UnreadableFile: It claims more than `max_bytes`, is encrypted, damaged, or compressed in another way than
        deflate.
    """
    if info.file_size > max_bytes:
        raise UnreadableFile(f"claims {info.file_size:,} bytes, more than {max_bytes:,}")
    if info.compress_type not in _METHODS:
        method = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")
        raise UnreadableFile(f"is compressed by {method}; only stored and deflate are read, so pack the zip anew")
    try:
        with archive.open(info) as file:  # checks the checksum at the end
            return b"".join(iter(lambda: file.read(READ_BYTES), b""))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise UnreadableFile(str(error)) from None
