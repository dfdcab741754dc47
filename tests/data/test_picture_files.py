"""Junk, links and names: what a listing holds."""

import os

import pytest

from tl_distributed.data.picture_files import is_junk, is_picture, list_folder
from tl_distributed.errors import printable


@pytest.mark.parametrize(
    "path",
    ["@eaDir/1.png", "a/@eaDir/1.png/THUMB.png", "Thumbs.db", "THUMBS.DB", "a/.ipynb_checkpoints/1-checkpoint.png",
     "._1.png", "a/._1.png", "__MACOSX/a/1.png", "lost+found/1.png", ".DS_Store", "desktop.ini", "$RECYCLE.BIN/1.png",
     "#recycle/1.png", "System Volume Information/1.png", ".Trash-1000/files/1.png", ".hidden/1.png"],
)  # fmt: skip
def test_junk_of_any_program(path):
    assert is_junk(path) and not is_picture(path)


@pytest.mark.parametrize(
    "path", ["1.png", "a b/1.JPG", "./a/1.jpeg", "recycle/1.png", "a.b/1.gif", "@home/1.bmp", "CVS/1.png"]
)
def test_pictures_are_no_junk(path):
    assert is_picture(path) and not is_junk(path)


def test_names_are_printed_on_one_line():
    assert printable("caf\u00e9 \u6f22 1.png") == "caf\u00e9 \u6f22 1.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    assert printable("a\nb\u2028c\x85d\te") == "a\\nb\\u2028c\\x85d\\te"


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_links_repeat_no_folder(tmp_path):
    root = tmp_path / "in"
    make(root, "train/ant/1.png", "train/bee/1.png")
    make(tmp_path, "store/cow/1.png", "file.png")
    (root / "train/ant/all").symlink_to("..")  # upwards
    (root / "train/self").symlink_to(".")
    (root / "train/root").symlink_to(root)
    (root / "train/bee_again").symlink_to("bee")
    (root / "train/cow").symlink_to(tmp_path / "store/cow")  # elsewhere: used
    (root / "train/cow_again").symlink_to(tmp_path / "store/cow")
    (root / "train/bee/link.png").symlink_to(tmp_path / "file.png")
    (tmp_path / "store/cow/back").symlink_to(root)
    listing = list_folder(str(root))
    assert listing.files == ["train/ant/1.png", "train/bee/1.png", "train/bee/link.png", "train/cow/1.png"]
    assert listing.folders == ["train", "train/ant", "train/bee", "train/cow"]
    assert listing.repeated == [
        "train/ant/all", "train/bee_again", "train/cow/back", "train/cow_again", "train/root", "train/self"
    ]  # fmt: skip


def test_junk_is_not_entered_and_pipes_are_no_files(tmp_path):
    make(tmp_path, "a/1.png", "lost+found/1.png", ".git/1.png")
    os.mkfifo(tmp_path / "a/pipe.png")
    (tmp_path / "a/broken.png").symlink_to("nowhere")
    (tmp_path / "a/itself.png").symlink_to("itself.png")
    assert list_folder(str(tmp_path)).files == ["a/1.png", "a/broken.png", "a/itself.png"]


def test_names_that_are_not_utf8_are_listed(tmp_path):
    os.mkdir(bytes(tmp_path) + b"/d\xe9")
    (tmp_path / os.fsdecode(b"d\xe9") / "1.png").write_bytes(b"")
    assert [os.fsencode(name) for name in list_folder(str(tmp_path)).files] == [b"d\xe9/1.png"]


def test_remote_folders(tmp_path):
    import tensorflow as tf

    root = "ram://picture_files/in"
    for name in ("a/1.png", "a/.x.png", "b/c/2.png", "__MACOSX/1.png"):
        tf.io.gfile.makedirs(f"{root}/{name}".rsplit("/", 1)[0])
        with tf.io.gfile.GFile(f"{root}/{name}", "w") as file:
            file.write("x")
    listing = list_folder(root)
    assert (listing.files, listing.folders) == (["a/1.png", "b/c/2.png"], ["a", "b", "b/c"])


def test_a_bucket_is_not_asked_for_each_file_alone(monkeypatch):
    """Object stores answer a list of a thousand names as fast as one question about one."""
    import tensorflow as tf

    folders = {
        "gs://bucket/set": ["train/", ".trash/", "labels.csv"],
        "gs://bucket/set/train": ["cat/", "dog.v2/"],
        "gs://bucket/set/train/cat": ["", *(f"{number}.jpg" for number in range(1000))],
        "gs://bucket/set/train/dog.v2": ["README", "0.png"],
    }
    asked = []
    for name in ("isdir", "exists", "stat", "walk", "glob"):
        monkeypatch.setattr(tf.io.gfile, name, lambda *_, name=name: asked.append(name))
    monkeypatch.setattr(tf.io.gfile, "listdir", lambda path: asked.append("listdir") or folders[path.rstrip("/")])
    listing = list_folder("gs://bucket/set/")
    assert asked == ["listdir"] * 4
    assert listing.folders == ["train", "train/cat", "train/dog.v2"]
    assert len(listing.files) == 1003 and "train/dog.v2/README" in listing.files


def test_other_stores_are_asked_for_what_may_be_a_folder():
    import tensorflow as tf

    for name in ("train/cat/0.jpg", "train/cat/deep/1.png", "notes"):
        tf.io.gfile.makedirs(f"ram://listing/{name}".rsplit("/", 1)[0])
        tf.io.gfile.GFile(f"ram://listing/{name}", "w").write("x")
    listing = list_folder("ram://listing")
    assert listing.files == ["notes", "train/cat/0.jpg", "train/cat/deep/1.png"]
    assert listing.folders == ["train", "train/cat", "train/cat/deep"]
