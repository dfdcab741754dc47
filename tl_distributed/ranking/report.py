"""Writes what a ranking found: report.html, ranking.csv, few_shot.csv, ranking.json and plots."""

import csv
import io
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tl_distributed.data.records import DatasetInfo
from tl_distributed.files import write_file, write_json
from tl_distributed.progress import format_number
from tl_distributed.ranking import charts
from tl_distributed.ranking.order import (
    COSTS,
    Result,
    by_rank,
    level_with_first,
    pareto_front,
    train_command,
    with_short_names,
)
from tl_distributed.ranking.runner import Measured
from tl_distributed.ranking.settings import RankConfig
from tl_distributed.reporting.drawing import figure_png, figure_svg, series_styles
from tl_distributed.reporting.intervals import wilson_interval
from tl_distributed.reporting.page.render import Cell, Plot, Table, render, words
from tl_distributed.reporting.page.section import About, Section
from tl_distributed.reporting.page.series import swatch
from tl_distributed.reporting.shown_scores import percentage
from tl_distributed.settings.command import typed_arguments
from tl_distributed.settings.flags import to_arguments

PAGE_FILE = "report.html"
_MOST_CURVES = 12  # of the few-shot plot, the best ones; the table has all
_MOST_LISTED = 4
PREDICTS = (
    "What it is good for: to leave out most backbones before any is trained. The accuracy of a linear classifier on "
    "frozen features goes with that of fine-tuning over many networks and data sets (Kornblith et al. 2019; You et al. "
    "2021), and it is what --transfer=frozen ends at, but for its optimizer.",
    "What it does not tell: how far fine-tuning gets. Features that were shaped by label smoothing or dropout probe "
    "worse than they fine-tune (Kornblith et al. 2019), and the more a data set differs from ImageNet and the more "
    "images it has, the more fine-tuning moves them. Augmentation, a larger image and the time that training takes are "
    "not in it. Backbones that are close should be trained and compared: that is a study, which takes hours.",
    "LogME asks how probable the labels of the training sample are under linear models of the features, and needs no "
    "other images; it is a second opinion. Where it orders the first ones otherwise than the accuracies, the sample "
    "does not tell.",
)


def write_ranking(config: RankConfig, info: DatasetInfo, measured: Measured) -> None:
    """Writes the files of a ranking into its workdir."""
    folder, results = config.folder, by_rank(measured.results)
    tf.io.gfile.makedirs(f"{folder}/plots")
    write_file(f"{folder}/ranking.csv", _csv(_rows(results, config)).encode(errors="backslashreplace"))
    write_file(f"{folder}/few_shot.csv", _csv(_few_shot_rows(results)).encode(errors="backslashreplace"))
    write_json(f"{folder}/ranking.json", {
        "ranking": [{name: value for name, value in one.items() if name not in _INNER} for one in results],
        "level_with_first": level_with_first(results), "left_out": measured.left_out,
        "best_at_each_cost": {
            cost: [one["candidate"] for one in pareto_front(results, cost)] for cost in charts.known_costs(results)
        },
        "dataset_sha256": info.digest(),
    })  # fmt: skip
    write_file(f"{folder}/{PAGE_FILE}", _page(config, info, measured))


_INNER = {"logistic_val_right", "settings"}


def _rows(results: Sequence[Result], config: RankConfig) -> Iterable[dict[str, Any]]:
    level, front = level_with_first(results), [one["candidate"] for one in pareto_front(results, config.cost)]
    names = [name for name, value in results[0].items() if name not in _INNER and not isinstance(value, (list, dict))]
    for rank, one in enumerate(results, start=1):
        yield {
            "rank": rank, **{name: one[name] for name in names}, "level_with_first": one["candidate"] in level,
            f"best_at_its_{config.cost}": one["candidate"] in front,
        }  # fmt: skip


def _few_shot_rows(results: Sequence[Result]) -> Iterable[dict[str, Any]]:
    for one in results:
        for shots in one["few_shot"]:
            for draw, accuracy in enumerate(shots["accuracies"]):
                yield {
                    "candidate": one["candidate"], "images_per_class": shots["images_per_class"], "draw": draw,
                    f"{one['few_shot_split']}_accuracy": accuracy,
                }  # fmt: skip


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    rows, text = list(rows), io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def finding(results: Sequence[Result]) -> str:
    """Returns what the ranking says, in one sentence."""
    first, *others = by_rank(results)
    reached = f"{first['candidate']}: {percentage(first['logistic_val_accuracy'])} % of the validation images right"
    level = level_with_first(results)
    if not others:
        return f"{reached} by logistic regression on frozen features; there was no other to compare it with."
    if not level:
        return f"{reached} by logistic regression on frozen features, more than any other beyond noise."
    listed = ", ".join(level[:_MOST_LISTED]) if len(level) <= _MOST_LISTED else f"{len(level)} others"
    return f"{reached} by logistic regression on frozen features, not told apart from {listed}."


def ranked_table(results: Sequence[Result], config: RankConfig) -> Table:
    """Returns the table of the page."""
    has_test = "logistic_test_accuracy" in results[0]
    level = level_with_first(results)
    header = (
        "backbone", "pixels", "validation (%)", "95 % interval", *(["test (%)"] if has_test else []), "neighbours (%)",
        "LogME", "seconds for 1,000 images", "GMACs an image", "million parameters",
    )  # fmt: skip
    rows = []
    for rank, one in enumerate(by_rank(results)):
        share = one["logistic_val_accuracy"]
        low, high = wilson_interval(share, one["num_images"]["val"])
        mark = " =" if rank and one["candidate"] in level else ""
        test = [_percent(one["logistic_test_accuracy"])] if has_test else []
        rows.append((
            words(f"{one['candidate']}{mark}"), Cell(str(one["image_size"]), one["image_size"]), _percent(share),
            Cell(f"{percentage(low)} to {percentage(high)}", low), *test, _percent(one["knn_val_accuracy"]),
            Cell(f"{one['logme']:.3f}", one["logme"]),
            _number(one["seconds_per_1000_images"], 1, ".3g"), _number(one["macs"], 1e9, ".3g"),
            _number(one["parameters"], 1e6, ".3g"),
        ))  # fmt: skip
    note = (
        "Accuracy of a logistic regression on the frozen features, its penalty chosen by the validation images, which "
        "rank; the test images decide nothing. Neighbours: accuracy of the nearest training images, on validation. =: "
        "not told apart from the first on the same images (5 %, Holm)."
    )
    return Table(header, tuple(rows), note)


def _percent(share: float) -> Cell:
    return Cell(percentage(share), share)


def _number(value: float | None, unit: float, form: str) -> Cell:
    return Cell("") if value is None else Cell(format(value / unit, form), value)


def _page(config: RankConfig, info: DatasetInfo, measured: Measured) -> bytes:
    results = with_short_names(by_rank(measured.results))
    specs = tuple(charts.against_cost(results, cost) for cost in charts.known_costs(results))
    caption = "Validation accuracy of each backbone against what it costs; the line joins the best at each cost."
    accuracy = _plot(config, "accuracy_against_cost", caption, specs, charts.cost_figure(results))
    sections = (
        _commands(config, results), _few_shot(config, results),
        Section("predicts", "What this predicts, and what not", "a frozen probe is minutes, a study hours", PREDICTS),
        _left_out(measured.left_out),
    )  # fmt: skip
    count = len(results)
    return render("study.html.j2", {
        "title": f"{count} backbone{'s' if count > 1 else ''} ranked by frozen features",
        "finding": finding(results), "warnings": (), "ranking": ranked_table(results, config), "accuracy": accuracy,
        "sections": [section for section in sections if not section.is_empty], "about": _about(config, info, results),
    })  # fmt: skip


def _plot(
    config: RankConfig, name: str, caption: str, specs: tuple[charts.Spec, ...], figure: Figure,
    legend: Mapping[str, Any] | None = None,
) -> Plot:  # fmt: skip
    write_file(f"{config.folder}/plots/{name}.png", figure_png(figure))
    return Plot(name, caption, specs, figure_svg(figure, name), legend=dict(legend or {}))


def _commands(config: RankConfig, results: Sequence[Result]) -> Section:
    front = pareto_front(results, config.cost)
    field, title = COSTS[config.cost]
    commands = tuple(
        (f"{one['candidate']}: {percentage(one['logistic_val_accuracy'])} %, {_whole_or_short(one[field])} {title}",
         train_command(one, config))
        for one in reversed(front)
    )  # fmt: skip
    return Section("train", "Train the best at each cost", f"by {title}", commands=commands, open=True)


def _whole_or_short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else format_number(value)


def _few_shot(config: RankConfig, results: Sequence[Result]) -> Section:
    if not results[0]["few_shot"]:
        return Section("few_shot", "With few images")
    shown = results[:_MOST_CURVES]
    styles = series_styles([one["candidate"] for one in shown])
    split = {"test": "test", "val": "validation"}[results[0]["few_shot_split"]]
    which = "" if len(shown) == len(results) else f" The {len(shown)} best of {len(results)}; the table has all."
    caption = (
        f"Accuracy on the {split} images over training images of each class: the mean of the draws, and lines from the "
        f"lowest to the highest.{which}"
    )
    plot = _plot(
        config, "few_shot", caption, (charts.few_shot(shown, styles),), charts.few_shot_figure(shown, styles),
        {name: swatch(style) for name, style in styles.items()},
    )  # fmt: skip
    sizes = [shots["images_per_class"] for shots in results[0]["few_shot"]]
    rows = tuple((words(one["candidate"]), *map(_mean_cell, one["few_shot"])) for one in results)
    note = (
        f"{split.capitalize()} accuracy (%), mean ± standard deviation of the draws. The validation images choose the "
        "penalty of each."
    )
    table = Table(("backbone", *(f"{size} a class" for size in sizes)), rows, note)
    return Section("few_shot", "With few images", "by images of each class", plots=(plot,), tables=(table,))


def _mean_cell(shots: Mapping[str, Any]) -> Cell:
    found = shots["accuracies"]
    spread = f" ± {100 * np.std(found, ddof=1):.1f}" if len(found) > 1 else ""
    return Cell(f"{percentage(float(np.mean(found)))}{spread}", float(np.mean(found)))


def _left_out(left_out: Mapping[str, str]) -> Section:
    rows = tuple((words(name), words(reason)) for name, reason in left_out.items())
    tables = (Table(("backbone", "why"), rows),) if rows else ()
    return Section("left_out", "Left out", f"{len(rows)} of them", tables=tables)


def _about(config: RankConfig, info: DatasetInfo, results: Sequence[Result]) -> About:
    counts = ", ".join(f"{count:,} {name}" for name, count in results[0]["num_images"].items())
    facts = (
        ("written", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("data set", f"{config.data_dir}, {info.num_classes:,} classes; SHA-256 of its manifest {info.digest()}"),
        ("sample", f"{counts} images, chosen by seed {config.seed}"),
        ("probes", "scikit-learn; features centred and scaled by one number; cosine similarity of neighbours"),
        ("seconds", "of one device, from normalised images to features, compiled, without reading"),
        ("devices", ", ".join(dict.fromkeys(device for one in results for device in one["devices"]))),
        ("precision", ", ".join(dict.fromkeys(one["precision"] for one in results))),
    )
    typed = typed_arguments("tl-rank")  # a program's own arguments are not; these say the same
    command = shlex.join(["python", "-m", "tl_distributed.rank", *(to_arguments(config) if typed is None else typed)])
    files = ("ranking.csv", "few_shot.csv", "ranking.json", "plots/")
    return About(facts, (("Written by", command),), tuple((name, name) for name in files), "Files")
