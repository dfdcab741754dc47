"""The study's runner on runs with known numbers: what is run, what is kept, what is refused."""

import json
import pathlib
import shutil

import pytest
from finished_runs import trainer
from report_study import ALONE, ARMS, FAILURE, accuracy_of, plan_of
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.clock import planned_work
from tl_distributed.studies.collect import load_records
from tl_distributed.studies.plan import StudyConfig, make_plan
from tl_distributed.studies.runner import open_study, run_plan


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
    assert {record.reason for record in records if record.status == "failed"} == {FAILURE}
    text = (workdir / "report.md").read_text()
    assert f"Failed: 4 runs of odd.name-1: {FAILURE}." in text


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
