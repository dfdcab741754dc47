"""Downloads of Keras's own weights, one at a time: the runs of a study that share a home begin at the same time."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

_LOCK_FILE = "download.lock"


def take_turns() -> None:
    """Has Keras's applications look for a file, and download it, while no other process does so in the same folder.

    Keras writes what it downloads under its last name, and of most files it knows no hash: another process would take
    the part that is there for the whole, or begin anew over what somebody reads.
    """
    from keras.src.utils import file_utils

    fetch = file_utils.get_file
    if getattr(fetch, "func", None) is _fetch_in_turn:  # in place already
        return
    file_utils.get_file = functools.partial(_fetch_in_turn, fetch=fetch, home=file_utils.config.keras_home)


def _fetch_in_turn(*arguments: Any, fetch: Any, home: Any, **keywords: Any) -> str:
    folder = os.path.join(keywords.get("cache_dir") or home(), keywords.get("cache_subdir", "datasets"))
    with _turn(os.path.expanduser(folder)):
        return fetch(*arguments, **keywords)


@contextlib.contextmanager
def _turn(folder: str) -> Iterator[None]:
    """Waits for the other processes; where the folder takes no lock, goes on without."""
    import fcntl

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            file = stack.enter_context(open(f"{folder}/{_LOCK_FILE}", "a"))
            fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file, however this process ends
        yield
