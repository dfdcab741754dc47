"""A finished study with known numbers: two arms that succeed and one that fails, two sizes, two seeds."""

import pathlib

from finished_runs import trainer

from tl_distributed.data.records import read_manifest
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.collect import Record
from tl_distributed.studies.plan import Plan, StudyConfig, make_plan
from tl_distributed.studies.report import write_report
from tl_distributed.studies.runner import open_study, run_plan

ALONE = {"workers": Workers(), "cluster_arguments": (), "data_copy_dir": ""}
ARMS = "cnn:backbone=baseline_cnn,transfer=scratch;deep:backbone=resnet20,transfer=scratch;odd.name-1:backbone=tiny"
ACCURACY = {"baseline_cnn": {10: 0.5, 0: 0.7}, "resnet20": {10: 0.7, 0: 0.9}}
FAILURE = "the loss became NaN"


def plan_of(*arguments: str) -> Plan:
    return make_plan(parse_arguments(StudyConfig, [f"--arms={ARMS}", *arguments])[0])


def accuracy_of(config: Config) -> float | str:
    """Returns what a run reaches, or the line with which it fails."""
    if config.backbone == "tiny":
        return FAILURE
    return ACCURACY[config.backbone][config.images_per_class] + 0.01 * config.seed


def write_study(data_dir: str, workdir: str) -> tuple[Plan, pathlib.Path, list[Record], list[Config]]:
    """Returns the plan, the study's folder, its records, and the config of every run that was asked for."""
    plan, info, calls = plan_of("--seeds=2", "--images_per_class=10,0"), read_manifest(data_dir), []
    open_study(workdir, plan, info)
    failed = run_plan(plan, info, data_dir=data_dir, workdir=workdir, train=trainer(accuracy_of, calls), **ALONE)
    assert failed == 4
    records = write_report(plan, info, data_dir=data_dir, workdir=workdir)
    return plan, pathlib.Path(workdir), records, calls
