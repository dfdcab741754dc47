"""What to say of a folder that holds no finished data set."""

import shlex

from tl_distributed.errors import UserError
from tl_distributed.files import why_not_reached

_BUILD = "python -m data_prep.build_tfrecords"
_MOST_NAMED = 3  # data sets in a folder above them
_MOST_TRIED = 100  # entries that are looked into: a bucket answers each question in tens of milliseconds


def missing_manifest(data_dir: str, manifest: str) -> UserError:
    """Returns what is wrong with `--data_dir`, a folder without a file of the name `manifest`, and what to do."""
    import tensorflow as tf

    folder = data_dir.rstrip("/") or data_dir
    path = f"{folder}/{manifest}"
    if reason := why_not_reached(path):
        return UserError(f"--data_dir={data_dir}: {path} cannot be reached ({reason}); check the path")
    found, remedy = "no such folder", f"build the data set with {_BUILD} --output_dir={shlex.quote(data_dir)}"
    # A build grows in `<folder>.partial`; killed between its last two renames, it leaves only that.
    if tf.io.gfile.exists(f"{folder}.partial"):
        found = "an unfinished build"
    elif tf.io.gfile.exists(folder):
        names = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder))
        if not names or any(".tfrecord" in name for name in names):
            found = "an unfinished build"
        elif sets := [name for name in names[:_MOST_TRIED] if tf.io.gfile.exists(f"{folder}/{name}/{manifest}")]:
            found = "it is in a folder of this one"
            remedy = "name " + " or ".join(
                f"--data_dir={shlex.quote(f'{folder}/{name}')}" for name in sets[:_MOST_NAMED]
            )
        else:
            found = f"but {names[0]!r}" + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
            remedy = (
                f"of a folder of pictures build a data set with {_BUILD} --source=image_folder "
                f"--input={shlex.quote(folder)} --output_dir={shlex.quote(f'{folder}_records')}, and name that"
            )
    return UserError(f"--data_dir={data_dir}: no {manifest} there ({found}); {remedy}")
