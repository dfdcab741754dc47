"""Where a build grows until it is complete, and the step that makes it appear.

A build lives in `<output_dir>.partial`, beside its goal and so on the same disk:

  lock       held by the running build; the system frees it however that process ends
  build/     the data set; `dataset.json` is written into it last
  replaced/  with `--overwrite`, for the moment between two renames: the data set of before
  spill/, ids.raw   the first pass
  shared/    what workers of `--engine=beam` leave for one another

A folder whose lock is free was left by a build that was killed: `replaced/` goes back to its place and the
rest is deleted, as if that build had never been. Object stores (`gs://`) have no rename of folders: the build
grows in the local temporary folder, the shards are copied, and `dataset.json`, copied last, is the moment at which
the data set exists.
"""

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from data_prep.preview import PREVIEW_FILE
from tl_distributed.data.ids import ids_name
from tl_distributed.data.records import MANIFEST_FILE, SPLITS
from tl_distributed.errors import UserError
from tl_distributed.files import LockedError, file_lock, holder_line, is_remote, sync

_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord(\.index)?")
_OWN_NAMES = frozenset([MANIFEST_FILE, PREVIEW_FILE, *map(ids_name, SPLITS)])


class Staging:
    """The folders of a running build; see `open_staging`.

    Attributes:
      build_dir: Local folder to write shards and `dataset.json` into.
      spill_dir: Folder of the first pass's pictures, local too, which does not exist yet.
      id_path: Likewise the path of its file of ids.
      shard_dir: Folder of the shards; `build_dir`, unless other machines write them to an object store.
    """

    def __init__(self, folder: str, output_dir: str):
        self._folder, self._output_dir = folder, output_dir
        self.build_dir = os.path.join(folder, "build")
        self.spill_dir = os.path.join(folder, "spill")
        self.id_path = os.path.join(folder, "ids.raw")
        self.shard_dir, self._shared_dir = self.build_dir, ""
        os.mkdir(self.build_dir)

    def make_shared_dir(self) -> str:
        """Makes a folder for what workers on other machines leave for one another, which lies beside the output.

        On an object store the shards are written beside the output, too, and take their place when all are there.
        """
        import tensorflow as tf

        self._shared_dir = os.path.join(self._folder, "shared")
        if is_remote(self._output_dir):
            self._shared_dir = f"{_remote_partial(self._output_dir)}/{uuid.uuid4().hex}"
            self.shard_dir = f"{self._shared_dir}/build"
            tf.io.gfile.makedirs(self.shard_dir)
        tf.io.gfile.makedirs(self._shared_dir)
        return self._shared_dir

    def remove_shared_dir(self) -> None:
        """Deletes the shared folder of an object store; a local one goes with the rest."""
        import tensorflow as tf

        if is_remote(self._shared_dir):
            tf.io.gfile.rmtree(self._shared_dir)

    def publish(self) -> None:
        """Makes the complete build the data set at the output folder, in place of what is there."""
        if is_remote(self._output_dir):
            import tensorflow as tf

            try:
                _copy_to_remote(self.build_dir, self.shard_dir, self._output_dir)
            except tf.errors.OpError as error:
                raise UserError(
                    f"--output_dir={self._output_dir}: copying failed ({error.message}); what it holds now is "
                    "unfinished, run the build again"
                ) from error
        else:
            _rename_into_place(self.build_dir, os.path.join(self._folder, "replaced"), self._output_dir)


@contextlib.contextmanager
def open_staging(output_dir: str, *, overwrite: bool) -> Iterator[Staging]:
    """Checks that a build may go to `output_dir` and yields a place for it to grow.

    Everything the build left there is deleted at the end, also after an error or Ctrl-C.

    Raises:
      UserError: A finished data set is there and `overwrite` is false, something that is no data set is
        there, the folder cannot be made, or another build for it is running.
    """
    if is_remote(output_dir):
        _check_output(output_dir, overwrite)
        with tempfile.TemporaryDirectory(prefix="build_tfrecords-") as folder:
            _tell_of_left(output_dir)
            place = Staging(folder, output_dir)
            try:
                yield place
            finally:
                place.remove_shared_dir()
        return
    goal = os.path.realpath(output_dir)  # a link to a folder stays a link
    folder = goal + ".partial"
    with _locked(folder):
        _undo_killed_build(folder, goal)
        try:
            _check_output(output_dir, overwrite)
            yield Staging(folder, goal)
        finally:
            _put_back(folder, goal)
            shutil.rmtree(folder, ignore_errors=True)


def _check_output(output_dir: str, overwrite: bool) -> None:
    import tensorflow as tf

    if not tf.io.gfile.exists(output_dir):
        return
    if not tf.io.gfile.isdir(output_dir):
        raise UserError(f"--output_dir={output_dir} is a file; name a folder")
    entries = [entry.rstrip("/") for entry in tf.io.gfile.listdir(output_dir)]
    foreign = sorted(entry for entry in entries if entry not in _OWN_NAMES and not _SHARD_NAME.fullmatch(entry))
    if foreign:
        raise UserError(
            f"--output_dir={output_dir} holds {foreign[0]!r}, which is no part of a data set and would be lost; "
            "name another folder"
        )
    if MANIFEST_FILE in entries and not overwrite:
        raise UserError(
            f"--output_dir={output_dir} holds a finished data set; add --overwrite to replace it or name another folder"
        )
    if not is_remote(output_dir) and os.path.samefile(output_dir, os.curdir):
        raise UserError(
            f"--output_dir={output_dir} is the folder that this command runs in, which the data set would replace; run "
            "it from another one, or name a folder inside it"
        )
    if not is_remote(output_dir) and os.path.ismount(output_dir):
        raise UserError(f"--output_dir={output_dir} is a mount point and cannot be replaced; name a folder inside it")


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            reason = stack.enter_context(file_lock(os.path.join(folder, "lock")))
        except (LockedError, FileNotFoundError) as error:  # not found: the other build has just removed the folder
            holder = holder_line(error.holder) if isinstance(error, LockedError) else "another process"
            raise UserError(
                f"another build is writing {folder} ({holder}); wait for it to end, or name another --output_dir"
            ) from None
        except OSError as error:
            raise UserError(f"cannot make {folder} ({error.strerror}); name another --output_dir") from None
        if reason:
            print(f"{folder} is not locked ({reason}): see to it that no other build writes there", flush=True)
        yield


def _undo_killed_build(folder: str, goal: str) -> None:
    left = [entry for entry in os.listdir(folder) if entry != "lock"]
    if not left:
        return
    if _put_back(folder, goal):
        print(f"{goal}: put back, a build was killed while it replaced it", flush=True)
    print(f"{folder}: deleting what a build left that was killed", flush=True)
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif entry != "lock":
            os.remove(path)


def _put_back(folder: str, goal: str) -> bool:
    """Returns the data set of before to its place if a build stopped between its two renames; tells whether it did."""
    replaced = os.path.join(folder, "replaced")
    if not os.path.exists(replaced) or os.path.exists(goal):
        return False
    os.rename(replaced, goal)
    return True


def _rename_into_place(build_dir: str, replaced: str, goal: str) -> None:
    if os.path.exists(goal):
        os.rename(goal, replaced)
    os.rename(build_dir, goal)
    sync(os.path.dirname(goal))  # the renames survive a power failure


def _remote_partial(output_dir: str) -> str:
    """Returns the folder beside a remote output that builds of other machines leave their work in."""
    parent, _, name = output_dir.rstrip("/").rpartition("/")
    return f"{parent}/.{name}.partial"


def _tell_of_left(output_dir: str) -> None:
    import tensorflow as tf

    folder = _remote_partial(output_dir)
    if tf.io.gfile.exists(folder) and tf.io.gfile.listdir(folder):
        print(f"{folder}: left by a build that was killed, unless one is running; delete it then", flush=True)


def _copy_to_remote(build_dir: str, shard_dir: str, output_dir: str) -> None:
    import tensorflow as tf

    output_dir = output_dir.rstrip("/")
    names = sorted(os.listdir(build_dir))
    names.remove(MANIFEST_FILE)
    tf.io.gfile.makedirs(output_dir)
    manifest = f"{output_dir}/{MANIFEST_FILE}"
    if tf.io.gfile.exists(manifest):  # from here until the end nothing can be read, not even the old
        tf.io.gfile.remove(manifest)
    for entry in tf.io.gfile.listdir(output_dir):
        tf.io.gfile.remove(f"{output_dir}/{entry}")
    if shard_dir != build_dir:
        for name in sorted(tf.io.gfile.listdir(shard_dir)):
            tf.io.gfile.rename(f"{shard_dir}/{name}", f"{output_dir}/{name}", overwrite=True)
    for name in [*names, MANIFEST_FILE]:
        tf.io.gfile.copy(os.path.join(build_dir, name), f"{output_dir}/{name}", overwrite=True)
