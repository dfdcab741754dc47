"""How much of an archive is believed: nobody vouches for what its headers claim."""

import dataclasses

from tl_distributed.errors import UserError
from tl_distributed.settings.flags import setting

MAX_NAME_BYTES = 4096  # no file system has longer paths
MAX_HEADER_BYTES = 2**16  # of one member of a tar, with its long name and extended attributes
READ_BYTES = 2**20  # of a member at once
GIB = 2**30
_ASCII = b"train/Cat_09.png"


class UnreadableFile(ValueError):
    """One file cannot be read though the rest of its container can; the message says how."""


class RefusedArchive(Exception):
    """An archive is whole perhaps, but not read; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class ArchiveLimits:
    """Flags of whoever reads a zip or tar."""

    max_archive_members: int = setting(
        2_000_000, "Files and folders that a zip or tar may hold.", topic="Source", minimum=1
    )
    max_archive_gib: float = setting(
        256.0,
        "GiB that the files of a zip or tar may hold, unpacked; a few kilobytes can claim any number.",
        topic="Source",
        minimum=0.001,
    )
    archive_encoding: str = setting(
        "",
        "Encoding of the names in a zip or tar that do not say it, e.g. gbk, cp932, cp866, cp437; empty: UTF-8, and "
        "pictures of other names are refused.",
        topic="Source",
    )

    def check_count(self, count: int) -> None:
        """Raises `RefusedArchive` for more members than the limit."""
        if count > self.max_archive_members:
            raise RefusedArchive(
                f"holds more than --max_archive_members={self.max_archive_members} files and folders; raise the flag "
                "if you trust the archive"
            )

    def check_bytes(self, num_bytes: int) -> None:
        """Raises `RefusedArchive` for more bytes than the limit."""
        if num_bytes > self.max_archive_gib * GIB:
            raise RefusedArchive(
                f"holds, or claims to hold, more than --max_archive_gib={self.max_archive_gib:g} GiB unpacked; raise "
                "the flag if you trust the archive"
            )


def check_name(name: str) -> None:
    """Raises `RefusedArchive` for a name that no file system would take."""
    num_bytes = len(name.encode("utf-8", "surrogateescape"))
    if num_bytes > MAX_NAME_BYTES:
        raise RefusedArchive(
            f"a member's name has {num_bytes:,} bytes, more than {MAX_NAME_BYTES:,} ({name[:40]!r}...)"
        )


def check_encoding(encoding: str) -> None:
    """Raises `UserError` where `--archive_encoding` is none that Python knows, or one in which ASCII is not itself."""
    try:
        is_fit = not encoding or _ASCII.decode(encoding) == _ASCII.decode("ascii")
    except (LookupError, ValueError):
        is_fit = False
    if not is_fit:
        raise UserError(
            f"--archive_encoding={encoding}: no encoding of names that Python knows; e.g. gbk, big5, cp932 (Japanese), "
            "cp949 (Korean), cp866 (Russian), cp850 (western Europe)"
        )
