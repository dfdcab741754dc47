"""What a build leaves beside its shards, and what it says: ids, duplicates, contradictions, summary, preview."""

import json
import os
import unicodedata

import numpy as np
import pytest
from image_files import class_files, png, write_folder, write_zip
from PIL import Image
from stored_pictures import pixel_rule

from data_prep import build, build_tfrecords, summary
from data_prep.config import BuildConfig
from data_prep.index import Index
from data_prep.preview import write_preview
from tl_distributed.data import records, verify
from tl_distributed.data.dataset import load_splits
from tl_distributed.data.ids import read_ids
from tl_distributed.errors import UserError

COUNTS = {"train/cat": 8, "train/dog": 6, "test/cat": 3, "test/dog": 3}


def built(input_path, output_dir, **settings):
    settings = {"source": "image_folder", "image_size": 8, "num_shards": 3, **settings}
    return build.build(BuildConfig(input=str(input_path), output_dir=str(output_dir), **settings))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    built(write_folder(folder / "in", class_files(COUNTS)), folder / "out")
    return folder


@pytest.mark.parametrize("num_shards", [1, 3, 20])
def test_ids_name_the_file_of_each_row_as_evaluation_reads_it(data_dir, tmp_path, num_shards):
    """Twenty shards are read in another order than they are written in."""
    info = built(data_dir / "in", tmp_path / "out", num_shards=num_shards)
    seen = []
    for mode in ("memory", "disk"):
        opened = load_splits(str(tmp_path / "out"), info, ("train", "val", "test"), input_mode=mode)  # fmt: skip
        for name, split in opened.items():
            ids = read_ids(str(tmp_path / "out"), info, name)
            (batch,) = split.eval_batches(100)
            assert len(ids) == batch.num_valid
            for row, path in enumerate(ids):
                np.testing.assert_array_equal(batch.images[row], np.asarray(Image.open(data_dir / "in" / path)))
                assert info.class_names[batch.labels[row]] == path.split("/")[1]
            seen += ids
    assert sorted(set(seen)) == sorted(class_files(COUNTS)) and len(seen) == 2 * len(set(seen))


def test_ids_survive_any_name(tmp_path):
    names = [os.fsdecode(b"caf\xe9.png"), "a\nb.png", "\u2028.png", '"quoted".png', "\u6f22.png", "e\u0301.png"]
    files = {f"train/{kind}/{name}": png(number) for kind in ("ant", "bee") for number, name in enumerate(names)}
    files = {path: png(seed) for seed, path in enumerate(files)}
    info = built(write_folder(tmp_path / "in", files), tmp_path / "out")
    found = [one for split in info.splits for one in read_ids(str(tmp_path / "out"), info, split)]
    assert sorted(found) == sorted(unicodedata.normalize("NFC", path) for path in files)
    assert verify.verify(str(tmp_path / "out")) == info
    content = (tmp_path / "out/ids-train.jsonl").read_bytes()
    assert content.isascii() and len(content.splitlines()) == info.splits["train"].num_examples


def test_data_sets_without_ids_still_work(data_dir):
    info = records.read_manifest(str(data_dir / "out"))
    details = {key: value for key, value in info.details.items() if key != "ids"}
    old = records.DatasetInfo(info.class_names, info.image_shape, info.seed, info.source, info.splits, details)
    assert read_ids(str(data_dir / "out"), old, "test") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[1:], "ids-test.jsonl: 5 ids, split test has 6 examples"),
        (lambda lines: [lines[1], *lines[1:]], "is there twice"),
        (lambda lines: ['"train/other.png"', *lines[1:]], "its SHA-256 is not that of dataset.json"),
        (lambda lines: ["7", *lines[1:]], "line 1 is no id"),
        (lambda lines: ["{", *lines[1:]], "line 1 is no id"),
        (lambda lines: None, "cannot be read"),
    ],
)
def test_verify_names_what_is_wrong_with_ids(data_dir, tmp_path, change, words):
    built(data_dir / "in", tmp_path / "out")
    path = tmp_path / "out/ids-test.jsonl"
    lines = change(path.read_text().splitlines())
    path.unlink()
    if lines:
        path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError) as error:
        verify.verify(str(tmp_path / "out"))
    assert words in str(error.value) and "ids-test.jsonl" in str(error.value)


def test_same_picture_under_two_labels_and_in_two_splits_is_named(tmp_path, capsys):
    files = class_files(COUNTS)
    files["train/dog/copy.png"] = files["train/cat/0000.png"]
    files["train/cat/leak.png"] = files["test/cat/0001.png"]
    files["train/cat/again.png"] = files["train/cat/0002.png"]  # a mere repeat is neither
    info = built(write_zip(tmp_path / "in.zip", files), tmp_path / "out")
    assert info.details["contradictions"] == {
        "pictures": 1,
        "files": 2,
        "examples": [[
            {"id": "train/cat/0000.png", "label": "cat", "split": "train"},
            {"id": "train/dog/copy.png", "label": "dog", "split": "train"},
        ]],
    }  # fmt: skip
    (example,) = info.details["across_splits"]["examples"]
    assert [one["id"] for one in example] == ["test/cat/0001.png", "train/cat/leak.png"]
    shown = summary.text(info)
    assert "1 pictures have two labels (2 files)" in shown and "1 pictures lie in two splits" in shown
    assert "train/cat/0000.png (train, cat) = train/dog/copy.png (train, dog)" in shown
    capsys.readouterr()


def test_summary_fits_a_screen_and_is_in_the_description(tmp_path, capsys):
    files = class_files({"Training/cat": 8, "Training/dog": 6, "Testing/cat": 3})
    files |= {f"Training/dog/{number}.txt": b"" for number in range(3)}
    write_folder(tmp_path / "in", files)
    config = BuildConfig(
        source="image_folder", input=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), image_size=8, num_shards=1
    )
    assert build_tfrecords.main(config, []) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 24
    for words in ("split folders Training/ (train), Testing/ (test)", "most images: cat (6), least: dog (5)",
                  "8 x 8 pixels an image", "8 x 8 (median width x height)", "3 .txt"):  # fmt: skip
        assert words in out, words
    found = json.loads((tmp_path / "out/dataset.json").read_text())["details"]["summary"]
    assert found["splits"] == {"train": 11, "val": 3, "test": 3}
    assert found["picture_sizes"]["median"] == [8, 8] and found["left_out"] == {".txt": 3}
    assert "note " not in out


@pytest.mark.parametrize(("side", "is_said"), [(16, False), (17, True), (40, True)])
def test_pictures_much_larger_than_what_is_stored_are_said(tmp_path, side, is_said):
    files = {f"train/{kind}/{n}.png": png(n + 10 * (kind == "b"), side) for kind in "ab" for n in range(4)}
    files["train/a/small.png"] = png(99, 4)
    info = built(write_folder(tmp_path / "in", files), tmp_path / "out")
    assert ("more than twice as large as the 8 x 8 pixels" in summary.text(info)) == is_said
    assert ("--image_size=" in summary.text(info)) == is_said


def test_preview_shows_stored_pixels_of_each_class(data_dir):
    sheet = np.asarray(Image.open(data_dir / "out/preview.png"))
    info = records.read_manifest(str(data_dir / "out"))
    ids = read_ids(str(data_dir / "out"), info, "train")
    first = next(path for path in ids if path.startswith("train/cat"))
    expected = np.asarray(Image.open(data_dir / "in" / first))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, expected.shape)
    assert (windows == expected).all(axis=(-3, -2, -1)).any()


def test_preview_of_many_classes_with_names_that_no_font_has(tmp_path):
    def read(indices):
        return [bytes([int(index) % 256]) * 12 for index in indices]

    names = [f"\u6f22\U0001f600 {number}" + "x" * 300 for number in range(500)]
    index = Index()
    index.labels = np.arange(1000) % 500
    write_preview(str(tmp_path), names, np.arange(1000), index, read, pixel_rule(2))
    with Image.open(tmp_path / "preview.png") as sheet:
        assert sheet.height < 1000 and sheet.width < 1000


def test_groups_never_straddle_a_build(tmp_path):
    files = class_files({"train/a": 30, "train/b": 30, "test/a": 4, "test/b": 4})
    group_of = {name: f"patient {number // 3}" for number, name in enumerate(sorted(files))}  # one reaches over the cut
    rows = [f"{name},{group}" for name, group in group_of.items()]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows]))
    info = built(write_folder(tmp_path / "in", files), tmp_path / "out", group_csv=str(tmp_path / "groups.csv"))
    held = {split: {group_of[one] for one in read_ids(str(tmp_path / "out"), info, split)} for split in info.splits}
    assert not held["train"] & held["val"] and not (held["train"] | held["val"]) & held["test"]
    assert info.details["dropped_of_groups"] == {"train/test": 1}
    assert sum(split.num_examples for split in info.splits.values()) == len(files) - 1
    assert 8 <= info.splits["val"].num_examples <= 16


@pytest.mark.parametrize("name", ["bee\nhive", "bee\u2028hive", "bee\x85hive", "bee\thive", os.fsdecode(b"b\xe9e")])
def test_class_names_that_no_list_can_hold_are_refused(tmp_path, name):
    files = class_files({"train/ant": 1, f"train/{name}": 1})
    with pytest.raises(UserError) as error:
        built(write_folder(tmp_path / "in", files), tmp_path / "out")
    assert "its name holds the character" in str(error.value) and str(error.value).isprintable()
    assert os.listdir(tmp_path) == ["in"]


def test_output_inside_the_input_is_no_input(tmp_path):
    root = write_folder(tmp_path / "in", class_files({"ant": 3, "bee": 3}))
    first = built(root, tmp_path / "in/ds")
    assert built(root, tmp_path / "in/ds", overwrite=True) == first
    assert built(root, tmp_path / "in/other").class_names == ("ant", "bee")


def test_a_plain_folder_gets_a_test_split(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", class_files({"cat": 10, "dog": 20}))
    info = built(folder, tmp_path / "out", test_fraction=0.2)
    assert "--test_fraction" not in capsys.readouterr().out
    counts = {name: split.counts_per_class for name, split in info.splits.items()}
    assert counts == {"train": {"cat": 6, "dog": 13}, "val": {"cat": 2, "dog": 3}, "test": {"cat": 2, "dog": 4}}
    assert info.details["test_fraction"] == 0.2 and "validation and test are each a stratified share" in summary.text(
        info
    )
    assert "test_fraction" not in built(folder, tmp_path / "plain").details  # which is what it was without the flag
    assert "has no test split; --test_fraction=0.2 makes one" in capsys.readouterr().out


def test_groups_stay_together_also_in_a_test_split(tmp_path):
    folder = write_folder(tmp_path / "in", class_files({"cat": 12, "dog": 12}))
    names = sorted(class_files({"cat": 12, "dog": 12}))
    (tmp_path / "groups.csv").write_text(
        "file,group\n" + "".join(f"{name},{number // 2}\n" for number, name in enumerate(names))
    )
    info = built(folder, tmp_path / "out", test_fraction=0.25, group_csv=str(tmp_path / "groups.csv"))
    where = {name: split for split in info.splits for name in read_ids(str(tmp_path / "out"), info, split)}
    assert set(where.values()) == {"train", "val", "test"}
    assert all(where[one] == where[other] for one, other in zip(names[::2], names[1::2], strict=True))
