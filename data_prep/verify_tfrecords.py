"""Reads a whole data set again and checks it against its dataset.json: CRCs, SHA-256, indices, ids, counts,
labels, and that every picture decodes.

  python -m data_prep.verify_tfrecords --data_dir=data/cifar10

Prints a table of what is there. Else one line names the first bad shard and record (counted from 0); exit code 2.
"""

import functools

from data_prep.config import VerifyConfig
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command


def main(config: VerifyConfig, positional: list[str]) -> int:
    """Verifies the data set and prints its counts."""
    refuse_positional(positional)
    import_tensorflow()  # late: `--help` needs none of it
    import tensorflow as tf

    from data_prep import manifest
    from tl_distributed.data import verify
    from tl_distributed.data.decoder import decoder_line

    tf.config.set_visible_devices([], "GPU")  # reading is the host's work; a GPU may be training
    info = verify.verify(config.data_dir)
    print(manifest.table(info))
    if info.decoder:
        print(decoder_line(info.decoder))
    print(f"{config.data_dir}: every shard and record is as dataset.json says")
    return 0


run = functools.partial(run_command, main, VerifyConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
