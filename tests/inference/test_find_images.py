"""Which files `predict` takes of what it is given."""

import os

import pytest

from tl_distributed.errors import UserError
from tl_distributed.inference.predictions import find_images


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_folders_give_their_pictures_and_no_junk(tmp_path):
    names = ("1.png", "a/2.JPG", "._1.png", ".hidden/3.png", "a/@eaDir/2.JPG/thumb.jpg", "Thumbs.db", "notes.txt",
             ".ipynb_checkpoints/1-checkpoint.png", "__MACOSX/1.png")  # fmt: skip
    make(tmp_path / "photos", *names)
    (tmp_path / "photos/a/up").symlink_to("..")
    root = str(tmp_path / "photos")
    assert find_images([root]) == [f"{root}/1.png", f"{root}/a/2.JPG"]


def test_what_is_named_is_taken_whatever_it_is_called(tmp_path):
    make(tmp_path, ".cache/set/1.png", "._odd.png", "x")
    paths = [str(tmp_path / "._odd.png"), str(tmp_path / "x")]
    assert find_images(paths) == paths
    assert find_images([str(tmp_path / ".cache/set")]) == [str(tmp_path / ".cache/set/1.png")]


def test_names_that_are_not_utf8_are_taken(tmp_path):
    make(tmp_path, "photos/1.png")
    os.rename(tmp_path / "photos/1.png", bytes(tmp_path) + b"/photos/caf\xe9.png")
    assert [os.fsencode(path) for path in find_images([str(tmp_path / "photos")])] == [
        bytes(tmp_path) + b"/photos/caf\xe9.png"
    ]


def test_folder_without_pictures_is_named(tmp_path):
    make(tmp_path, "photos/._1.png")
    with pytest.raises(UserError, match="photos: no images in this folder"):
        find_images([str(tmp_path / "photos")])
