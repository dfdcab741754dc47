"""Data sets of detection and segmentation are no classes: told by the names of files, not by that of a folder alone."""

import pytest
from listed_files import counts, files_of, layout_of

from tl_distributed.errors import UserError

NAMES = [f"{number:04d}" for number in range(6)]


def named(folder, ending, names=NAMES):
    return [f"{folder}/{name}{ending}" for name in names]


VOC = [*named("JPEGImages", ".jpg"), *named("SegmentationClass", ".png", NAMES[:4]), "ImageSets/Main/train.txt"]
OF_MASKS = {
    "Pascal VOC": ([*VOC, *named("Annotations", ".xml")], "SegmentationClass/", "JPEGImages/"),
    "several of them": (
        [f"VOCdevkit/{year}/{name}" for year in ("VOC2007", "VOC2012") for name in VOC],
        "VOCdevkit/VOC2007/SegmentationClass/", "VOCdevkit/VOC2007/JPEGImages/",
    ),
    "images and masks": (named("images", ".jpg") + named("masks", "_mask.png"), "masks/", "images/"),
    "within splits": (
        [f"{split}/{name}" for split in ("train", "val") for name in named("Images", ".jpg") + named("Masks", ".png")],
        "train/Masks/", "train/Images/",
    ),
    "above splits": (
        [*named("images/training", ".jpg"), *named("annotations/training", ".png")], "annotations/", "images/",
    ),
    "within classes": (
        [f"{kind}/{name}" for kind in ("ill", "well") for name in named("images", ".png") + named("masks", ".png")],
        "ill/masks/", "ill/images/",
    ),
    "deeper on one side": (named("images", ".jpg") + named("annotations/trimaps", ".png"), "annotations/", "images/"),
    "long names": (
        named("Task1-2_Training_Input", ".jpg") + named("Task1_Training_GroundTruth", "_segmentation.png"),
        "Task1_Training_GroundTruth/", "Task1-2_Training_Input/",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_MASKS)
@pytest.mark.parametrize("options", [{}, {"no_split_folders": True}])
def test_a_folder_of_masks_is_no_class(case, options):
    names, masks, pictures = OF_MASKS[case]
    with pytest.raises(UserError, match=f"photos: {masks} is no class: .* as those of {pictures}, .*--labels_csv"):
        layout_of(names, **options)


@pytest.mark.parametrize("endings", [(".png", "_mask.png"), ("_sat.jpg", "_mask.png"), ("_1.tif", "_1_mask_1.tif")])
def test_masks_among_the_pictures_of_a_class_are_refused(endings):
    names = [name for kind in ("benign", "normal") for ending in endings for name in named(kind, ending)]
    with pytest.raises(UserError, match=r"12 pictures are named as masks .* first benign/0000.*mask.*--labels_csv"):
        layout_of(names)


@pytest.mark.parametrize("folder", ["Annotations", "labels"])
@pytest.mark.parametrize("ending", [".xml", ".txt", ".json", ""])
def test_a_folder_of_boxes_is_no_empty_class(folder, ending):
    with pytest.raises(UserError, match=rf"photos: {folder}/ is no class: it holds 6 \S+ files .*--labels_csv"):
        layout_of(named("images", ".jpg") + named(folder, ending) + ["README.md"])


CLASSES = {
    "a class called masks": named("hats", ".jpg") + named("masks", ".jpg"),
    "with and without": named("with_mask", ".jpg") + named("without_mask", ".jpg"),
    "a class whose name begins another's": named("gas", ".jpg") + named("gas_mask", ".jpg"),
    "classes of such names with pictures of their own": named("images", ".jpg") + named("labels", ".jpg", "abcdef"),
    "faces with a mask": [name for kind in "ab" for ending in (".jpg", "_mask.jpg") for name in named(kind, ending)],
    "one drawn mask": [*named("a", ".jpg"), *named("b", ".jpg"), "a/0000_mask.png"],
    "files of boxes beside the pictures": [
        name for kind in ("cat", "dog") for ending in (".jpg", ".xml") for name in named(kind, ending)
    ],
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_of_such_names_are_classes(case):
    names = CLASSES[case]
    kinds = {name.split("/")[0] for name in names}
    assert counts(layout_of(names))["train"].keys() == kinds


def test_masks_outside_the_splits_are_no_matter():
    names = files_of("images/ant images/bee segmentations/ant segmentations/bee")
    assert counts(layout_of(names, train_dir="images")) == {"train": {"ant": 2, "bee": 2}}


def test_a_table_says_which_pictures_are_meant():
    names = named("images", ".jpg") + named("masks", ".png")
    table = "file,label\n" + "".join(f"images/{name}.jpg,{'ant' if name < '0003' else 'bee'}\n" for name in NAMES)
    layout = layout_of(names, {"t.csv": table.encode()}, labels_csv="t.csv")
    assert counts(layout) == {"train": {"ant": 3, "bee": 3}}
