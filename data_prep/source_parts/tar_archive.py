"""Tars that nobody vouches for, plain or compressed, with bounded memory.

tarfile reads a header's long name, extended attributes and list of holes in whatever size they claim; here it reads
through a stream that hands out only so much for each member.
"""

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from data_prep.source_parts.archive_limits import (
    MAX_HEADER_BYTES,
    READ_BYTES,
    ArchiveLimits,
    RefusedArchive,
    check_name,
)
from data_prep.source_parts.member_names import text_of

_XZ_MEMORY_BYTES = 256 * 2**20  # of its dictionary; `xz -9` takes 64 MiB, and 4 GiB can be claimed
_OTHER_PACKERS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "zstandard"}


class _Stream:
    """The unpacked bytes of a tar; every read counts against an allowance, every position against the limit."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits):
        self._file, self._limits, self._allowance = file, limits, 0
        self.tell = file.tell
        self.last_read = b""

    def allow(self, num_bytes: int) -> None:
        """Lets so many bytes be read from now on."""
        self._allowance = num_bytes

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= self._allowance:
            raise RefusedArchive(
                f"a member's header (name, attributes) takes more than {MAX_HEADER_BYTES:,} bytes; not read"
            )
        self._allowance -= num_bytes
        self._limits.check_bytes(self.tell() + num_bytes)
        self.last_read = self._file.read(num_bytes)
        return self.last_read

    def is_followed(self) -> bool:
        """Tells whether more than padding follows soon; what is looked at is bounded, and counts against nothing."""
        return bool(self._file.read(READ_BYTES).strip(b"\0"))

    def seek(self, position: int) -> int:
        if position < 0:
            raise tarfile.ReadError("a header with a negative size")
        self._limits.check_bytes(position)  # before a compressed file is unpacked up to there
        return self._file.seek(position)


class TarReader:
    """A tar that is listed once from its front; then its members are read where they lie.

    Attributes:
      is_packed: Whether it is compressed, so that what lies before a member is unpacked to reach it.
    """

    def __init__(self, file: BinaryIO, limits: ArchiveLimits):
        unpacked = _unpacked(file)
        self.is_packed = unpacked is not file
        self._stream = _Stream(unpacked, limits)
        self._limits = limits

    def walk(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Yields the name and header of each member.

        Raises:
          RefusedArchive: More members or bytes than the limits, a header or a name too long.
          tarfile.TarError: Damaged or truncated; the decompressors raise other errors, too.
        """
        self._stream.allow(MAX_HEADER_BYTES)
        count = num_bytes = 0
        # Not tarfile's stream mode: it copies its whole buffer for every member.
        with tarfile.open(fileobj=self._stream, mode="r:") as tar:
            while (info := self._next(tar)) is not None:
                count += 1
                num_bytes += max(info.size, 0)
                self._limits.check_count(count)
                self._limits.check_bytes(num_bytes)
                check_name(info.name)
                if info.size < 0:
                    raise tarfile.ReadError(f"member {info.name!r} has a negative size")
                yield name_of(info, self._limits.archive_encoding), info
            self._check_end(tar)

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Returns bytes of the unpacked tar; calls that go forwards unpack it once.

        Raises:
          tarfile.TarError: It ends before; the decompressors raise other errors, too.
        """
        self._stream.seek(offset)
        parts = []
        while num_bytes:
            self._stream.allow(num_bytes)
            parts.append(self._stream.read(min(num_bytes, READ_BYTES)))
            num_bytes -= len(parts[-1])
            if not parts[-1]:
                raise tarfile.ReadError("unexpected end of data")
        return b"".join(parts)

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        tar.members.clear()  # else the list of a million members stays in memory,
        tar.pax_headers.clear()  # and all that global headers define
        self._stream.allow(MAX_HEADER_BYTES)
        return tar.next()

    def _check_end(self, tar: tarfile.TarFile) -> None:
        """Raises `tarfile.ReadError` where the list ends without its mark; tarfile takes a damaged header for it.

        Raises `RefusedArchive` where another list follows, of which tarfile, as tar, says nothing.
        """
        block = self._stream.last_read
        if block != bytes(tarfile.BLOCKSIZE):
            what = "a damaged header there" if block else "truncated?"
            raise tarfile.ReadError(f"it ends without a mark at byte {tar.offset:,}: {what}")
        if self._stream.is_followed():
            raise RefusedArchive(
                f"goes on after the mark of its end at byte {tar.offset:,}, as several tars that were joined do; "
                "unpack them (tar --ignore-zeros) and give the folder"
            )


def name_of(info: tarfile.TarInfo, encoding: str) -> str:
    """Returns a member's name.

    Args:
      info: Its header.
      encoding: As in `text_of`; a name in extended attributes (POSIX) is UTF-8.

    Raises:
      RefusedArchive: As `text_of`.
    """
    raw = info.name.encode("utf-8", "surrogateescape")  # tarfile keeps bytes that are not UTF-8 as surrogates
    if "path" in info.pax_headers:
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
    return text_of(raw, encoding)


def _unpacked(file: BinaryIO) -> BinaryIO:
    """Returns the bytes of the tar, which may be compressed by gzip, bzip2 or xz."""
    head = file.read(8)
    file.seek(0)
    for signature, packer in _OTHER_PACKERS.items():
        if head.startswith(signature):
            raise RefusedArchive(f"packed by {packer}, which is not read; unpack it, or pack it as .zip or .tar.gz")
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        _check_xz_memory(file)
        return lzma.LZMAFile(file)
    return file


def _check_xz_memory(file: BinaryIO) -> None:
    """Raises `RefusedArchive` if the first block wants more memory than any usual setting does."""
    try:
        lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES).decompress(file.read(4096), max_length=1)
    except lzma.LZMAError as error:
        if "limit" in str(error):
            raise RefusedArchive(
                f"its xz compression wants more than {_XZ_MEMORY_BYTES // 2**20} MiB of memory; not read"
            ) from None
    file.seek(0)
