"""Class folders: layouts, labels, order, and what is said about a broken one."""

import io

import numpy as np
import pytest
from image_files import class_files, pixels, png, write_folder, write_tar, write_zip
from PIL import Image
from stored_pictures import pixel_rule, read_split, read_whole

from data_prep.sources.image_folder import ImageFolderSource
from tl_distributed.errors import UserError

RULE = pixel_rule(8)
COUNTS = {"train/cat": 3, "train/dog": 2, "val/dog": 1, "test/cat": 2}


def open_source(path, *, skip_unreadable=False, num_threads=2, **options):
    return ImageFolderSource(
        path=path,
        skip_unreadable=skip_unreadable,
        num_threads=num_threads,
        **options,
    )


def read(source, split, rule=RULE):
    """Returns {name: (pixels, label)} of the split."""
    return {name: (image, label) for name, image, label in read_split(source, split, rule)}


@pytest.mark.parametrize("write", ["folder", "tar", "zip"])
@pytest.mark.parametrize("prefix", ["", "./", "photos/"])
def test_splits_classes_and_pixels_are_those_of_the_files(tmp_path, write, prefix):
    files = class_files(COUNTS)
    named = {prefix + name: data for name, data in files.items()}
    path = {
        "folder": lambda: write_folder(tmp_path / "a", named),
        "tar": lambda: write_tar(tmp_path / "a.tar.gz", named),
        "zip": lambda: write_zip(tmp_path / "a.zip", named),
    }[write]()
    source = open_source(path)
    assert source.class_names == ("cat", "dog")
    assert source.splits == ("train", "val", "test")
    seeds = {name: seed for seed, name in enumerate(files)}
    for split in source.splits:
        found = read(source, split)
        assert source.count(split) == len(found) == sum(n for folder, n in COUNTS.items() if folder.startswith(split))
        for name, (image, label) in found.items():
            name = name.removeprefix("photos/")
            np.testing.assert_array_equal(image, pixels(seeds[name]))
            assert source.class_names[label] == name.split("/")[1]
    assert source.notes == []


def test_classes_without_split_folders_are_all_train(tmp_path):
    source = open_source(write_folder(tmp_path / "a", class_files({"cat": 2, "dog": 2})))
    assert (source.splits, source.class_names) == (("train",), ("cat", "dog"))
    assert "every class folder is train" in source.notes[0]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_validation(tmp_path, name):
    source = open_source(write_folder(tmp_path / "a", class_files({"train/a": 1, "train/b": 1, f"{name}/a": 1})))
    assert source.splits == ("train", "val")


def test_folders_below_a_class_belong_to_it(tmp_path):
    files = class_files({"train/cat/indoors": 2, "train/cat/outdoors": 1, "train/dog": 1})
    found = read(open_source(write_folder(tmp_path / "a", files)), "train")
    assert sorted(label for _, label in found.values()) == [0, 0, 0, 1]


def test_chunks_come_in_order_for_any_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.picture_reader._CHUNK_IMAGES", 3)
    path = write_folder(tmp_path / "a", class_files({"train/a": 20, "train/b": 20}))
    orders = [[n for c in open_source(path, num_threads=t).chunks("train", RULE) for n in c.names] for t in (1, 4)]
    assert orders[0] == orders[1] == sorted(orders[0])
    assert len(orders[0]) == 40


def test_large_files_travel_in_small_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.picture_reader._AHEAD_BYTES", 2500)
    path = write_zip(tmp_path / "a.zip", class_files({"train/a": 6, "train/b": 6}))
    assert max(len(chunk.labels) for chunk in open_source(path).chunks("train", RULE)) == 2  # PNGs of 250 to 499 bytes


def test_hidden_and_system_files_are_ignored_and_others_counted(tmp_path):
    files = class_files({"train/a": 1, "train/b": 1})
    files |= {
        "train/a/.DS_Store": b"",
        "train/a/._0000.png": b"no image",
        "__MACOSX/train/a/0000.png": b"no image",
        ".git/cat.png": b"no image",
        "train/a/Thumbs.db": b"",
        "train/a/x.svg": b"",
        "LICENSE": b"",
        "figure.png": png(99),
    }
    source = open_source(write_zip(tmp_path / "a.zip", files))
    assert source.count("train") == 2
    assert len(source.notes) == 1
    for words in ("1 .svg", "1 no extension", "1 images outside train/"):
        assert words in source.notes[0]


def test_unreadable_image_is_named(tmp_path):
    files = class_files({"train/a": 3, "train/b": 3})
    files["train/b/0001.png"] = files["train/b/0001.png"][:60]
    source = open_source(write_folder(tmp_path / "a", files))
    with pytest.raises(UserError, match=r"cannot read train/b/0001\.png \(.*add --skip_unreadable"):
        read(source, "train")


def test_unreadable_images_are_skipped_and_counted_when_asked(tmp_path):
    files = class_files({"train/a": 3, "train/b": 3, "test/a": 2})
    files |= {"train/b/0001.png": b"", "train/a/0002.png": b"no image at all", "test/a/0000.png": b"GIF89a"}
    source = open_source(write_zip(tmp_path / "a.zip", files), skip_unreadable=True)
    assert len(read_whole(source, tmp_path, RULE)) == 5
    assert source.details["unreadable"] == 3
    assert [line.split(":")[0] for line in source.details["unreadable_files"]] == [
        "train/a/0002.png",
        "train/b/0001.png",
        "test/a/0000.png",
    ]
    assert "left out 2 unreadable images, the first train/a/0002.png" in source.notes[0]
    assert "left out 1 unreadable images, the first test/a/0000.png" in source.notes[1]


def test_stopping_early_leaves_no_thread_running(tmp_path):
    import threading

    chunks = open_source(write_folder(tmp_path / "a", class_files({"train/a": 3, "train/b": 3}))).chunks("train", RULE)
    next(chunks)
    chunks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme.txt": b""}, "no JPEG, PNG, BMP, GIF, WebP, TIFF or AVIF files there, told by their endings, but 1 "),
        ({"a/1.HEIC": b"", "b/2.heic": b"", "c.txt": b""}, "endings, but 2 files with .heic: convert or rename them"),
        ({"a/1": b"", "b/2": b""}, "endings, but 2 files with no extension: convert or rename them"),
        ({"train.zip": b"", "test.zip": b""}, "endings, but 2 files with .zip: name the archive, or unpack it"),
        (
            class_files({"train/a": 1, "train/b": 1, "test/B ": 1}),
            "of test is not in train (there it is 'b'; spell it",
        ),
        (class_files({"train/a": 1, "train/b": 1, "test/c": 1}), "class 'c' of test is not in train: nothing"),
        (class_files({"train/a": 1, "train/b": 1, "val/c": 1}), "class 'c' of val is not in train: nothing"),
        (class_files({"val/a": 1, "test/b": 1}), "but no train/"),
        (class_files({"train/a": 1, "val/a": 1, "valid/a": 1}), "would both be the split val"),
        (class_files({"train/a": 1, "train": 1}), "lies in no class folder"),
        (class_files({"train/a": 1, "train/b": 1, "test/a": 1, "test": 2}), "test/0000.png lies in no class folder"),
        (class_files({"train/a": 1, "train/b": 1}) | {"train/c/readme.txt": b""}, "class folder train/c/ is empty"),
    ],
)
def test_broken_layout_is_said_in_one_line(tmp_path, files, words):
    with pytest.raises(UserError) as error:
        open_source(write_folder(tmp_path / "a", files))
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_empty_class_folder_is_named(tmp_path):
    path = write_folder(tmp_path / "a", class_files({"train/a": 1, "train/b": 1}))
    (tmp_path / "a/train/c").mkdir()
    with pytest.raises(UserError, match="class folder train/c/ is empty"):
        open_source(path)


def test_class_folders_that_are_numbers_are_said_where_their_order_is_another(tmp_path):
    numbers = [str(number) for number in range(1, 12)]
    some = open_source(write_folder(tmp_path / "some", class_files({f"train/{name}": 1 for name in numbers[:9]})))
    assert some.class_names == tuple(numbers[:9]) and some.notes == []
    source = open_source(write_folder(tmp_path / "all", class_files({f"train/{name}": 1 for name in numbers})))
    assert source.class_names[:3] == ("1", "10", "11")
    (note,) = source.notes
    assert "not of their numbers: '10' has label 1" in note


def test_16_bit_pictures_that_use_12_are_said(tmp_path):
    """Scanners and X-ray devices write such files; their upper byte, which is kept, is nearly black."""
    files = class_files({"train/a": 2, "train/b": 2})
    for number, most in enumerate((4095, 1000, 65535)):
        buffer = io.BytesIO()
        Image.fromarray(np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)).save(buffer, "PNG")
        files[f"train/a/scan{number}.png"] = buffer.getvalue()
    source = open_source(write_zip(tmp_path / "a.zip", files))
    read_whole(source, tmp_path, RULE)
    (note,) = [note for note in source.notes if "16-bit" in note]
    assert "2 of 3 16-bit pictures of train use at most 12 bits (the first: train/a/scan0.png)" in note
    assert "multiply their values by 16 " in note


def test_picture_over_the_limit_is_named_with_the_flag(tmp_path):
    files = class_files({"train/a": 1, "train/b": 1}) | {"train/b/large.png": png(7, side=40)}
    source = open_source(write_folder(tmp_path / "a", files))
    with pytest.raises(UserError, match=r"cannot read train/b/large\.png \(40 x 40 pixels .*--max_megapixels=0\.001"):
        read(source, "train", pixel_rule(8, max_megapixels=0.001))
