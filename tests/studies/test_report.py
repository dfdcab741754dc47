"""The files of a study's report, on runs with known numbers."""

import csv
import dataclasses
import html.parser
import re

import numpy as np
import pytest
from finished_runs import trainer
from report_study import ALONE, accuracy_of, plan_of
from toy_dataset import CLASS_NAMES

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.reporting.drawing import series_styles
from tl_distributed.studies.charts import against_seconds, by_class, data_efficiency
from tl_distributed.studies.collect import ArmSummary, Epoch, Record, at_largest_size, summarise
from tl_distributed.studies.content import make_report
from tl_distributed.studies.figures import Figures
from tl_distributed.studies.plan import Arm, Run
from tl_distributed.studies.report import write_report
from tl_distributed.studies.runner import run_plan


def test_results_csv_has_every_run_with_its_numbers(study):
    _, workdir, _, calls = study
    rows = list(csv.DictReader((workdir / "results.csv").open()))
    assert len(rows) == 12
    for row in rows:
        config = next(config for config in calls if config.workdir == row["workdir"])
        assert (int(row["seed"]), int(row["images_per_class"])) == (config.seed, config.images_per_class)
        if row["status"] == "done":
            assert float(row["test_accuracy"]) == pytest.approx(accuracy_of(config))
            assert float(row["train_accuracy"]) == pytest.approx(min(1.0, accuracy_of(config) + 0.1))
            assert (float(row["best_epoch"]), int(row["images_seen"])) == (4.0, 40 * config.global_batch_size)
        else:
            assert row["test_accuracy"] == ""


_PICTURE = '<img src="data:image/jpeg'


class Page(html.parser.HTMLParser):
    """Collects tables, pictures and whatever could reach for the network."""

    def __init__(self):
        super().__init__()
        self.tables, self.images, self.links, self._cell, self.open = [], [], [], None, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag in ("img", "source"):
            self.images.append(attributes.get("src") or attributes["srcset"])

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self._cell)
            self._cell = None


@pytest.fixture(scope="module")
def page(study):
    found = Page()
    found.feed((study[1] / "report.html").read_text())
    assert not found.open
    return found


def test_page_needs_no_network_and_shows_every_figure_without_a_script(page, study):
    _, workdir, _, _ = study
    text = (workdir / "report.html").read_text()
    assert all(link.startswith(("data:", "#", "arms/")) for link in page.links)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src &#39;none&#39;") and "unsafe-eval" not in policy
    names = {path.stem for path in (workdir / "plots").iterdir()}
    assert names == {
        "model_comparison", "accuracy_comparison", "per_class_accuracy", "data_efficiency", "accuracy_against_seconds",
    }  # fmt: skip
    for name in names:
        figure = text[text.index(f'id="{name}"') :]
        assert "<svg" in figure[: figure.index("</figure>")].split('class="static"')[1]


def test_numbers_of_the_page_are_those_of_the_table(page, study):
    _, workdir, _, _ = study
    rows = list(csv.DictReader((workdir / "results.csv").open()))
    shown = page.tables[0][1:]
    assert [row[0] for row in shown] == ["deep", "cnn"]  # by rank
    for name, accuracy, interval, letters, parameters, seconds, images in shown:
        own = [row for row in rows if row["arm"] == name and row["images_per_class"] == "0"]
        accuracies = [100 * float(row["test_accuracy"]) for row in own]
        assert accuracy == f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"
        low, high = map(float, interval.split(" to "))
        assert low < np.mean(accuracies) < high
        assert letters == {"deep": "a", "cnn": "b"}[name]
        assert float(parameters.replace(",", "")) == float(own[0]["trainable_parameters"])
        assert float(seconds) == pytest.approx(np.mean([float(row["seconds"]) for row in own]))
        assert float(images.replace(",", "")) == float(own[0]["images_seen"])


def test_markdown_holds_finding_table_and_figures(study):
    text = (study[1] / "report.md").read_text()
    assert text.splitlines()[2].startswith("**deep is best: 90.5 %")
    assert "| deep | 90.50 ± 0.71 |" in text and "![" in text
    for target in re.findall(r"\]\((plots/[^)]*)\)", text):
        assert (study[1] / target).stat().st_size > 5000


def test_pictures_that_are_gone_are_said_to_be(study, tmp_path):
    plan, workdir, _, calls = study
    info = read_manifest(calls[0].data_dir)
    (tmp_path / "arms").symlink_to(workdir / "arms")
    write_report(plan, info, data_dir=str(tmp_path / "gone"), workdir=str(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert "The pictures are not shown, since the data set cannot be read" in text and _PICTURE not in text
    assert _PICTURE in (workdir / "report.html").read_text()


def test_arms_have_one_style_each_and_figures_show_them(study):
    plan, _, records, _ = study
    styles = series_styles([f"arm{index}" for index in range(12)])
    assert len({(style.color, style.marker, style.linestyle) for style in styles.values()}) == 12
    arms = at_largest_size(plan, summarise(plan, records))
    figure = Figures(series_styles(["cnn", "deep"]), CLASS_NAMES).model_comparison(arms)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "training accuracy (%)", "validation accuracy (%)", "training loss (nats)", "validation loss (nats)",
    ]  # fmt: skip
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
    assert colours == {"cnn": "#0072B2", "deep": "#E69F00"}


def test_names_from_outside_are_text(data_dir, tmp_path):
    """An arm's flags and a failure's reason may hold whatever was typed."""
    plan = plan_of()
    hostile = "</script><script>alert(1)</script> | <img src=x>"
    train = trainer(lambda config: hostile if config.backbone == "tiny" else accuracy_of(config), [])
    run_plan(plan, read_manifest(data_dir), data_dir=data_dir, workdir=str(tmp_path), train=train, **ALONE)
    write_report(plan, read_manifest(data_dir), data_dir=data_dir, workdir=str(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert "alert(1)" in text and "<script>alert" not in text and "<img src=x" not in text


def test_nothing_done_is_said_in_one_line(data_dir, tmp_path):
    plan, info = plan_of(), read_manifest(data_dir)
    with pytest.raises(UserError, match="no run to report on \\(nothing has been run\\)"):
        write_report(plan, info, data_dir=data_dir, workdir=str(tmp_path))


def test_a_class_without_test_images_is_not_the_hardest(tmp_path):
    labels = np.array([0, 0, 1, 1], np.int32)
    np.savez(tmp_path / "predictions_test.npz", labels=labels, probabilities=np.eye(3, dtype=np.float32)[[0, 2, 1, 1]])
    record = Record(Run(Arm("one", ()), 0, 0), str(tmp_path), "done", results={"class_names": list(CLASS_NAMES)})
    arms, styles = [ArmSummary("one", 0, (record,))], series_styles(["one"])
    columns = by_class(arms, styles, CLASS_NAMES)["data"]["columns"]
    assert (columns["class"], columns["accuracy"]) == ([CLASS_NAMES[0], CLASS_NAMES[1]], [0.5, 1.0])
    (axes,) = Figures(styles, CLASS_NAMES).per_class_accuracy(arms).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [CLASS_NAMES[1], CLASS_NAMES[0]]


def test_all_images_are_drawn_beyond_any_size_where_classes_are_of_unequal_size(study, data_dir):
    """All is as many as the largest class has; the mean of the classes may be less than a size that was tried."""
    plan, workdir, records, _ = study
    info = read_manifest(data_dir)
    train = dataclasses.replace(info.splits["train"], counts_per_class=dict(zip(CLASS_NAMES, (2, 3, 115), strict=True)))
    report = make_report(
        plan, records, dataclasses.replace(info, splits={**info.splits, "train": train}), data_dir=data_dir,
        workdir=str(workdir), read=lambda _: {},
    )  # fmt: skip
    (section,) = (one for one in report.sections if one.title == "How much data")
    assert set(section.plots[0].specs[0]["data"]["columns"]["images"]) == {10, 115}


def test_a_rise_among_many_validations_is_drawn_where_it_was():
    """More validations than a curve has points, of which the second is the best."""
    shares = [0.2, 0.9, *[0.5] * 399]
    epochs = tuple(Epoch(1.0, 0.5, 1.0, share, 1.0, float(at), at) for at, share in enumerate(shares, start=1))
    arm = ArmSummary("one", 0, (Record(Run(Arm("one", ()), 0, 0), "", "done", epochs=epochs),))
    columns = against_seconds([arm], series_styles(["one"]))["data"]["columns"]
    assert (columns["seconds"], columns["best"]) == ([1, 2, 401], [0.2, 0.9, 0.9])


def test_the_curve_of_sizes_reaches_from_the_lowest_to_the_highest_seed():
    """As its caption says, and as the chart that a script draws."""
    reached = {10: (0.5, 0.52, 0.66), 0: (0.7, 0.8, 0.81)}
    arms = [
        ArmSummary("one", size, tuple(
            Record(Run(Arm("one", ()), size, seed), "", "done", results={"test_accuracy": share})
            for seed, share in enumerate(shares)
        )) for size, shares in reached.items()
    ]  # fmt: skip
    styles = series_styles(["one"])
    columns = data_efficiency(arms, styles, [10, 0], 50)["data"]["columns"]
    (axes,) = Figures(styles, CLASS_NAMES).data_efficiency(arms, [10, 0], 50).axes
    (bars,) = axes.collections
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([min(shares), max(shares)]) for shares in reached.values()]
    assert ends == [pytest.approx(pair) for pair in zip(columns["low"], columns["high"], strict=True)]
