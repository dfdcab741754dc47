"""Which files of a folder are pictures: one list for the build and for `predict`.

What file managers, backup programs, notebooks and operating systems leave in folders is no picture and no class.
"""

import dataclasses
import os
import posixpath
from collections import deque
from typing import BinaryIO

from tl_distributed.data.decode import EXTENSIONS

# Whatever begins with a point is junk too: .DS_Store, ._photo.jpg (macOS), .ipynb_checkpoints, .Trash-1000, .git.
JUNK = frozenset(
    name.casefold()
    for name in (
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),  # Synology, QNAP
        *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$RECYCLE.BIN", "RECYCLER"),  # Windows
        *("System Volume Information", "Picasa.ini", "ZbThumbnail.info"),
        *("__MACOSX", "Icon\r", "lost+found", "Network Trash Folder", "Temporary Items"),  # macOS, Linux
        "__pycache__",
    )
)

_UNREAD_EXTENSIONS = (
    ".heic", ".heif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".psd", ".svg", ".ppm",
    ".pgm", ".tga", ".dcm",
)  # fmt: skip
_MARKING_SCHEMES = ("gs://",)  # whose lists end the names of folders with a slash


def is_junk(path: str) -> bool:
    """Tells whether a file or folder, or a folder that holds it, is hidden or on the list of junk.

    Args:
      path: Below the folder that the user named, `/` between parts.
    """
    return any(part.startswith(".") or part.casefold() in JUNK for part in path.split("/") if part not in ("", "."))


def is_picture(path: str) -> bool:
    """Tells whether the file has the ending of a picture and is no junk."""
    return path.lower().endswith(EXTENSIONS) and not is_junk(path)


def is_unread_picture(path: str) -> bool:
    """Tells whether the file has the ending of a picture in a format that is not read, and is no junk."""
    return path.lower().endswith(_UNREAD_EXTENSIONS) and not is_junk(path)


def open_file(path: str) -> BinaryIO:
    """Opens a file to read; a local one without TensorFlow's detour, which takes no name that is not UTF-8."""
    import tensorflow as tf

    return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files and folders below a folder, junk left out.

    Attributes:
      files: Paths relative to the folder, `/` between parts, sorted.
      folders: Likewise.
      repeated: Links to folders that are listed already, sorted; a link that points upwards is one.
    """

    files: list[str]
    folders: list[str]
    repeated: list[str]


def list_folder(root: str) -> Listing:
    """Lists a folder, local or remote; links are followed, and each real folder is listed once.

    Raises:
      OSError, tf.errors.OpError: A folder that cannot be read.
    """
    listing = _list_remote(root) if "://" in root else _list_local(root)
    for names in (listing.files, listing.folders, listing.repeated):
        names.sort()
    return listing


def _list_local(root: str) -> Listing:
    listing = Listing([], [], [])
    seen = {os.path.realpath(root)}
    waiting, links = deque([("", os.path.realpath(root))]), deque()
    while waiting or links:  # what is really there comes first, so that a link is what repeats it
        below, real = waiting.popleft() if waiting else links.popleft()
        if below and real in seen:
            listing.repeated.append(below)
            continue
        if below:
            seen.add(real)
            listing.folders.append(below)
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = posixpath.join(below, entry.name)
                if is_junk(entry.name):
                    continue
                if _is_folder(entry):
                    target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
                    (links if entry.is_symlink() else waiting).append((path, target))
                elif entry.is_symlink() or entry.is_file():  # a broken link is named when it is read; a pipe would hang
                    listing.files.append(path)
    return listing


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which is as broken as one to nothing
        return False


def _list_remote(root: str) -> Listing:
    """Lists folder by folder; `tf.io.gfile.walk` asks of each file whether it is a folder, a request each."""
    import tensorflow as tf

    listing = Listing([], [], [])
    root, marks_folders = root.rstrip("/"), root.startswith(_MARKING_SCHEMES)
    waiting = deque([""])
    while waiting:
        below = waiting.popleft()
        for entry in tf.io.gfile.listdir(posixpath.join(root, below)):
            name = entry.rstrip("/")
            path = posixpath.join(below, name)
            if not name or is_junk(name):
                continue
            is_file = not entry.endswith("/") and (marks_folders or name.lower().endswith(EXTENSIONS))
            if is_file or not (entry.endswith("/") or tf.io.gfile.isdir(f"{root}/{path}")):
                listing.files.append(path)
            else:
                listing.folders.append(path)
                waiting.append(path)
    return listing
