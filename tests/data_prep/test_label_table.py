"""Labels, groups and class names by tables beside the pictures."""

import json

import pytest
from listed_files import counts, files_of, layout_of

from data_prep.source_parts.containers import open_container
from data_prep.source_parts.image_layout import LayoutOptions, find_layout
from tl_distributed.errors import UserError

FLAT = files_of("images", 6)
BOTH = {"ant": 3, "bee": 3}


def table(tmp_path, *lines, name="labels.csv", encoding="utf-8"):
    (tmp_path / name).write_bytes("".join(f"{line}\n" for line in lines).encode(encoding, "surrogateescape"))
    return str(tmp_path / name)


def rows(entry="images/{}.png", separator=","):
    return [f"{entry.format(number)}{separator}{('ant', 'bee')[number % 2]}" for number in range(6)]


@pytest.mark.parametrize(
    "entry", ["images/{}.png", "{}.png", "{}", "./images/{}.png", "photos/images/{}.png", "images\\{}"]
)
def test_pictures_by_path_or_bare_name_with_and_without_ending(tmp_path, entry):
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "file,label", *rows(entry)))
    assert counts(layout) == {"train": BOTH}
    assert layout.files["train"]["images/3.png"] == 1


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "header", [("id", "label"), ("Image_ID", "Class"), ("filename", "target"), ("x", "label", "path")]
)
def test_separator_and_columns_are_told_and_said(tmp_path, separator, header):
    lines = [separator.join(header)]
    for row in rows("{}"):
        entry, label = row.split(",")
        lines.append(separator.join({"x": "0", "path": entry, "label": label}.get(name, "") for name in header)
                     if "x" in header else separator.join((entry, label)))  # fmt: skip
    layout = layout_of(FLAT, labels_csv=table(tmp_path, *lines, encoding="utf-8-sig"))
    assert counts(layout) == {"train": BOTH}
    label_column = next(name for name in header if name in ("label", "Class", "target"))
    assert f"label from column '{label_column}'" in layout.notes[0]


def test_kaggles_way_ids_of_train_and_a_test_without_labels(tmp_path):
    layout = layout_of(files_of("train test", 6), labels_csv=table(tmp_path, "id,label", *rows("{}")))
    assert counts(layout) == {"train": BOTH}
    assert all(name.startswith("train/") for name in layout.files["train"])
    assert layout.left_out == {"pictures without labels": 6}
    assert any("6 pictures of the test folder" in note for note in layout.notes)


def test_splits_by_a_column(tmp_path):
    splits = ("train", "Train", "training", "train", "val", "TEST")
    lines = [f"{row},{split}" for row, split in zip(rows(), splits, strict=True)]
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "file,label,split", *lines))
    assert counts(layout) == {"train": {"ant": 2, "bee": 2}, "val": {"ant": 1, "bee": 0}, "test": {"ant": 0, "bee": 1}}


def test_imagenets_way_train_in_class_folders_and_a_flat_validation(tmp_path):
    path = table(tmp_path, "ImageId,Class", *rows("val_{}"))
    layout = layout_of([*files_of("train/ant train/bee"), *(f"val/val_{n}.JPEG" for n in range(6))], labels_csv=path)
    assert counts(layout) == {"train": {"ant": 2, "bee": 2}, "val": BOTH}
    with_boxes = [f"{row} 85 1 499 272 {row.split(',')[1]} 4 5 6 7 " for row in rows("val_{}")]
    path = table(tmp_path, "ImageId,PredictionString", *with_boxes)
    assert counts(layout_of(layout.ids, labels_csv=path)) == counts(layout)


def test_table_that_lies_in_the_input(tmp_path):
    content = "\n".join(["id,label", *rows("{}")]).encode()
    assert counts(layout_of(FLAT, {"train.csv": content}, labels_csv="train.csv")) == {"train": BOTH}


def test_table_in_the_input_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "labels.csv").symlink_to("nowhere.csv")
    with pytest.raises(UserError, match=r"--labels_csv=labels\.csv: cannot be read"):
        find_layout(open_container(str(tmp_path)), LayoutOptions(labels_csv="labels.csv"))


def test_whole_numbers_are_sorted_by_value(tmp_path):
    lines = [f"{number},{value}" for number, value in enumerate((10, 9, 2, 10, 9, 2))]
    assert layout_of(FLAT, labels_csv=table(tmp_path, "id,label", *lines)).class_names == ("2", "9", "10")


@pytest.mark.parametrize("form", ["{}.0", "{}.", "-{}", "{}"])
def test_whole_numbers_as_pandas_writes_them_beside_a_missing_one(tmp_path, form):
    lines = [f"{number},{form.format(value)}" for number, value in enumerate((10, 9, 2, 10, 9, 2))]
    names = layout_of(FLAT, labels_csv=table(tmp_path, "id,label", *lines)).class_names
    assert [float(name) for name in names] == sorted(float(name) for name in names)


def test_label_in_another_encoding_is_said(tmp_path):
    path = table(tmp_path, "id,label", "0,café", "1,bee", encoding="cp1252")
    with pytest.raises(UserError, match=r"label 'caf.*' is not UTF-8; save the table as UTF-8"):
        layout_of(FLAT, labels_csv=path)


def test_quoted_names_and_labels_with_separators(tmp_path):
    lines = ['"a, b.png","ant, red"', "c.png,bee"]
    layout = layout_of(["a, b.png", "c.png"], labels_csv=table(tmp_path, "file,label", *lines))
    assert layout.class_names == ("ant, red", "bee")


def test_quotes_that_follow_a_space(tmp_path):
    lines = ['images/0.png, "ant, red"', 'images/1.png, "ant, blue"']
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "file, label", *lines))
    assert layout.class_names == ("ant, blue", "ant, red")
    (tmp_path / "names").write_text('n01, "tench, Tinca tinca"\nn02, "goldfish"\n')
    layout = layout_of(files_of("train/n01 train/n02"), class_names=str(tmp_path / "names"))
    assert layout.class_names == ("tench, Tinca tinca", "goldfish")


@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n"])
def test_lines_may_end_as_on_other_systems(tmp_path, end):
    (tmp_path / "labels.csv").write_bytes(end.join(["file,label", *rows(), ""]).encode())
    assert counts(layout_of(FLAT, labels_csv=str(tmp_path / "labels.csv"))) == {"train": BOTH}


def test_header_that_takes_two_lines(tmp_path):
    assert counts(layout_of(FLAT, labels_csv=table(tmp_path, 'file,label,"note\n(free)"', *rows()))) == {"train": BOTH}


@pytest.mark.parametrize(
    ("header", "lines", "words"),
    [
        ("file,label", ["0.png,ant", "1.png,ant, red"], "line 3 has 3 values ('1.png', 'ant', 'red')"),
        ("\nsep=,\nfile,label", ["0.png,ant", "1.png,ant,red"], "line 5 has 3 values"),
        ('"file","label"', ['"1","0.png","ant"'], "the first line names 2 columns"),  # R's row names
        ("file|labels", ["0.png|ant|bee"], "line 2 has 3 values"),
        # A quote that is not closed takes the lines that follow into its value; so does one that the next one closes.
        ("file,label,note", ["0.png,ant,x", '1.png,bee,"5 cm', "2.png,ant,x"], "line 3 is not CSV"),
        ("file,label,note", ["0.png,ant,x", '1.png,bee,"5 cm', '2.png,ant,"6 cm'], "line 3 is not CSV"),
        ("file,note,label", ['0.png,"he said "hi", then",ant'], "line 2 is not CSV"),
    ],
)
def test_line_that_may_be_read_in_two_ways_is_refused(tmp_path, header, lines, words):
    with pytest.raises(UserError) as error:
        layout_of(FLAT, labels_csv=table(tmp_path, header, *lines))
    assert words in str(error.value) and "quotes" in str(error.value) and "\n" not in str(error.value)


def test_empty_values_beyond_the_columns_are_none(tmp_path):
    assert counts(layout_of(FLAT, labels_csv=table(tmp_path, "file,label", *(f"{row},, " for row in rows())))) == {
        "train": BOTH
    }


def test_pictures_without_a_label_are_left_out_with_names(tmp_path):
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "id,label", *rows("{}")[:4], "4,"))
    assert counts(layout) == {"train": {"ant": 2, "bee": 2}}
    assert any("2 pictures that it does not label: 'images/4.png', 'images/5.png'" in note for note in layout.notes)
    assert any("1 without a value" in note for note in layout.notes)


@pytest.mark.parametrize("missing", ["NaN", "nan", "N/A", "NULL", "None", "-1"])
def test_label_that_may_mean_a_missing_one_is_said(tmp_path, missing):
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "id,label", *rows("{}")[:4], f"4,{missing}"))
    assert layout.class_names == tuple(sorted(["ant", "bee", missing]))
    (note,) = (note for note in layout.notes if "is taken as it stands" in note)
    assert repr(missing) in note
    assert "1 lines" in note


def test_ordinary_labels_are_not_said_to_be_missing(tmp_path):
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "id,label", *rows("{}")))
    assert not any("is taken as it stands" in note for note in layout.notes)


@pytest.mark.parametrize(
    ("header", "lines", "words"),
    [
        ("id,label", [f"{number},ant" for number in range(7, 12)], "5 pictures are named that are not in --input"),
        ("id,label", ["7,ant", "0,ant"], "1 pictures are named that are not in --input"),
        ("id,label", ["0,ant", "1,Ant", "2,ant"], "one label is spelled 'ant' (2) and 'Ant' (1)"),
        ("id,label", ["0,ant", "1,ant "], "one label is spelled"),
        ("id,label", ["0,10", "1,10.0", "2,2"], "one label is spelled '10' (1) and '10.0' (1)"),  # joined tables
        ("id,label", ["0,ant", "1,an\u200bt"], "one label is spelled"),  # a zero-width space
        ("id,label", ["0,ant", "images/0.png,bee"], "1 lines repeat a picture with another label or split: 'images/0"),
        ("id,label,split", ["0,ant,fold3", "1,ant,fold3"], "2 lines name a split that is none of train, val and test"),
        ("id,label,split", ["0,ant,test"], "labels no picture of train"),
        ("id,label,label", ["0,ant,bee"], "several columns are called 'label'"),
        ("a,b", ["0,ant"], "no column for the picture"),
        ("id,b", ["0,ant"], "no column for the label"),
    ],
)  # fmt: skip
def test_table_that_does_not_fit_is_one_line(tmp_path, header, lines, words):
    with pytest.raises(UserError) as error:
        layout_of(FLAT, labels_csv=table(tmp_path, header, *lines))
    assert words in str(error.value) and "labels.csv" in str(error.value) and "\n" not in str(error.value)


def test_missing_pictures_are_left_out_when_asked(tmp_path):
    path = table(tmp_path, "id,label", *rows("{}"), "7,ant")
    layout = layout_of(FLAT, labels_csv=path, skip_missing=True)
    assert counts(layout) == {"train": BOTH} and "1 of pictures that are not there" in layout.notes[0]


def test_bare_name_that_several_pictures_have(tmp_path):
    with pytest.raises(UserError, match="1 pictures are named that several files may be; give their paths: '0'"):
        layout_of(files_of("a b", 1), labels_csv=table(tmp_path, "id,label", "0,ant"))


def test_file_that_is_no_table(tmp_path):
    for content, words in (
        (b"\xff\xfei\0d\0", "is UTF-16"), (b"\x89PNG\r\n\x00\xff", "no column"), (b"", "no column"),
        (b"PK\3\4\r\xff\n", "is a workbook or zip, no text"), (b"\x1f\x8b\x08", "is packed by gzip"),
        (b"PAR1\x15", "is Parquet, no text"), (b"a\rb", "no column"), (b"x" * 200_000, "line 1 is not CSV"),
        (b'"id,label\n', "line 1 is not CSV"),
    ):  # fmt: skip
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(UserError, match=words):
            layout_of(FLAT, labels_csv=str(tmp_path / "x.csv"))
    with pytest.raises(UserError, match="no such file, nor in the input"):
        layout_of(FLAT, labels_csv="nowhere.csv")


NAMES = {"n01": "great tench, Tinca tinca", "n02": "goldfish"}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(NAMES),
        json.dumps({"0": ["n01", NAMES["n01"]], "1": ["n02", NAMES["n02"]]}),
        "".join(f"{key} {name}\n" for key, name in NAMES.items()),
        "".join(f"{key}\t{name}\n" for key, name in NAMES.items()),
        "folder,name\n" + "".join(f'{key},"{name}"\n' for key, name in NAMES.items()),
    ],
)
def test_class_names_by_a_map(tmp_path, content):
    (tmp_path / "names").write_text(content)
    layout = layout_of(files_of("train/n01 train/n02"), class_names=str(tmp_path / "names"))
    assert layout.class_names == tuple(NAMES.values())


@pytest.mark.parametrize(
    ("content", "words"),
    [("n01 tench\n", "has no name for 1 of 2 classes: 'n02'"), ("n01 crane\nn02 crane\n", "all 'crane'")],
)
def test_class_map_that_does_not_fit(tmp_path, content, words):
    (tmp_path / "names").write_text(content)
    with pytest.raises(UserError, match=words):
        layout_of(files_of("train/n01 train/n02"), class_names=str(tmp_path / "names"))


@pytest.mark.parametrize(
    ("column", "values"),
    [("Usage", ("Training", "PublicTest")), ("data set", ("train", "test")), ("phase", ("train", "val"))],
)
def test_column_that_tells_splits_by_its_values_is_not_passed_over(tmp_path, column, values):
    """Pictures of test would be trained on."""
    lines = [f"{number},{label},{values[number > 2]}" for number, label in enumerate("ababab")]
    with pytest.raises(UserError, match=f"column '{column}' tells splits .*'{values[1]}'.* call it split"):
        layout_of(FLAT, labels_csv=table(tmp_path, f"file,label,{column}", *lines))


@pytest.mark.parametrize("values", [("train", "train"), ("train", "car"), ("", "test"), ("validated", "train")])
def test_other_columns_are_passed_over(tmp_path, values):
    lines = [f"{number},{label},{values[number > 2]},{number}" for number, label in enumerate("ababab")]
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "file,label,vehicle,", *lines))
    assert layout.files.keys() == {"train"} and not any("vehicle" in note for note in layout.notes)


def test_column_that_tells_a_split_by_its_name_is_said_not_to_be_used(tmp_path):
    lines = [f"{number},{label},{number > 2}" for number, label in enumerate("ababab")]
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "file,label,is_valid", *lines))
    assert any("column 'is_valid' is not used" in note for note in layout.notes)


def test_lines_without_a_split_are_said(tmp_path):
    lines = ["0,a,", "1,b,test", "2,a, ", "3,b,", "4,a,test", "5,b, "]
    layout = layout_of(FLAT, labels_csv=table(tmp_path, "file,label,split", *lines))
    assert any("4 lines name no split: their pictures are of the folder's, or else of train" in x for x in layout.notes)


def test_labels_that_hardly_repeat_are_said(tmp_path):
    names = files_of("images", 12)
    for value, is_said in (("{0}.37", True), ("{1}", False)):
        lines = [f"{number},{value.format(number, number % 6)}" for number in range(12)]
        notes = layout_of(names, labels_csv=table(tmp_path, "file,target", *lines)).notes
        assert any("12 labels for 12 pictures; is this the column" in note for note in notes) == is_said


def test_groups_that_look_alike_are_one_and_pictures_without_are_counted(tmp_path):
    path = table(
        tmp_path, "file,patient", "images/0.png,7", "images/1.png,7.0", "images/2.png,P 1", "images/3.png,p  1"
    )
    labels = table(tmp_path, "id,label", *rows("{}"), name="l.csv")
    layout = layout_of(FLAT, labels_csv=labels, group_csv=path)
    groups = [layout.groups[f"images/{number}.png"] for number in range(4)]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert any("has no group for 2 of 6 pictures" in note for note in layout.notes)


def test_groups_of_pictures(tmp_path):
    path = table(tmp_path, "file;patient", "images/0.png;a", "1;a", "4.png;b", "unknown;c")
    labels = table(tmp_path, "id,label", *rows("{}"), name="l.csv")
    layout = layout_of(FLAT, labels_csv=labels, group_csv=path)
    assert layout.groups == {"images/0.png": "a", "images/1.png": "a", "images/4.png": "b"}
    with pytest.raises(UserError, match="lines repeat a picture with another"):
        layout_of(FLAT, labels_csv=labels, group_csv=table(tmp_path, "id,group", "0,a", "0,b"))
    with pytest.raises(UserError, match="1 pictures are named that several files may be"):
        layout_of(files_of("train/ant train/bee"), group_csv=table(tmp_path, "id,group", "0,a"))
    with pytest.raises(UserError, match="names no picture of the input"):
        layout_of(FLAT, labels_csv=labels, group_csv=table(tmp_path, "id,group", "x,a"))
