"""Pictures with any number of labels, from the table to the records and back."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from listed_files import files_of, layout_of
from multi_label_data import NAMES, SPLITS, build_config, labels_of, multi_label_data, write_pictures

from data_prep.build import build
from data_prep.index import Index
from data_prep.source_parts.label_table import separated
from tl_distributed.data.records import read_manifest
from tl_distributed.data.verify import verify
from tl_distributed.errors import UserError

FLAT = files_of("images", 4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return multi_label_data(tmp_path_factory.mktemp("multi_label"))[0]


def records_of(data_dir: str, split: str) -> dict[str, list[int]]:
    """Returns the labels of each picture by its id, as any TensorFlow program reads them."""
    spec = {"label": tf.io.VarLenFeature(tf.int64), "id": tf.io.FixedLenFeature([], tf.string)}
    found = {}
    for path in sorted(pathlib.Path(data_dir).glob(f"{split}-*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)):
            parsed = tf.io.parse_single_example(record, spec)
            found[parsed["id"].numpy().decode()] = tf.sparse.to_dense(parsed["label"]).numpy().tolist()
    return found


def test_records_hold_all_labels(built):
    info = verify(built)
    assert info == read_manifest(built) and info.class_names == NAMES and info.most_labels == 3
    for split, count in SPLITS.items():
        found = records_of(built, split)
        expected = {f"images/{split}{n:03d}.png": [NAMES.index(name) for name in labels_of(n)] for n in range(count)}
        assert found == expected and [] in found.values() and [0, 1, 2] in found.values()
        per_class = {name: sum(place in labels for labels in found.values()) for place, name in enumerate(NAMES)}
        assert info.splits[split].counts_per_class == per_class and info.splits[split].num_examples == count


def test_the_manifest_says_so_and_only_then(built, tmp_path):
    assert json.loads((pathlib.Path(built) / "dataset.json").read_text())["most_labels"] == 3
    table = write_pictures(tmp_path / "one")
    table.write_text("file,label\n" + "".join(f"train{n:03d}.png,{n % 2}\n" for n in range(20)))
    config = build_config(tmp_path / "one", multi_label=False)
    build(config)
    assert "most_labels" not in json.loads((pathlib.Path(config.output_dir) / "dataset.json").read_text())


def test_a_validation_share_keeps_every_class_on_both_sides(tmp_path):
    table = write_pictures(tmp_path / "pictures")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if not line.endswith("val"))]) + "\n")
    info = build(build_config(tmp_path / "pictures", val_fraction=0.25))
    train, val = info.splits["train"], info.splits["val"]
    assert train.num_examples + val.num_examples == 72 and val.num_examples == 18
    for name in NAMES:
        assert 0.15 < val.counts_per_class[name] / 36 < 0.35 and train.counts_per_class[name] > 0
    assert "rarest label" in info.details["val"]


def test_beam_writes_the_same_shards(built, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    write_pictures(tmp_path / "pictures")
    info = build(build_config(tmp_path / "pictures", engine="beam"))
    assert info.splits == read_manifest(built).splits


def test_pictures_are_dealt_out_by_their_rarest_class():
    index = Index(((), (0,), (0, 1), (0, 2)))
    index.labels = np.array([1, 1, 1, 2, 2, 3, 0])
    assert index.strata(3).tolist() == [0, 0, 0, 1, 1, 2, 3]


def layout(tmp_path, *lines, **options):
    (tmp_path / "labels.csv").write_text("".join(f"{line}\n" for line in ("file,labels", *lines)))
    return layout_of(FLAT, labels_csv=str(tmp_path / "labels.csv"), multi_label=True, **options)


def sets_of(found) -> dict[str, list[str]]:
    labels = found.files["train"]
    return {name[7:8]: [found.class_names[one] for one in found.label_sets[number]] for name, number in labels.items()}


def test_labels_in_any_order_and_in_lines_of_their_own(tmp_path):
    found = layout(tmp_path, "0,b|a", "1, a | b ", "2,c", "2,a", "2,c", "3,")
    assert sets_of(found) == {"0": ["a", "b"], "1": ["a", "b"], "2": ["a", "c"], "3": []}
    assert found.class_names == ("a", "b", "c") and separated("") == []


def test_whole_numbers_are_their_own_index(tmp_path):
    found = layout(tmp_path, "0,10|2", "1,0", "2,2", "3,10")
    assert found.class_names == ("0", "2", "10") and sets_of(found)["0"] == ["2", "10"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("0,a|B", "1,b"), r"one label is spelled 'B' \(1\) and 'b' \(1\)"),
        (("7,a|b",), "1 pictures are named that are not in"),
    ],
)
def test_mistakes_are_told(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        layout(tmp_path, *lines)


def test_a_label_of_test_alone_is_told(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label,split\n0,a,train\n1,b,train\n2,a|z,test\n")
    with pytest.raises(UserError, match="label 'z' of test is of no picture of train"):
        layout_of(FLAT, labels_csv=str(tmp_path / "labels.csv"), multi_label=True)


def test_without_the_flag_a_separator_is_pointed_at(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\n0,a|b\n1,a\n")
    found = layout_of(FLAT, labels_csv=str(tmp_path / "labels.csv"))
    assert any("1 labels hold a |" in note and "--multi_label" in note for note in found.notes)
    (tmp_path / "labels.csv").write_text("file,label\n0,a\n0,b\n1,a\n")
    with pytest.raises(UserError, match="--multi_label takes several labels"):
        layout_of(FLAT, labels_csv=str(tmp_path / "labels.csv"))


def test_labels_of_which_no_picture_has_several_are_pointed_at(tmp_path):
    found = layout(tmp_path, "0,clear water", "1,clear")
    assert any("no picture has several labels; labels are separated by |" in note for note in found.notes)
    for lines in (("0,clear|water", "1,clear"), ("0,clear", "0,water", "1,clear")):
        assert not any("several labels" in note for note in layout(tmp_path, *lines).notes)


def test_labels_that_another_sign_separates_are_pointed_at(tmp_path):
    found = layout(tmp_path, '0,"a,b"', "1,a|b;c", "2,a")
    assert any("'a,b', 'b;c' are taken for one label each" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_csv": ""}, "--multi_label is of --labels_csv"),
        ({"limit_per_class": 3}, "--limit_per_class=3: with --multi_label"),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build_config(tmp_path, **changes)
