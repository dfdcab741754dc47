"""The study's runner and report on runs with known numbers."""

import base64
import csv
import dataclasses
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from finished_runs import trainer
from PIL import Image
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES
from tl_distributed.reporting.drawing import series_styles
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies import findings
from tl_distributed.studies.budget import best_by_time, budget
from tl_distributed.studies.clock import planned_work
from tl_distributed.studies.collect import at_largest_size, compare_all, epochs_of, load_records, summarise
from tl_distributed.studies.figures import DARK, LIGHT, Figures
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.studies.report import write_report
from tl_distributed.studies.runner import open_study, run_plan

ALONE = {"workers": Workers(), "cluster_arguments": (), "data_copy_dir": ""}
ARMS = "cnn:backbone=baseline_cnn,transfer=scratch;deep:backbone=resnet20,transfer=scratch;odd.name-1:backbone=tiny"
ACCURACY = {"baseline_cnn": {10: 0.5, 0: 0.7}, "resnet20": {10: 0.7, 0: 0.9}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 120, "val": 30, "test": 300}
    return write_toy_dataset(tmp_path_factory.mktemp("study") / "toy", counts=counts, size=8)


def plan_of(*arguments: str):
    return make_plan(parse_arguments(StudyConfig, [f"--arms={ARMS}", *arguments])[0])


def accuracy_of(config) -> float | str:
    if config.backbone == "tiny":
        return "the loss became NaN"
    return ACCURACY[config.backbone][config.images_per_class] + 0.01 * config.seed


@pytest.fixture(scope="module")
def study(data_dir, tmp_path_factory):
    """Two arms that succeed and one that fails, two sizes, two seeds."""
    workdir = str(tmp_path_factory.mktemp("report"))
    plan, info, calls = plan_of("--seeds=2", "--images_per_class=10,0"), read_manifest(data_dir), []
    open_study(workdir, plan, info)
    failed = run_plan(plan, info, data_dir=data_dir, workdir=workdir, train=trainer(accuracy_of, calls), **ALONE)
    assert failed == 4
    records = write_report(plan, info, data_dir=data_dir, workdir=workdir)
    return plan, pathlib.Path(workdir), records, calls


def test_every_run_is_asked_for_once_with_its_seed_and_size(study, data_dir):
    _, _, records, calls = study
    assert len(calls) == len(records) == 12
    assert {(c.backbone, c.images_per_class, c.seed) for c in calls} == {
        (backbone, size, seed)
        for backbone in ("baseline_cnn", "resnet20", "tiny")
        for size in (10, 0)
        for seed in (0, 1)
    }
    assert {config.data_dir for config in calls} == {data_dir}
    assert len({config.workdir for config in calls}) == 12
    assert all((pathlib.Path(config.workdir) / "log.txt").exists() for config in calls)


def test_bad_arm_is_recorded_and_the_others_are_kept(study):
    _, workdir, records, _ = study
    assert [record.status for record in records].count("failed") == 4
    assert {record.reason for record in records if record.status == "failed"} == {"the loss became NaN"}
    text = (workdir / "report.md").read_text()
    assert "Failed: 4 runs of odd.name-1: the loss became NaN." in text


def test_second_start_runs_only_what_is_missing_and_more_can_be_added(study, data_dir, tmp_path):
    _, workdir, _, _ = study
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    info, calls = read_manifest(data_dir), []
    plan = plan_of("--seeds=3", "--images_per_class=10,0")
    open_study(str(copy), plan, info)
    healed = trainer(lambda config: 0.5 if config.backbone == "tiny" else accuracy_of(config), calls)
    assert run_plan(plan, info, data_dir=data_dir, workdir=str(copy), train=healed, **ALONE) == 0
    assert [(c.backbone, c.seed) for c in calls if c.backbone != "tiny"] == [
        ("baseline_cnn", 2), ("resnet20", 2), ("baseline_cnn", 2), ("resnet20", 2)
    ]  # fmt: skip
    assert len([c for c in calls if c.backbone == "tiny"]) == 6
    assert {record.status for record in load_records(plan, str(copy))} == {"done"}


def test_other_flags_or_another_data_set_under_the_same_name_are_refused(study, data_dir, tmp_path):
    _, workdir, _, _ = study
    info = read_manifest(data_dir)
    changed = make_plan(parse_arguments(StudyConfig, ["--arms=cnn:backbone=baseline_cnn,transfer=scratch,epochs=9"])[0])
    with pytest.raises(UserError, match=r"holds an arm cnn with other settings \(epochs 10 there, 9 here\)"):
        open_study(str(workdir), changed, info)
    other = write_toy_dataset(tmp_path / "other", counts={"train": 6, "val": 6, "test": 6}, size=8)
    with pytest.raises(UserError, match="a study of another data set"):
        open_study(str(workdir), plan_of(), read_manifest(other))


def test_a_study_of_an_earlier_version_goes_on(study, data_dir, tmp_path):
    """What the earlier version had no flag for has its default."""
    plan, workdir, _, _ = study
    saved = json.loads((workdir / "plan.json").read_text())
    for settings in saved["arms"].values():
        del settings["min_steps"]
    (tmp_path / "plan.json").write_text(json.dumps(saved))
    info = read_manifest(data_dir)
    changed = make_plan(parse_arguments(StudyConfig, [f"--arms={ARMS}", "--common=min_steps=5"])[0])
    with pytest.raises(UserError, match=r"other settings \(min_steps 0 there, 5 here\)"):
        open_study(str(tmp_path), changed, info)
    open_study(str(tmp_path), plan, info)


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


class Page(html.parser.HTMLParser):
    """Collects tables, pictures and whatever could reach for the network."""

    def __init__(self):
        super().__init__()
        self.tables, self.images, self.links, self._cell, self.open = [], [], [], None, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "source"):
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


def test_page_needs_no_network_and_every_picture_is_whole_on_both_grounds(page, study):
    _, workdir, _, _ = study
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    text = (workdir / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://|<script|@import|url\(", text)
    grounds = []
    for image in page.images:
        picture = Image.open(io.BytesIO(base64.b64decode(image.removeprefix("data:image/png;base64,"))))
        grounds.append(picture.convert("RGB").getpixel((0, 0)))
        assert picture.width > 600
    assert grounds == [(20, 24, 29), (255, 255, 255)] * (len(grounds) // 2)
    names = {path.stem for path in (workdir / "plots").iterdir()}
    assert names >= {
        "model_comparison", "accuracy_comparison", "per_class_accuracy", "data_efficiency", "accuracy_against_seconds",
        "confusion_cnn", "confusion_deep", "confusion_difference_deep",
    }  # fmt: skip
    assert len(names) == len(page.images) / 2


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Runs headless Chromium without network on a file; returns what it printed and what it logged."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here; Debian's package is called chromium")
    profile = tmp_path_factory.mktemp("chromium")
    fixed = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", "--hide-scrollbars",
    ]  # fmt: skip

    def browse(path: pathlib.Path, *flags: str) -> tuple[str, str]:
        done = subprocess.run([*fixed, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, done.stderr

    return browse


@pytest.mark.parametrize(("scheme", "ground"), [("light", (255, 255, 255)), ("dark", (20, 24, 29))])
def test_browser_shows_the_page_on_either_ground_without_complaint(browser, study, tmp_path, scheme, ground):
    _, workdir, _, _ = study
    shot = tmp_path / "page.png"
    number = "0" if scheme == "dark" else "1"
    _, log = browser(
        workdir / "report.html", f"--screenshot={shot}", "--window-size=1100,2000",
        f"--blink-settings=preferredColorScheme={number}",
    )  # fmt: skip
    assert "CONSOLE" not in log
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert tuple(pixels[0]) == ground
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):  # the bars of the two arms: swatches alone are 500 pixels
        assert (pixels == colour).all(1).sum() > 5000


def test_browser_draws_every_picture(browser, study, tmp_path):
    """On a copy that may run a script, which counts them."""
    _, workdir, _, _ = study
    text = (workdir / "report.html").read_text()
    script = (
        "<script>onload = () => document.body.dataset.drawn = "
        "[...document.images].filter(image => image.complete && image.naturalWidth > 600).length</script>"
    )
    copy = tmp_path / "copy.html"
    copy.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", script + "</body>"))
    shown, _ = browser(copy, "--dump-dom")
    assert f'data-drawn="{text.count("<img ")}"' in shown


def test_numbers_of_the_page_are_those_of_the_table(page, study):
    _, workdir, _, _ = study
    rows = list(csv.DictReader((workdir / "results.csv").open()))
    shown = {row[0]: row for row in page.tables[0][1:]}
    assert set(shown) == {"cnn", "deep"}
    for name, cells in shown.items():
        own = [row for row in rows if row["arm"] == name and row["images_per_class"] == "0"]
        accuracies = [100 * float(row["test_accuracy"]) for row in own]
        assert cells[1] == f"{np.mean(accuracies):.2f} % ± {np.std(accuracies, ddof=1):.2f}"
        assert cells[3] == "2"
        assert float(cells[7]) == pytest.approx(np.mean([float(row["seconds"]) for row in own]))


def test_words_follow_from_the_numbers(study):
    plan, _, records, _ = study
    summaries = summarise(plan, records)
    arms = at_largest_size(plan, summaries)
    pairs = compare_all(arms)
    text = " ".join(findings.ranking(arms, plan.baseline, pairs))
    assert text.startswith(
        "Best on the test images is deep with 90.50 % ± 0.71 (2 seeds), then cnn with 70.50 % ± 0.71."
    )
    gain = findings.gain_over_baseline(arms, "cnn", pairs)
    assert len(gain) == 1
    assert gain[0].startswith("deep against the baseline cnn: +20.00 points")
    assert gain[0].endswith("more than noise.")
    assert "training accuracy is 10.0 points above validation" in findings.fitting(arms)[0]
    assert "The best epoch of 2 of 2 runs was the last" in findings.fitting(arms)[0]
    assert budget(arms) == [
        "By training time: from 2 to 20 s cnn leads; from 20 s on deep leads, with 90.5 % there.",
        "The whole training of cnn takes least: 8 s.",
    ]
    efficiency = findings.data_efficiency(summaries, "cnn")
    assert efficiency[0].startswith("Best by images of each class: 10: deep (70.50 % ± 0.71); all: deep (90.50 %")
    assert efficiency[1].startswith("deep reaches what cnn reaches with all (70.50 % ± 0.71) with 10 (70.50 %")


def test_the_size_at_which_the_lead_changes_is_named(study):
    plan, _, records, _ = study
    summaries = summarise(plan, records)
    score = {("cnn", 10): 0.6, ("deep", 10): 0.5, ("cnn", 0): 0.7, ("deep", 0): 0.9}

    def scored(record, summary):
        accuracy = score[summary.name, summary.images_per_class]
        return dataclasses.replace(record, results={**record.results, "test_accuracy": accuracy})

    changed = [
        dataclasses.replace(summary, records=tuple(scored(record, summary) for record in summary.records))
        for summary in summaries
    ]
    sentences = findings.data_efficiency(changed, "cnn")
    assert "The lead passes from cnn to deep between 10 and all images of each class." in sentences
    assert not any("lead" in sentence for sentence in findings.data_efficiency(summaries, "cnn"))


def test_equal_arms_are_not_told_apart(data_dir, tmp_path):
    plan, info = plan_of(), read_manifest(data_dir)
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=trainer(lambda _: 0.8, []), **ALONE)
    records = write_report(plan, info, data_dir=data_dir, workdir=str(tmp_path))
    arms = summarise(plan, records)
    sentences = findings.ranking(arms, "cnn", compare_all(arms))
    assert sentences[0].startswith("cnn and deep are level on the test images: 80.00 %")
    assert "Not told apart by these runs: cnn and deep; cnn and odd.name-1; deep and odd.name-1." in sentences
    assert "How much data" not in (tmp_path / "report.md").read_text()
    assert "interval of one run" not in (tmp_path / "report.md").read_text()


def test_leader_changes_with_the_budget(study):
    """cnn is validated every 2 s and ends at 0.70, deep every 5 s: 0.225, 0.45, 0.675, 0.90."""
    plan, _, records, _ = study
    leads = best_by_time(at_largest_size(plan, summarise(plan, records)))
    assert [(lead.seconds, lead.arm) for lead in leads] == [(2.0, "cnn"), (20.0, "deep")]
    assert leads[1].over == pytest.approx(0.2)


def test_a_lead_within_the_noise_of_validation_is_said_to_be_one(data_dir, tmp_path):
    """30 validation images, one seed: 0.80 and 0.82 cannot be told apart, whoever comes later."""
    plan, info = plan_of(), read_manifest(data_dir)
    train = trainer(lambda config: {"baseline_cnn": 0.8, "resnet20": 0.82}.get(config.backbone, "no"), [])
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=train, **ALONE)
    sentences = budget(summarise(plan, load_records(plan, str(tmp_path))))
    half = 100 * 1.96 * ((0.8 * 0.2 + 0.82 * 0.18) / 30) ** 0.5
    assert sentences[1] == (
        f"That deep overtakes cnn at 20 s is not told from noise: +2.00 points, where validation and seeds tell "
        f"{half:.2f} apart."
    )


def test_runs_of_other_test_images_are_not_compared(study):
    plan, _, records, _ = study
    arms = at_largest_size(plan, summarise(plan, records))
    record = arms[1].records[0]
    other = dataclasses.replace(record, labels=record.labels[::-1])
    changed = dataclasses.replace(arms[1], records=(other, *arms[1].records[1:]))
    with pytest.raises(UserError, match="were scored on other test images"):
        compare_all([arms[0], changed])


def test_a_verdict_of_one_seed_is_about_its_runs(data_dir, tmp_path):
    plan, info = plan_of(), read_manifest(data_dir)
    train = trainer(lambda config: {"baseline_cnn": 0.5, "resnet20": 0.9}.get(config.backbone, "no"), [])
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=train, **ALONE)
    arms = summarise(plan, load_records(plan, str(tmp_path)))
    (sentence,) = findings.gain_over_baseline(arms, "cnn", compare_all(arms))
    assert sentence.endswith(
        "more than noise of the test images, all that one seed can show: it is said of these two runs, not of the "
        "methods."
    )


def test_training_rows_become_epochs_by_weight_of_their_steps():
    rows = [
        {"step": 1, "epoch": 0.1, "loss": 4.0, "accuracy": 0.0, "seconds": 1.0},
        {"step": 4, "epoch": 1.0, "loss": 2.0, "accuracy": 0.4, "seconds": 4.0},
        {"step": 4, "epoch": 1.0, "val_loss": 1.5, "val_accuracy": 0.5, "seconds": 4.0},
        {"step": 8, "epoch": 2.0, "loss": 1.0, "accuracy": None, "seconds": 8.0},
    ]
    (epoch,) = epochs_of(rows)
    assert (epoch.train_loss, epoch.train_accuracy) == (pytest.approx(2.5), pytest.approx(0.3))
    assert (epoch.val_accuracy, epoch.seconds) == (0.5, 4.0)


def test_arms_have_one_style_each_and_figures_take_many_classes(study):
    plan, _, records, _ = study
    styles = series_styles([f"arm{index}" for index in range(12)])
    assert len({(style.color, style.marker, style.linestyle) for style in styles.values()}) == 12
    arms = at_largest_size(plan, summarise(plan, records))
    for theme in (LIGHT, DARK):
        figures = Figures(series_styles(["cnn", "deep"]), CLASS_NAMES, theme)
        bars = figures.accuracy_comparison(arms).axes[0].containers
        assert {patch.get_facecolor() for container in bars[:1] for patch in getattr(container, "patches", [])}
        figure = figures.model_comparison(arms)
        assert [axes.get_ylabel() for axes in figure.axes] == [
            "training accuracy (%)", "validation accuracy (%)", "training loss (nats)", "validation loss (nats)",
        ]  # fmt: skip
        colours = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
        assert colours == {"cnn": "#0072B2", "deep": "#E69F00"}


@pytest.mark.parametrize(
    ("flags", "passes"),
    [
        ("transfer=full", 3 * 20 * 120),
        ("transfer=frozen,feature_bank=off", 20 * 120),
        ("transfer=frozen", 120 + 330 + 0.01 * 20 * 120),  # every image once for the bank, then the head
        ("transfer=partial,unfreeze_last_layers=9,augment=basic,bank_views=3", 3 * 120 + 330 + 20 * 120),
        ("transfer=two_phase,head_epochs=2", 120 + 330 + 0.01 * 2 * 120 + 3 * 20 * 120),
    ],
)
def test_expected_work_counts_passes_of_the_net(data_dir, flags, passes):
    common = "augment=none,epochs=20,global_batch_size=10,weights=PATH,image_size=112"
    plan = make_plan(
        parse_arguments(StudyConfig, [f"--arms=arm:backbone=mobilenet_v2,{flags}", f"--common={common}"])[0]
    )
    config, _ = parse_arguments(Config, plan.arms[0].arguments)
    forward = BACKBONES["mobilenet_v2"].gmacs * (112 / 224) ** 2
    assert planned_work(config, read_manifest(data_dir), 0) == pytest.approx(forward * passes)


def test_nothing_done_is_said_in_one_line(data_dir, tmp_path):
    plan, info = plan_of(), read_manifest(data_dir)
    with pytest.raises(UserError, match="no run to report on \\(nothing has been run\\)"):
        write_report(plan, info, data_dir=data_dir, workdir=str(tmp_path))
