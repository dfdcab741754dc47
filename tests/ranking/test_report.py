"""What a ranking's files say, of candidates with known numbers."""

import csv
import html
import itertools
import json
import re
import shlex

import pytest
from ranked_results import result
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.ranking.order import by_rank, level_with_first, pareto_front, train_command, with_short_names
from tl_distributed.ranking.report import finding, ranked_table, write_ranking
from tl_distributed.ranking.runner import Measured
from tl_distributed.ranking.settings import RankConfig
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments

RESULTS = (
    result("vgg16", 0.60, seconds=9.0, macs=15 * 10**9),
    result("mobilenet_v2", 0.80, seconds=3.0, macs=3 * 10**8),
    result("resnet50", 0.81, seconds=5.0, macs=4 * 10**9),
    result("vgg16:random", 0.20, seconds=9.0, macs=None),
    result("mobilenet", 0.55, seconds=2.0, macs=6 * 10**8),
)
CONFIG = RankConfig(data_dir="data/photos", backbones=tuple(one["candidate"] for one in RESULTS))


def names(results) -> list[str]:
    return [one["candidate"] for one in results]


def test_the_order_goes_by_validation():
    assert names(by_rank(RESULTS)) == ["resnet50", "mobilenet_v2", "vgg16", "mobilenet", "vgg16:random"]
    equal = [result("a", 0.5, seconds=1.0, logme=-0.5), result("b", 0.5, seconds=1.0, logme=-0.4)]
    assert names(by_rank(equal)) == ["b", "a"]


def test_names_on_the_page_are_short_and_differ():
    long = "mobilenet_v2@/weights/mobilenet_v2_imagenet_notop.weights.h5"
    given = [
        result(name, 0.5, seconds=1.0) for name in ("vgg16:random", long, long.replace("/w", "/other"), "b@runs/b/")
    ]
    assert names(with_short_names(given)) == [
        "vgg16:random", "mobilenet_v2@mobilenet_v2_im…", "mobilenet_v2@mobilenet_v2_im… (2)", "b@b"
    ]  # fmt: skip
    assert names(given)[1] == long  # in the files as given


@pytest.mark.parametrize("cost", ["seconds", "macs", "parameters"])
def test_the_front_is_whom_nobody_beats(cost):
    field = {"seconds": "seconds_per_1000_images"}.get(cost, cost)
    known = [one for one in RESULTS if one[field] is not None]
    beaten = {
        one["candidate"] for one, other in itertools.permutations(known, 2)
        if other[field] <= one[field] and other["logistic_val_accuracy"] >= one["logistic_val_accuracy"]
    }  # fmt: skip
    front = names(pareto_front(RESULTS, cost))
    assert set(front) == {one["candidate"] for one in known} - beaten
    assert [one["logistic_val_accuracy"] for one in pareto_front(RESULTS, cost)] == sorted(
        one["logistic_val_accuracy"] for one in pareto_front(RESULTS, cost)
    )


def test_level_are_those_whom_the_same_images_do_not_tell():
    assert level_with_first(RESULTS) == ["mobilenet_v2"]  # two images of 200
    assert finding(RESULTS).startswith("resnet50: 81.0 % of the validation images right")
    assert finding(RESULTS).endswith("not told apart from mobilenet_v2.")
    assert "more than any other beyond noise" in finding(RESULTS[1:2] + RESULTS[3:])
    assert "no other to compare" in finding(RESULTS[:1])


def test_100_is_written_of_all_alone():
    close = result("a", 1.0, seconds=1.0, logistic_test_accuracy=0.9996, knn_val_accuracy=0.0004)
    cells = [cell.text for cell in ranked_table([close], CONFIG).rows[0]]
    assert (cells[2], cells[4], cells[5]) == ("100.0", "99.96", "0.04")


def test_commands_are_what_train_takes():
    for one in (*RESULTS, {**RESULTS[0], "weights": "gs://bucket/a b.h5"}):
        words = shlex.split(train_command(one, CONFIG))
        assert words[:3] == ["python", "-m", "tl_distributed.train"]
        config, positional = parse_arguments(Config, words[3:])
        config.validate()
        assert not positional and (config.backbone, config.image_size) == (one["backbone"], 96)
        assert config.transfer_and_weights()[1] == one["weights"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data_dir = write_toy_dataset(folder / "toy", counts={"train": 6, "val": 6}, size=8)
    config = RankConfig(data_dir=data_dir, workdir=str(folder / "rank"), backbones=CONFIG.backbones)
    left_out = {"xception": "its weights cannot be downloaded (<nothing>)"}
    write_ranking(config, read_manifest(data_dir), Measured(RESULTS, left_out))
    return folder / "rank"


def test_tables_hold_every_number(written):
    rows = list(csv.DictReader((written / "ranking.csv").open()))
    assert [row["candidate"] for row in rows] == names(by_rank(RESULTS))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert float(rows[1]["seconds_per_1000_images"]) == 3.0 and rows[1]["level_with_first"] == "True"
    assert [row["candidate"] for row in rows if row["best_at_its_seconds"] == "True"] == [
        "resnet50", "mobilenet_v2", "mobilenet"
    ]  # fmt: skip
    draws = list(csv.DictReader((written / "few_shot.csv").open()))
    assert len(draws) == 3 * len(RESULTS) and float(draws[2]["test_accuracy"]) == 0.81
    content = json.loads((written / "ranking.json").read_text())
    assert [one["candidate"] for one in content["ranking"]] == names(by_rank(RESULTS))
    assert list(content["left_out"]) == ["xception"] and content["best_at_each_cost"]["macs"] == [
        "mobilenet_v2", "resnet50"
    ]  # fmt: skip


def test_the_page_says_it_all_and_needs_no_network(written):
    page = (written / "report.html").read_text()
    body = page.split("<body>")[1].split("\n<script>")[0]
    for text in (
        "5 backbones ranked by frozen features", "not told apart from mobilenet_v2", "--backbone=mobilenet_v2",
        "What this predicts, and what not", "a frozen probe is minutes, a study hours", "&lt;nothing&gt;",
        "30.0 ± 14.1", "multiply-accumulates an image", "resnet50: 81.0 %, 5 seconds for 1,000 images",
    ):  # fmt: skip
        assert text in body, text
    assert "src=" not in body and 'href="http' not in body
    assert {path.name for path in (written / "plots").iterdir()} == {"accuracy_against_cost.png", "few_shot.png"}


def test_what_the_best_cost_is_written_without_powers_of_ten(tmp_path):
    data_dir = write_toy_dataset(tmp_path / "toy", counts={"train": 6, "val": 6}, size=8)
    config = RankConfig(data_dir=data_dir, workdir=str(tmp_path / "rank"), backbones=CONFIG.backbones, cost="macs")
    write_ranking(config, read_manifest(data_dir), Measured(RESULTS[:2], {}))
    page = (tmp_path / "rank/report.html").read_text()
    assert "mobilenet_v2: 80.0 %, 300,000,000 multiply-accumulates an image" in page


def test_the_command_on_the_page_ranks_the_same_where_a_program_did(written):
    (line,) = re.findall(r"<pre>python -m tl_distributed\.rank ([^<]*)</pre>", (written / "report.html").read_text())
    config, _ = parse_arguments(RankConfig, shlex.split(html.unescape(line)))
    assert (config.folder, config.backbones) == (str(written), CONFIG.backbones)
