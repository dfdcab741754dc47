"""What the name of an archive's member says, where the archive does not tell in which encoding it is."""

from data_prep.source_parts.archive_limits import RefusedArchive
from tl_distributed.data.picture_files import is_picture

_SHOWN = "cp437"  # a character for every byte, and no control characters among those beyond ASCII


def text_of(raw: bytes, encoding: str) -> str:
    """Returns the name of a member that does not say its encoding.

    UTF-8 is what most programs write, also where the format asks for a mark that they leave out. What is neither that
    nor of the encoding that the user names is refused where it is a picture's: its folders would be classes of another
    name. Of other files nobody asks.

    Args:
      raw: The name as it is stored.
      encoding: `--archive_encoding`, or "".

    Raises:
      RefusedArchive: With the name and the flag.
    """
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        shown = raw.decode("ascii", "backslashreplace")
    if encoding:
        raise RefusedArchive(f"the name of member '{shown}' is not in --archive_encoding={encoding}; name another one")
    if is_picture(raw.decode(_SHOWN)):
        raise RefusedArchive(
            f"the name of member '{shown}' is not UTF-8 and may be in any encoding; say which by --archive_encoding "
            "(e.g. gbk, cp932, cp866, cp437), or unpack it and give the folder"
        )
    return raw.decode(_SHOWN)
