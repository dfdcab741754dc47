"""Which folders become splits and which classes: what is clear is taken, what is doubtful refused with the flag."""

import os

import pytest
from listed_files import ListedFiles, counts, files_of, layout_of

from data_prep.source_parts.image_layout import LayoutOptions, find_layout
from data_prep.source_parts.split_names import role_of, roles_of
from tl_distributed.errors import UserError

BOTH = {"ant": 2, "bee": 2}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Validation", "Test"),
        ("Training", "valid", "Testing"),
        ("TRAIN", "VAL", "TEST"),
        ("train_set", "val-set", "test.set"),
        ("TrainSet", "DevSet", "TestSet"),
        ("trainset", "dev", "testset"),
        ("seg_train", "seg_val", "seg_test"),
        ("train-images", "eval-images", "test-images"),
        ("train2017", "val2017", "test2017"),
        ("imagesTrain", "imagesValidation", "imagesTest"),
        ("alphabet_train", "alphabet_dev", "alphabet_test"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "photos/", "dataset/images/", "training_data/"])
def test_splits_in_any_spelling(train, val, test, wrapper):
    folders = " ".join(f"{wrapper}{split}/{name}" for split in (train, val, test) for name in BOTH)
    layout = layout_of(files_of(folders))
    assert counts(layout) == {"train": BOTH, "val": BOTH, "test": BOTH}
    if train != "train":  # what was recognised is said
        assert train in layout.notes[0] and val in layout.notes[0] and test in layout.notes[0]


@pytest.mark.parametrize("name", ["contest", "trainer", "devil", "rest", "invalid", "bus", "images", "evaluator", "07"])
def test_other_words_are_no_splits(name):
    assert role_of(name) not in ("train", "val", "test")


@pytest.mark.parametrize("part", ["1", "dataset", "sets", "images", "train", "a1"])
def test_names_of_any_length_are_told_at_once(part):
    assert role_of(f"{part * 2000}x") is None


def test_words_that_all_folders_share_say_nothing():
    assert roles_of(["asl_alphabet_train", "asl_alphabet_test"]) == {
        "asl_alphabet_train": "train",
        "asl_alphabet_test": "test",
    }
    assert roles_of(["cat_train", "dog_train"]) == {}


def test_split_folder_within_a_folder_of_its_name():
    """As the Intel scenes of Kaggle lie: seg_train/seg_train/, and pictures to predict beside them."""
    names = files_of("seg_train/seg_train/ant seg_train/seg_train/bee seg_test/seg_test/ant seg_test/seg_test/bee")
    layout = layout_of(names + files_of("seg_pred/seg_pred", 3))
    assert counts(layout) == {"train": BOTH, "test": BOTH}
    assert layout.left_out["pictures without labels"] == 3 and any("seg_pred" in note for note in layout.notes)


def test_folders_without_pictures_beside_the_data_set_are_no_matter():
    names = [*files_of("images/train/ant images/train/bee images/test/ant"), "labels/train/ant/0.txt", "docs/read.md"]
    assert counts(layout_of(names)) == {"train": BOTH, "test": {"ant": 2, "bee": 0}}


@pytest.mark.parametrize("inside", ["test", "test/test", "test/images", "Test/unknown", "test/all"])
def test_test_without_labels_is_left_out_and_said(inside):
    layout = layout_of(files_of("train/ant train/bee") + files_of(inside, 5))
    assert counts(layout) == {"train": BOTH}
    assert layout.left_out == {"pictures without labels": 5}
    assert any("left out" in note and inside.split("/")[0] in note for note in layout.notes)


def test_a_class_that_has_the_name_of_a_wrapper_is_a_class():
    layout = layout_of(files_of("train/all train/bee test/all"))
    assert counts(layout)["test"] == {"all": 2, "bee": 0}


@pytest.mark.parametrize("name", ["train", "valid", "Validation"])
def test_class_that_is_called_like_a_split_among_folders_of_pictures(name):
    layout = layout_of(files_of(f"bus invalid {name}"))
    assert counts(layout) == {"train": {"bus": 2, "invalid": 2, name: 2}}
    assert any(f"{name}/ lies among folders of its kind" in note for note in layout.notes)


def test_class_that_is_called_train_within_splits():
    layout = layout_of(files_of("train/bus train/train test/bus test/train"))
    assert counts(layout) == {"train": {"bus": 2, "train": 2}, "test": {"bus": 2, "train": 2}}


DOUBTFUL = {
    "a class called train, or train beside what would be left out": (
        "bus/side bus/front car/side car/front train/side train/front",
        ("train/ as train", "bus/, car/", "--train_dir=train", "--no_split_folders"),
    ),
    "one split recognised and a folder beside it": (
        "train/ant train/bee test/ant test/bee more/ant more/bee",
        ("train/ as train", "more/", "--test_dir=test", "--no_split_folders"),
    ),
    "classes and a folder of pictures called test": ("ant bee test", ("test/ as test", "ant/, bee/")),
    "inside out": (
        "ant/train ant/test bee/train bee/test",
        ("ant/ would be a class, but holds test/, train/", "all classes do", "--train_dir"),
    ),
    "a data set beside other pictures": ("set/train/ant set/train/bee set/test/ant samples", ("set/", "--train_dir")),
    "unknown split names": (
        "part1/ant part1/bee part2/ant part2/bee",
        ("part1/, part2/ would be classes, but all hold the same folders (ant/, bee/)", "--no_split_folders"),
    ),
    "classes and splits in one name": ("ant_train ant_test bee_train bee_test", ("called like splits", "--train_dir")),
    "two folders for one split": ("train/ant train/bee Train/ant Train/bee", ("would both be the split train",)),
    "val twice": ("train/ant train/bee val/ant dev/ant", ("dev/ and val/ would both be the split val", "--val_dir")),
    "pictures without labels among classes": ("ant bee unlabeled", ("unlabeled/ would be a class", "--train_dir")),
    "names that a shell would not take": (
        "Train(1)/ant Test(1)/ant more/ant",
        ("--test_dir='Test(1)' --train_dir='Train(1)' if",),
    ),
    "held out": ("train/ant train/bee holdout/ant", ("holdout/ may be validation or test", "--val_dir=holdout")),
    "no train": ("val/ant test/ant", ("but no train/", "--train_dir")),
    "a split in a split": ("train/train/ant train/val/ant test/ant", ("train/ is a split, but holds", "--train_dir")),
    "a split in a class of train": ("train/ant/train train/ant/test train/bee", ("train/ant/", "--train_dir")),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_doubtful_folders_are_refused_with_what_settles_it(case):
    folders, words = DOUBTFUL[case]
    with pytest.raises(UserError) as error:
        layout_of(files_of(folders))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_no_split_folders_makes_every_folder_a_class():
    names = files_of("bus/side bus/front train/side train/front")
    assert counts(layout_of(names, no_split_folders=True)) == {"train": {"bus": 4, "train": 4}}


def test_flags_name_the_splits():
    names = files_of("a/ant a/bee b/ant b/bee more/ant/x old/1 test/bee")
    layout = layout_of(names, train_dir="a", val_dir="./b/", test_dir="photos/more")
    assert counts(layout) == {"train": BOTH, "val": BOTH, "test": {"ant": 2, "bee": 0}}
    assert layout.left_out == {"images outside a/, b/, more/": 4}


@pytest.mark.parametrize(
    "path", ["{cwd}/photos/a", "{cwd}/photos/a/", "photos/a", "./photos//a", "{cwd}/x/../photos/a"]
)
def test_flags_may_name_the_splits_by_their_whole_paths(path):
    layout = layout_of(files_of("a/ant a/bee b/ant"), train_dir=path.format(cwd=os.getcwd()), test_dir="b")
    assert counts(layout) == {"train": BOTH, "test": {"ant": 2, "bee": 0}}
    with pytest.raises(UserError, match="--train_dir=/elsewhere/a: no such folder with pictures"):
        layout_of(files_of("a/ant a/bee"), train_dir="/elsewhere/a")


def test_a_split_named_by_a_flag_may_lie_within_train():
    layout = layout_of(files_of("ant bee test/ant test/bee"), train_dir=".", test_dir="test")
    assert counts(layout) == {"train": BOTH, "test": BOTH}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_dir": "b"}, "--train_dir is needed"),
        ({"train_dir": "c"}, "--train_dir=c: no such folder with pictures"),
        ({"train_dir": "a", "test_dir": "a/"}, "--test_dir=a/: is another split already"),
        ({"train_dir": "a", "no_split_folders": True}, "--no_split_folders contradicts"),
    ],
)
def test_flags_that_cannot_be_followed(options, words):
    with pytest.raises(UserError, match=words):
        layout_of(files_of("a/ant a/bee b/ant b/bee"), **options)


def test_composed_and_decomposed_names_are_one_class_and_ids_are_composed():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names = [f"train/{composed}/1.png", f"train/{decomposed}/1.png", f"train/{decomposed}/2.png", "train/tea/1.png"]
    layout = layout_of([*names, f"test/{decomposed}/1.png"])
    assert layout.class_names == (composed, "tea")
    assert counts(layout) == {"train": {composed: 3, "tea": 1}, "test": {composed: 1, "tea": 0}}
    assert layout.ids[names[0]] == names[0] and layout.ids[names[2]] == f"train/{composed}/2.png"
    assert len(set(layout.ids.values())) == 5


def test_data_sets_and_the_output_are_no_input(tmp_path):
    built = ["old/dataset.json", "old/train-00000-of-00001.tfrecord", "old/preview.png"]
    files = ListedFiles([*files_of("ant bee"), *built, "ds.partial/lock", "ds/preview.png", "ds/x/1.png"])
    files.path = str(tmp_path)
    layout = find_layout(files, LayoutOptions(output_dir=str(tmp_path / "ds")))
    assert layout.class_names == ("ant", "bee")
