"""The page of one run: what it says, and in headless Chromium with the network off."""

import json
import math
import re

import numpy as np
import pytest
from chromium import MISSING, PROGRAM, browse
from finished_runs import TEMPERATURE, write_run
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.files import to_json_values
from tl_distributed.inference.compared import Compared
from tl_distributed.inference.scoring import figures_line
from tl_distributed.reporting.run_page import write_run_page
from tl_distributed.reporting.scores import classification_summary
from tl_distributed.reporting.shown_scores import percentage, shown_metric
from tl_distributed.settings.config import Config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that gets 240 of 300 images right: its folder."""
    folder = tmp_path_factory.mktemp("page")
    data_dir = write_toy_dataset(folder / "data", counts={"train": 30, "val": 30, "test": 300}, size=8)
    config = Config(data_dir=data_dir, workdir=str(folder / "first"), backbone="baseline_cnn")
    write_run(config, 0.8)
    written = {
        "config": {"backbone": "baseline_cnn", "data_dir": data_dir, "seed": 3}, "devices": ["/device:CPU:0"],
        "command": ["train.py", "--backbone=baseline_cnn", "--workdir=<b>"], "commit": "0123abc",
        "versions": {"keras": "3.15"},
    }  # fmt: skip
    (folder / "first/config.json").write_text(json.dumps(written))
    _write(folder / "first")
    return folder / "first"


def _write(workdir) -> str:
    results = json.loads((workdir / "results.json").read_text())
    write_run_page(str(workdir), results, lambda places: {place: np.zeros((8, 8, 3), np.uint8) for place in places})
    return (workdir / "report.html").read_text()


def test_page_says_what_results_hold(run):
    text, results = (run / "report.html").read_text(), json.loads((run / "results.json").read_text())
    assert "baseline_cnn gets 80.0 % of 300 test images right (95 % interval 75.1 to 84.1), 3 classes" in text
    shown = dict(re.findall(r'<td class="name">([^<]*)</td><td class="n">([^<]*)</td>', text))
    assert shown["test accuracy"] == "80.00 %"
    assert shown["macro F1"] == f"{100 * results['test_macro_f1']:.2f} %"
    assert float(shown["temperature"]) == TEMPERATURE
    assert "python -m tl_distributed.train --backbone=baseline_cnn &#39;--workdir=&lt;b&gt;&#39;" in text
    assert "0123abc" in text and "keras 3.15" in text
    assert text.count('<img src="data:image/jpeg') == 12


def test_no_page_says_that_all_are_right_where_some_are_not(run, tmp_path):
    folder = tmp_path / "nearly"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (folder / name).write_bytes((run / name).read_bytes())
    results = json.loads((run / "results.json").read_text())
    results |= {"test_accuracy": 0.9996, "num_examples": {"val": 30, "test": 10_000}}
    (folder / "results.json").write_text(json.dumps(results))
    text = _write(folder)
    assert "gets 99.96 % of 10,000 test images right (95 % interval 99.9 to 99.98)" in text


def test_figures_of_validation_images_are_said_to_be(run, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    results = json.loads((run / "results.json").read_text())
    without = {name: None if name.startswith("test_") else value for name, value in results.items()}
    said = "; of the validation images: there is no test split"
    for content, count in ((results, 0), (without, 2)):
        (tmp_path / "results.json").write_text(json.dumps(content))
        assert _write(tmp_path).count(said) == count


def test_of_many_classes_it_is_said_how_many_are_drawn(run, tmp_path):
    """The figure leaves out those without images, so that it is they who do not count."""
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    results = json.loads((run / "results.json").read_text())
    found, missing = results["per_class"]["dark"], {**results["per_class"]["dark"], "accuracy": None, "support": 0}
    for scored, words in ((45, "Accuracy of each class:"), (52, "Accuracy of the 40 worst of 52 classes:")):
        per_class = {f"class {number}": found if number < scored else missing for number in range(60)}
        changed = {"per_class": per_class, "confusion_matrix": [], "most_confused": []}
        (tmp_path / "results.json").write_text(json.dumps({**results, **changed}))
        assert words in _write(tmp_path)


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.9314, 1, "93.1"), (1.0, 1, "100.0"), (0.0, 2, "0.00"), (0.9996, 1, "99.96"), (0.99996, 2, "99.996"),
        (0.0004, 1, "0.04"), (1 - 1e-12, 1, "100.000000"), (math.nan, 1, "nan"),
    ],
)  # fmt: skip
def test_all_and_none_are_written_of_just_that(share, decimals, text):
    assert percentage(share, decimals) == text


def test_lines_say_that_one_of_many_images_is_wrong():
    share = 1 - 1 / 50_000
    summary = dict.fromkeys(("macro_f1", "loss", "expected_calibration_error"), 0.5)
    summary |= {"accuracy": share, "top5_accuracy": 1.0, "balanced_accuracy": share, "num_examples": 50_000}
    assert figures_line(summary).startswith(
        "accuracy 99.998% of 50000 images, top-5 100.00%, balanced 99.998%, macro F1 0.5000, loss 0.5000, expected"
    )
    line = Compared("test", 50_000, share, 1.0, share).line()
    assert (
        line.startswith("accuracy 99.998% on 50,000") and "model 100.00%; both give the same answer for 99.998%" in line
    )
    assert shown_metric({"test_accuracy": share, "chosen_by": "val_accuracy"}, "test") == "accuracy 99.998%"


def test_page_of_a_model_that_answers_an_image_with_nan(run, tmp_path):
    folder = tmp_path / "nan"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (folder / name).write_bytes((run / name).read_bytes())
    saved = dict(np.load(run / "predictions_test.npz"))
    saved["probabilities"][7] = np.nan
    np.savez_compressed(folder / "predictions_test.npz", **saved)
    results, names = json.loads((run / "results.json").read_text()), CLASS_NAMES
    found = classification_summary(labels=saved["labels"], probabilities=saved["probabilities"], class_names=names)
    results |= {"reliability": found["reliability"], "per_class": found["per_class"], "test_loss": found["loss"]}
    results["test_expected_calibration_error"] = found["expected_calibration_error"]
    (folder / "results.json").write_text(json.dumps(to_json_values(results), allow_nan=False))
    assert re.search('test loss .nats.</td><td class="n">unknown<', _write(folder))
    assert sum(count for *_, count in found["reliability"]) == 299 and found["expected_calibration_error"] < 1


def test_page_of_an_earlier_version_lacks_what_was_not_written(run, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl", "predictions_test.npz"):
        (folder / name).write_bytes((run / name).read_bytes())
    results = json.loads((run / "results.json").read_text())
    kept = {name: value for name, value in results.items()
            if not re.search("f1|balanced|calib|reliab|temperature|top5|best_step", name)}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(kept))
    text = _write(folder)
    assert "test accuracy" in text and "macro F1" not in text and 'id="calibration"' not in text


def test_page_without_a_test_split_tells_of_validation(run, tmp_path):
    folder = tmp_path / "val"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (folder / name).write_bytes((run / name).read_bytes())
    results = json.loads((run / "results.json").read_text())
    results |= {name: None for name in results if name.startswith("test_")} | {"num_examples": {"val": 30}}
    (folder / "results.json").write_text(json.dumps(results))
    assert "baseline_cnn gets 80.0 % of 30 validation images right" in _write(folder)


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_page_in_a_browser(run):
    with browse() as browser:
        for width, dark in ((1280, False), (1280, True), (500, False)):
            browser.open((run / "report.html").as_uri(), width=width, dark=dark)
            browser.wait_for("document.querySelectorAll('#curves .plot svg').length === 2")
            browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            browser.wait_for("[...document.querySelectorAll('.plot')].every((one) => one.querySelector('svg'))")
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert browser.complaints == []


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_hover_shows_the_numbers_of_the_log(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row.get("accuracy", row.get("val_accuracy")) for row in rows]
    with browse() as browser:
        browser.open((run / "report.html").as_uri(), height=2400)
        browser.wait_for("document.querySelectorAll('#curves .plot svg').length === 2")
        seen = browser.shown_at("#curves .plot:nth-child(1)", "point")
        assert len(seen) == len(accuracies)
        for accuracy in accuracies:
            assert any(f"{100 * accuracy:.1f}%" in text for text in seen)
