"""What the name of an archive's member says, where the archive does not tell in which encoding it is."""

import contextlib

from data_prep.source_parts.archive_limits import RefusedArchive
from tl_distributed.data.picture_files import is_picture

_SHOWN = "cp437"  # a character for every byte, and no control characters among those beyond ASCII


def is_utf8(raw: bytes) -> bool:
    """Tells whether bytes are UTF-8."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def text_of(raw: bytes, encoding: str, *, are_utf8: bool = True) -> str:
    """Returns the name of a member that does not say its encoding.

    UTF-8 is what most programs write, also where the format asks for a mark that they leave out. What is neither that
    nor of the encoding that the user names is refused where it is a picture's: its folders would be classes of another
    name. Of other files nobody asks.

    Args:
      raw: The name as it is stored.
      encoding: `--archive_encoding`, or "".
      are_utf8: Whether the other names that the same program wrote are UTF-8.

    Raises:
      RefusedArchive: With the name and the flag.
    """
    shown = raw.decode("ascii", "backslashreplace")
    if encoding or are_utf8 or raw.isascii():
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode(encoding or "utf-8")
    if encoding:
        raise RefusedArchive(f"the name of member '{shown}' is not in --archive_encoding={encoding}; name another one")
    if is_picture(raw.decode(_SHOWN)):
        why = "lies beside names that are not UTF-8" if is_utf8(raw) else "is not UTF-8"
        raise RefusedArchive(
            f"the name of member '{shown}' {why} and may be in any encoding; say which by --archive_encoding "
            "(e.g. gbk, cp932, cp866, cp437), or unpack it and give the folder"
        )
    return raw.decode(_SHOWN)
