"""The page of one run, `report.html`: what was trained on what, how well, how fast, and how to use the model."""

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from markupsafe import Markup

from tl_distributed.files import read_json, write_file
from tl_distributed.progress import format_number
from tl_distributed.reporting import plots, run_charts
from tl_distributed.reporting.answers import PREDICTIONS_FILE, read_answers
from tl_distributed.reporting.drawing import (
    BLUE,
    MOST_CLASSES_DRAWN,
    Style,
    drawn_classes,
    figure_svg,
    series_styles,
)
from tl_distributed.reporting.image_errors import ReadPictures, errors_section
from tl_distributed.reporting.intervals import wilson_interval
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.reporting.mistakes import Group
from tl_distributed.reporting.page.heatmap import confusion
from tl_distributed.reporting.page.render import Cell, Plot, Table, render, words
from tl_distributed.reporting.page.section import About, Section
from tl_distributed.reporting.page.series import swatch
from tl_distributed.reporting.run_facts import about_run, speed_table, usage
from tl_distributed.reporting.shown_scores import (
    SHOWN_SCORES,
    is_classification,
    main_metric,
    metrics_of,
    percentage,
    scores_of,
    shown_metric,
    written,
)

PAGE_FILE = "report.html"
_MOST_PAIRS = 30  # of classes that are confused
_MOST_TILES, _MOST_CLASSES = 4, 100


def write_run_page(workdir: str, results: Mapping[str, Any], read: ReadPictures) -> None:
    """Writes the page of a run whose other files are there.

    Args:
      workdir: The run's folder.
      results: Content of its `results.json`; what an earlier version did not write is left out of the page.
      read: Returns the pictures at places of the test split.
    """
    config = read_json(f"{workdir}/config.json")
    styles = series_styles(run_charts.SPLITS)
    rows = read_metrics(f"{workdir}/metrics.jsonl")
    metric = main_metric(results)
    specs, choices = run_charts.curves(rows, styles, metric)
    curves = Plot(
        "curves", "Training figures are means over the steps since the last one, with augmentation and dropout on.",
        specs, figure_svg(plots.learning_curves(rows, metric), "curves"), choices, _legend(styles),
    )  # fmt: skip
    sections = (
        _scores(results), _calibration(results), _by_class(results), _errors(workdir, results, read),
        Section("speed", "Speed", _speed_summary(results), tables=(speed_table(results),)),
        Section("use", "How to use the model", "predict, evaluate, export, Python", commands=usage(workdir)),
    )  # fmt: skip
    page = render("run.html.j2", {
        "title": _title(config, workdir), "finding": _finding(config, results), "warnings": _warnings(results),
        "tiles": _tiles(results), "curves": curves,
        "sections": [section for section in sections if not section.is_empty],
        "about": _about(workdir, config),
    })  # fmt: skip
    write_file(f"{workdir}/{PAGE_FILE}", page)


def _legend(styles: Mapping[str, Style]) -> dict[str, Markup]:
    return {name: swatch(style) for name, style in styles.items()}


def _shown(results: Mapping[str, Any]) -> str:
    """Returns the split that is spoken of: test where there is one."""
    return "test" if results.get(f"test_{main_metric(results)}") is not None else "val"


def _where_not_test(results: Mapping[str, Any]) -> str:
    """Returns what a section adds to its summary where its figures are not of test images."""
    return "" if _shown(results) == "test" else "; of the validation images: there is no test split"


def _title(config: Mapping[str, Any], workdir: str) -> str:
    settings, name = config.get("config", {}), workdir.rstrip("/").rsplit("/", 1)[-1]
    return ", ".join(filter(None, (f"Run {name}", settings.get("backbone"), settings.get("transfer"))))


def _finding(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    settings, split = config.get("config", {}), _shown(results)
    name, metric = {"test": "test", "val": "validation"}[split], main_metric(results)
    accuracy = results.get(f"{split}_{metric}")
    model = settings.get("backbone", "The model")
    if accuracy is None:
        return f"{model} was trained for {format_number(results['epochs'])} epochs; there was no split to score it on."
    count = results["num_examples"][split]
    num_classes, duration = len(results["class_names"]), _duration(results["seconds"])
    if not is_classification(results):
        return (
            f"{model} reaches a {shown_metric(results, split)} on {count:,} {name} images, {num_classes:,} classes, "
            f"after {duration} of training."
        )
    low, high = wilson_interval(accuracy, count)
    return (
        f"{model} gets {percentage(accuracy)} % of {count:,} {name} images right (95 % interval {percentage(low)} to "
        f"{percentage(high)}), {num_classes:,} classes, after {duration} of training."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _warnings(results: Mapping[str, Any]) -> tuple[str, ...]:
    cut = "Cut short by --max_steps: the figures say little; the same command without it goes on."
    return () if results["finished"] else (cut,)


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    split = _shown(results)
    name = {"test": "test", "val": "validation"}[split]
    tiles = []
    metric = main_metric(results)
    if not is_classification(results):
        shown = {metric: None, **metrics_of(results, split)}
        tiles += [
            (f"{results[f'{split}_{key}']:.4f}", f"{name} {key.replace('_', ' ')}") for key in list(shown)[:_MOST_TILES]
            if results.get(f"{split}_{key}") is not None
        ]  # fmt: skip
    elif results.get(f"{split}_accuracy") is not None:
        tiles.append((f"{percentage(results[f'{split}_accuracy'], 2)} %", f"{name} accuracy"))
    found = scores_of(results) if is_classification(results) else {}
    tiles += [
        (written(key, found[key]), title) for key, title, _ in SHOWN_SCORES
        if key in found and key in ("test_top5_accuracy", "test_macro_f1", "test_expected_calibration_error")
    ]  # fmt: skip
    tiles.append((f"{results['trainable_parameters']:,}", "trained parameters"))
    if results.get("images_per_second"):
        tiles.append((f"{results['images_per_second']:,.0f}", "images a second"))
    return tiles


def _scores(results: Mapping[str, Any]) -> Section:
    found = scores_of(results) if is_classification(results) else {}
    rows = []
    for name, title in (("test", "test"), ("val", "validation")):
        if not is_classification(results):
            known = metrics_of(results, name).items()
            rows += [(words(f"{title} {key.replace('_', ' ')}"), Cell(f"{value:.4f}")) for key, value in known]
        elif results.get(f"{name}_accuracy") is not None:
            rows.append((words(f"{title} accuracy"), Cell(f"{percentage(results[f'{name}_accuracy'], 2)} %")))
            loss = results.get(f"{name}_loss")  # none where an image was answered with NaN
            rows.append((words(f"{title} loss (nats)"), Cell("unknown" if loss is None else f"{loss:.4f}")))
    rows += [(words(title), Cell(written(key, found[key]))) for key, title, _ in SHOWN_SCORES if key in found]
    table = Table(("score", "value"), tuple(rows), "Of the test images where nothing else is said.") if rows else None
    return Section("scores", "Scores", f"{len(rows)} of them", tables=(table,) if table else ())


def _calibration(results: Mapping[str, Any]) -> Section:
    bins, calibrated = results.get("reliability") or [], results.get("reliability_calibrated") or []
    if not bins:
        return Section("calibration", "Calibration")
    temperature, found = results.get("temperature"), scores_of(results)
    error = found.get("test_expected_calibration_error")
    sentences = []
    if error is not None:
        sentences.append(
            f"On average, how sure the model is and how often it is right are {100 * error:.1f} points apart."
        )
    if temperature is not None and "test_expected_calibration_error_calibrated" in found:
        after = 100 * found["test_expected_calibration_error_calibrated"]
        side = "surer" if temperature > 1 else "less sure"
        sentences.append(
            f"It is {side} than it should be: the temperature that fits the validation images is {temperature:.3g}, "
            f"and would make it {after:.1f} points on the test images. export --calibrated bakes it in."
        )
    styles = series_styles(("as trained", "at the temperature"))
    plot = Plot(
        "reliability", "Share that is right, over how sure the model is: bins of as many images each. Below the "
        "diagonal it is surer than right.", (run_charts.reliability(bins, calibrated, styles),),
        figure_svg(plots.reliability_diagram(bins, calibrated, temperature), "reliability"),
        legend=_legend(styles) if calibrated else {},
    )  # fmt: skip
    return Section(
        "calibration", "Calibration",
        f"can its probabilities be taken at their word?{_where_not_test(results)}", tuple(sentences), (plot,),
    )  # fmt: skip


def _by_class(results: Mapping[str, Any]) -> Section:
    per_class = results.get("per_class") or {}
    if not per_class:
        return Section("classes", "By class")
    summary = f"{len(per_class):,} classes{_where_not_test(results)}"
    if not is_classification(results):
        return Section("classes", "By class", summary, tables=(_class_scores(per_class),))
    which = drawn_classes(sum(one["accuracy"] is not None for one in per_class.values()), "worst")
    figures = [Plot(
        "per_class_accuracy", f"Accuracy of {which}: the share of its images that were found.",
        (run_charts.by_class(per_class, BLUE),), figure_svg(plots.per_class_accuracy(per_class), "per_class_accuracy"),
    )]  # fmt: skip
    matrix = np.array(results.get("confusion_matrix") or ())
    if matrix.size and len(per_class) <= MOST_CLASSES_DRAWN:
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        caption = "Confusion matrix, shares of the true class; the table below holds what is confused most."
        figures.append(Plot("confusion", caption, (confusion({"": shares}, results["class_names"]),), ""))
    return Section("classes", "By class", summary, plots=tuple(figures), tables=_confused(results))


def _class_scores(per_class: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns what the task says of each class, the worst by the first of it on top; of many classes, the worst."""
    names = list(next(iter(per_class.values())))

    def place(scores: Mapping[str, Any]) -> float:
        return float("inf") if scores[names[0]] is None else scores[names[0]]

    rows = sorted(per_class.items(), key=lambda item: place(item[1]))[:_MOST_CLASSES]
    cells = [
        (words(name), *(Cell("" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}", value)
                        for value in scores.values()))
        for name, scores in rows
    ]  # fmt: skip
    title = "The worst classes" if len(per_class) > _MOST_CLASSES else ""
    return Table(("class", *(key.replace("_", " ") for key in names)), tuple(cells), title=title)


def _confused(results: Mapping[str, Any]) -> tuple[Table, ...]:
    pairs: Sequence[Sequence[Any]] = results.get("most_confused") or []
    per_class = results["per_class"]
    rows = tuple(
        (words(true), words(predicted), Cell(f"{count:,}", count),
         Cell(percentage(count / per_class[true]["support"]), count / per_class[true]["support"]))
        for true, predicted, count in pairs[:_MOST_PAIRS]
    )  # fmt: skip
    if not rows:
        return ()
    header = ("true class", "taken for", "images", "of the class (%)")
    return (Table(header, rows, title="What is confused most"),)


def _errors(workdir: str, results: Mapping[str, Any], read: ReadPictures) -> Section:
    path = f"{workdir}/{PREDICTIONS_FILE}"
    if not tf.io.gfile.exists(path) or not is_classification(results):
        return Section("errors", "Errors by image")
    answers = read_answers(path)
    return errors_section({"the model": Group.of([answers])}, [answers], "the model", results["class_names"], read)


def _speed_summary(results: Mapping[str, Any]) -> str:
    speed = results.get("images_per_second")
    return f"{speed:,.0f} images a second" if speed else ""


def _about(workdir: str, config: Mapping[str, Any]) -> About:
    others = ("metrics.jsonl", "config.json", "model.keras", "plots", "checkpoints")
    files = ["results.json", *(name for name in others if tf.io.gfile.exists(f"{workdir}/{name}"))]
    tensorboard = ("Curves in TensorBoard", f"tensorboard --logdir {shlex.quote(workdir)}")
    facts, command = about_run(config)
    commands = ((("Trained by", command),) if command else ()) + (tensorboard,)
    return About(
        (("written", time.strftime("%Y-%m-%d %H:%M %Z")), *facts), commands, tuple((f, f) for f in files), "Files"
    )
