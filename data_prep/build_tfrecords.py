"""Builds a data set: images in, shuffled TFRecord shards with a `dataset.json` out.

  python -m data_prep.build_tfrecords                                      CIFAR-10 into data/cifar10
  python -m data_prep.build_tfrecords --source=image_folder --input=photos.zip --output_dir=data/photos --image_size=224
  python -m data_prep.build_tfrecords --source=synthetic --output_dir=data/synthetic     needs nothing, offline

The folder appears when it is complete. The same images, seed and flags give the same bytes.
"""

import functools
import time

from data_prep.config import BuildConfig
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command


def main(config: BuildConfig, positional: list[str]) -> int:
    """Builds what the flags describe and prints its counts and what was understood."""
    refuse_positional(positional)
    import_tensorflow()  # late: `--help` needs none of it
    import tensorflow as tf

    from data_prep import build, manifest, summary

    tf.config.set_visible_devices([], "GPU")  # preparing is the host's work; a GPU may be training
    start = time.monotonic()
    info = build.build(config)
    print(manifest.table(info))
    print(summary.text(info))
    print(f"{config.output_dir}: finished in {time.monotonic() - start:.1f} s")
    return 0


run = functools.partial(run_command, main, BuildConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
