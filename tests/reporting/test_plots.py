"""Figures: what they show, that they can be drawn at any size, and that files appear whole."""

import io
import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from tl_distributed.reporting import plots
from tl_distributed.reporting.drawing import figure_png


def _rows():
    return [
        {"step": 10, "epoch": 0.5, "loss": 2.0, "accuracy": 0.2, "phase": "head"},
        {"step": 20, "epoch": 1.0, "loss": 1.5, "accuracy": 0.4, "phase": "head"},
        {"step": 20, "epoch": 1.0, "val_loss": 1.6, "val_accuracy": 0.3, "phase": "head"},
        {"step": 30, "epoch": 1.5, "loss": None, "accuracy": 0.6, "phase": "finetune"},
        {"step": 40, "epoch": 2.0, "val_loss": 1.1, "val_accuracy": 0.5, "phase": "finetune"},
        {"step": 40, "test_accuracy": 0.5},
    ]


def _points(axes) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [tuple(point) for point in line.get_xydata().tolist()]
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_reliability_shows_each_bin_as_trained_and_at_the_temperature():
    bins, calibrated = [[0.4, 0.3, 10], [0.9, 0.7, 10]], [[0.35, 0.3, 10], [0.7, 0.7, 10]]
    (axes,) = plots.reliability_diagram(bins, calibrated, 1.5).axes
    assert _points(axes) == {
        "as sure as right": [(0, 0), (1, 1)],
        "as trained: expected error 15.0 points": [(0.4, 0.3), (0.9, 0.7)],
        "at temperature 1.5: expected error 2.5 points": [(0.35, 0.3), (0.7, 0.7)],
    }
    (axes,) = plots.reliability_diagram([]).axes
    assert list(_points(axes)) == ["as sure as right"]


def test_learning_curves_show_both_splits_and_the_phases():
    accuracy, loss = plots.learning_curves(_rows()).axes
    assert _points(accuracy) == {
        "training": [(0.5, 0.2), (1.0, 0.4), (1.5, 0.6)],
        "validation": [(1.0, 0.3), (2.0, 0.5)],
    }
    assert _points(loss) == {"training": [(0.5, 2.0), (1.0, 1.5)], "validation": [(1.0, 1.6), (2.0, 1.1)]}
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in (accuracy, loss)] == [
        ("epoch", "accuracy (%)"),
        ("epoch", "loss (nats)"),
    ]
    assert [text.get_text().strip() for text in accuracy.texts] == ["head", "finetune"]
    training, validation = (line for line in loss.get_lines() if not line.get_label().startswith("_"))
    assert training.get_linestyle() != validation.get_linestyle() and training.get_color() != validation.get_color()


def test_learning_curves_of_one_phase_have_no_marks():
    accuracy, _ = plots.learning_curves(_rows()[:2]).axes
    assert len(accuracy.get_lines()) == 1 and not accuracy.texts


def test_learning_curves_without_rows_say_so():
    assert [axes.texts[0].get_text() for axes in plots.learning_curves([]).axes] == ["no values"] * 2


def _drawn(figure) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(plots.figure_png(figure))).convert("RGB"))


@pytest.mark.parametrize("num_classes", [2, 10, 24, 50])
def test_confusion_matrix_at_any_size(num_classes):
    matrix = np.eye(num_classes, dtype=np.int64) * 8
    matrix[0, 1], matrix[1] = 2, 0  # one class confused, one without examples
    names = [f"class {index}" for index in range(num_classes)]
    figure = plots.confusion_matrix(matrix.tolist(), names)
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    assert shares[0, 0] == pytest.approx(0.8) and shares[0, 1] == pytest.approx(0.2) and not shares[1].any()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == (["8", "2"] + ["8"] * (num_classes - 2) if num_classes <= 20 else [])
    _drawn(figure)
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    overlapping = [one.overlaps(two) for one, two in itertools.pairwise(boxes)]
    assert len(boxes) >= 2 and not any(overlapping)


def labels_apart(axes) -> list[str]:
    """Returns the names on the vertical axis, none of which covers another."""
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize("num_classes", [51, 1000])
def test_of_many_classes_the_most_confused_pairs_are_drawn_in_place_of_a_matrix(num_classes):
    matrix = np.eye(num_classes, dtype=np.int64) * 8
    matrix[3, 5], matrix[7, 2] = 2, 24
    figure = plots.confusion_matrix(matrix, [f"class ${index}" for index in range(num_classes)])
    (axes,) = figure.axes
    _drawn(figure)
    assert labels_apart(axes) == [r"class \$7, taken for class \$2", r"class \$3, taken for class \$5"]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.2] and not axes.images
    right = plots.confusion_matrix(np.eye(num_classes, dtype=np.int64), ["x"] * num_classes)
    assert [text.get_text() for text in right.axes[0].texts] == ["none"]
    _drawn(right)


def test_of_many_classes_the_worst_are_drawn():
    scores = {f"class {index}": {"accuracy": index / 999} for index in range(1000)}
    figure = plots.per_class_accuracy(scores)
    (axes,) = figure.axes
    assert max(_drawn(figure).shape[:2]) < 2500
    assert labels_apart(axes) == [f"class {index}" for index in range(40)]
    assert axes.get_ylabel() == "class, the 40 worst of 1,000"
    assert axes.get_legend().get_texts()[0].get_text() == "mean of the classes: 50.0 %"


def test_names_that_no_font_can_draw_are_said_in_one_line(caplog):
    from tl_distributed.reporting import drawing

    drawing._say_missing.cache_clear()
    names = ["漢字", "🐈", "tab\tname", "line\u2028separator", "\x07bell", "\udcff"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            _drawn(plots.confusion_matrix(np.eye(6, dtype=int), names))
            _drawn(plots.per_class_accuracy({name: {"accuracy": 0.5} for name in names}))
    assert len(caplog.messages) == 1 and "DejaVu Sans lacks as boxes" in caplog.messages[0]
    shown = [drawing.shortened(name) for name in names[2:]]
    assert shown == ["tab\\tname", "line\\u2028separator", "\\x07bell", "\\xff"]


def test_other_warnings_of_drawing_are_kept(monkeypatch):
    figure = plots.learning_curves([])
    monkeypatch.setattr(type(figure), "savefig", lambda *_, **__: warnings.warn("another", UserWarning, stacklevel=1))
    with pytest.warns(UserWarning, match="another"):
        plots.figure_png(figure)


def test_per_class_accuracy_puts_the_worst_first_and_leaves_out_the_unmeasured():
    scores = {"a": {"accuracy": 0.9}, "b$": {"accuracy": 0.1}, "c": {"accuracy": math.nan}, "d": {"accuracy": None}}
    figure = plots.per_class_accuracy(scores)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.9]
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"b\$", "a"]
    assert axes.get_legend().get_texts()[0].get_text() == "mean of the classes: 50.0 %"
    _drawn(figure)


def test_per_class_accuracy_of_nothing():
    _drawn(plots.per_class_accuracy({"a": {"accuracy": None}}))


def test_image_grid_places_images_and_captions():
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), np.uint8)
    figure = plots.image_grid(images, [f"image {index}" for index in range(5)], columns=3)
    (axes,) = figure.axes
    places = []
    for drawn, text, image, index in zip(axes.images, axes.texts, images, range(5), strict=True):
        np.testing.assert_array_equal(drawn.get_array(), image)
        assert text.get_text() == f"image {index}"
        left, right, bottom, top = drawn.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(6 / 4)  # of height 6 and width 4, downwards
        assert left < text.get_position()[0] < right and text.get_position()[1] < top
        places.append((left, top))
    lefts, tops = (sorted({round(place[axis], 6) for place in places}) for axis in (0, 1))
    assert [(lefts.index(round(left, 6)), tops.index(round(top, 6))) for left, top in places] == [
        (0, 0), (1, 0), (2, 0), (0, 1), (1, 1),
    ]  # fmt: skip
    _drawn(figure)


def test_image_grid_shows_the_pixels_of_each_image():
    """Looked at in the file: images of two sizes and colours, and neither covers the other."""
    images = [np.full((8, 16, 3), (255, 0, 0), np.uint8), np.full((20, 10, 3), (0, 0, 255), np.uint8)]
    pixels = np.asarray(
        Image.open(io.BytesIO(figure_png(plots.image_grid(images, ["", ""], columns=2)))).convert("RGB")
    )
    red, blue = (np.argwhere((pixels == colour).all(-1)) for colour in ((255, 0, 0), (0, 0, 255)))
    assert red[:, 1].max() < blue[:, 1].min()
    (red_height, red_width), (blue_height, blue_width) = np.ptp(red, axis=0), np.ptp(blue, axis=0)
    assert red_width / red_height == pytest.approx(2, rel=0.03)
    assert blue_width / blue_height == pytest.approx(0.5, rel=0.03)


def test_captions_of_neighbours_do_not_overlap():
    captions = ["a_class_with_quite_a_long_name, taken for\na_class_with_a_longer_name_than_that 100%"] * 6
    figure = plots.image_grid(np.zeros((6, 8, 8, 3), np.uint8), captions, columns=3)
    _drawn(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))


def test_image_grid_of_nothing():
    _drawn(plots.image_grid(np.zeros((0, 4, 4, 3), np.uint8), [], columns=8))


def test_saved_figure_is_a_png_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "plots.png"
    path.write_bytes(b"old")
    plots.save_figure(plots.learning_curves(_rows()), str(path))
    assert Image.open(path).format == "PNG"
    assert list(tmp_path.iterdir()) == [path]


def test_colours_are_told_apart_when_colours_are_not_seen():
    """Brightness (ITU-R BT.601 luma) of the two curves differs by far more than one step of grey."""

    def luma(colour: str) -> float:
        red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert abs(luma(plots.BLUE) - luma(plots.ORANGE)) > 60


def test_no_pyplot_state():
    code = "import sys, tl_distributed.reporting.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
