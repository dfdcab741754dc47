"""How long a large study's report takes, how big it is, and what becomes of many classes."""

import time

import pytest
from finished_runs import trainer
from report_study import ALONE
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.studies.report import write_report
from tl_distributed.studies.runner import open_study, run_plan

ARMS, SIZES = 10, (1, 2, 5, 0)
MOST_BYTES = 3_000_000


def write_large_study(folder, *, arms, seeds, sizes, classes):
    """Returns the plan, the data set, and where they lie; its runs are done."""
    counts = {"train": 2 * classes, "val": classes, "test": 20 * classes}
    data_dir = write_toy_dataset(
        folder / "toy", counts=counts, size=8, class_names=[f"class {n:04}" for n in range(classes)]
    )
    lines = ";".join(f"arm_{number}:backbone=baseline_cnn,transfer=scratch" for number in range(arms))
    arguments = [f"--arms={lines}", f"--seeds={seeds}", f"--images_per_class={','.join(map(str, sizes))}"]
    plan, info = make_plan(parse_arguments(StudyConfig, arguments)[0]), read_manifest(data_dir)
    workdir = str(folder / "study")
    open_study(workdir, plan, info)

    def accuracy_of(config: Config) -> float:
        arm = int(config.workdir.split("arm_")[1].split("/")[0].split("-")[0])
        return 0.3 + 0.03 * arm + 0.02 * sizes.index(config.images_per_class) + 0.005 * config.seed

    train = trainer(accuracy_of, [])
    assert run_plan(plan, info, data_dir=data_dir, workdir=workdir, train=train, **ALONE) == 0
    return plan, info, data_dir, workdir


@pytest.mark.slow
def test_ten_arms_take_seconds_and_three_megabytes(tmp_path):
    plan, info, data_dir, workdir = write_large_study(tmp_path, arms=ARMS, seeds=3, sizes=SIZES, classes=100)
    began = time.process_time()  # of this process, whatever else the machine does
    records = write_report(plan, info, data_dir=data_dir, workdir=workdir)
    assert time.process_time() - began < 10
    assert len(records) == ARMS * 3 * len(SIZES)
    assert (tmp_path / "study/report.html").stat().st_size < MOST_BYTES


@pytest.mark.slow
def test_of_a_thousand_classes_the_most_confused_are_shown(tmp_path):
    plan, info, data_dir, workdir = write_large_study(tmp_path, arms=2, seeds=2, sizes=(0,), classes=1_000)
    write_report(plan, info, data_dir=data_dir, workdir=workdir)
    page = tmp_path / "study/report.html"
    assert page.stat().st_size < MOST_BYTES
    text = page.read_text()
    named = {name for name in info.class_names if f">{name}<" in text or f'"{name}"' in text}
    assert 10 <= len(named) <= 300  # those that matter, not all
