"""Builds of a small folder of pictures: their config, what they leave, and the command in this process."""

import pathlib

import pytest

from data_prep import build_tfrecords
from data_prep.config import BuildConfig
from tl_distributed.settings.command import run_command

COUNTS = {"train/cat": 20, "train/dog": 10, "test/cat": 4, "test/dog": 4}


def make_config(input_path, output_dir, **settings):
    settings = {"source": "image_folder", "image_size": 8, "num_shards": 3, **settings}
    return BuildConfig(input=str(input_path), output_dir=str(output_dir), **settings)


def read_raw(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def run(arguments, capsys):
    """Runs the command in this process; returns (exit code, standard output, standard error)."""
    with pytest.raises(SystemExit) as exit_info:
        run_command(build_tfrecords.main, BuildConfig, build_tfrecords.__doc__, arguments)
    captured = capsys.readouterr()
    return exit_info.value.code, captured.out, captured.err
