"""The learning rate of each arm: what is tried, what is chosen, what it cost, and what goes on where it stopped."""

import json
import pathlib

import pytest
from finished_runs import trainer
from report_study import ALONE
from toy_dataset import write_toy_dataset

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.plan import StudyConfig, make_plan, plan_of_arm, plan_of_run
from tl_distributed.studies.report import write_report
from tl_distributed.studies.runner import open_study, run_plan
from tl_distributed.studies.tuning import at_tuned_rates, grid_factors, tune_arms

TUNE = "learning_rate:3"
ARMS = "cnn:backbone=baseline_cnn,transfer=scratch;fine:backbone=resnet20,transfer=scratch,learning_rate=0.02"
# Higher is better for the one, lower for the other.
SIGN = {"baseline_cnn": 1, "resnet20": -1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 120, "val": 30, "test": 300}
    return write_toy_dataset(tmp_path_factory.mktemp("tuning") / "toy", counts=counts, size=8)


def accuracy_of(config: Config) -> float:
    own = {"baseline_cnn": 1e-3, "resnet20": 0.02}[config.backbone]
    return 0.5 + 0.1 * SIGN[config.backbone] * (config.learning_rate / own - 1) / 3


class Study:
    """A study in a folder, whose trainings are stand-ins."""

    def __init__(self, data_dir, workdir, *flags, accuracy=accuracy_of, part=lambda plan: plan):
        self.data_dir, self.workdir, self.info = data_dir, str(workdir), read_manifest(data_dir)
        self.plan = make_plan(parse_arguments(StudyConfig, [f"--arms={ARMS}", *flags])[0])
        self.own, self.calls, self.accuracy = part(self.plan), [], accuracy
        open_study(self.workdir, self.plan, self.info)

    def train(self, plan) -> int:
        train = trainer(self.accuracy, self.calls)
        return run_plan(plan, self.info, data_dir=self.data_dir, workdir=self.workdir, train=train, **ALONE)

    def run(self, tune=TUNE, *, may_train=True):
        """Does what the command does; returns the plan that was trained."""
        tune_arms(self.own, tune, self.workdir, Workers(), self.train, may_train=may_train)
        tuned = at_tuned_rates(self.own, self.workdir, Workers())
        self.train(tuned)
        return tuned


@pytest.mark.parametrize(
    ("tune", "factors"),
    [
        ("learning_rate:2", (10**-0.5, 1)), ("learning_rate:3", (10**-0.5, 1, 10**0.5)),
        ("learning_rate:5", (0.1, 10**-0.5, 1, 10**0.5, 10)), ("", ()),
    ],
)  # fmt: skip
def test_the_grid_is_geometric_around_the_arms_own_rate(tune, factors):
    assert grid_factors(tune) == pytest.approx(factors)


@pytest.mark.parametrize("tune", ["learning_rate", "learning_rate:1", "learning_rate:10", "dropout:3", "3"])
def test_another_grid_is_refused(tune):
    with pytest.raises(UserError, match=rf"--tune={tune}: takes learning_rate:N, where N is from 2 to 9"):
        grid_factors(tune)


def test_each_arm_gets_the_rate_that_is_best_on_validation(data_dir, tmp_path):
    study = Study(data_dir, tmp_path, "--seeds=2", "--images_per_class=10,0")
    tuned = study.run()
    tries, runs = study.calls[:6], study.calls[6:]
    assert [f"{config.learning_rate:.3g}" for config in tries] == [
        "0.000316", "0.001", "0.00316", "0.00632", "0.02", "0.0632"
    ]  # fmt: skip
    assert {(config.seed, config.images_per_class) for config in tries} == {(0, 0)}
    assert len(runs) == 8
    assert {(config.backbone, f"{config.learning_rate:.3g}") for config in runs} == {
        ("baseline_cnn", "0.00316"), ("resnet20", "0.00632"),
    }  # fmt: skip
    # What pretrained weights train at goes with it.
    assert {(config.backbone, f"{config.finetune_learning_rate:.3g}") for config in runs} == {
        ("baseline_cnn", "0.000316"), ("resnet20", "3.16e-05"),
    }  # fmt: skip
    assert all("/tuning/" in config.workdir for config in tries)
    note = json.loads((tmp_path / "tuning/cnn/tuning.json").read_text())
    assert note["rate"] == pytest.approx(1e-3 * 10**0.5, rel=1e-5) and len(note["tried"]) == 3
    write_report(tuned, study.info, data_dir=data_dir, workdir=str(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "own rate times 0.316, 1, 3.16. That cost 6 runs and " in text
    assert "cnn 0.00316 (3.16 times its own); fine 0.00632 (0.316 times its own)" in text


def test_without_tuning_the_report_says_so(data_dir, tmp_path):
    study = Study(data_dir, tmp_path)
    write_report(study.run(""), study.info, data_dir=data_dir, workdir=str(tmp_path))
    assert [config.learning_rate for config in study.calls] == [1e-3, 0.02]
    assert "none was tuned" in (tmp_path / "report.md").read_text()


def test_it_goes_on_where_it_stopped_and_the_choice_stays(data_dir, tmp_path):
    class StoppedError(Exception):
        pass

    calls = []

    def stops(config: Config) -> float:
        calls.append(config)
        if len(calls) == 5:
            raise StoppedError
        return accuracy_of(config)

    with pytest.raises(StoppedError):
        Study(data_dir, tmp_path, accuracy=stops).run()
    study = Study(data_dir, tmp_path)
    study.run()
    assert len(study.calls) == 2 + 2  # two tries were left
    later = Study(data_dir, tmp_path, "--seeds=2", accuracy=lambda config: 0.9)
    later.run()
    assert [(config.seed, f"{config.learning_rate:.3g}") for config in later.calls] == [(1, "0.00316"), (1, "0.00632")]


def test_tries_that_fail_are_counted_and_not_chosen(data_dir, tmp_path):
    def diverges(config: Config) -> float | str:
        return "the loss became NaN" if config.learning_rate > 2e-3 else accuracy_of(config)

    study = Study(data_dir, tmp_path, accuracy=diverges)
    tuned = study.run()
    assert json.loads((tmp_path / "tuning/cnn/tuning.json").read_text())["factor"] == 1
    fine = json.loads((tmp_path / "tuning/fine/tuning.json").read_text())
    assert fine["factor"] == 1 and {one["score"] for one in fine["tried"]} == {None}  # all failed: its own
    write_report(tuned, study.info, data_dir=data_dir, workdir=str(tmp_path))
    assert "; 4 of them failed" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("measure", ["val_loss", "val_expected_calibration_error"])
def test_of_a_measure_whose_smallest_is_best_the_smallest_is_chosen(data_dir, tmp_path, measure):
    def with_measure(config: Config) -> float:
        own = {"baseline_cnn": 1e-3, "resnet20": 0.02}[config.backbone]
        return 0.1 + abs(config.learning_rate / own - 1)  # the arm's own rate is the best

    class Measured(Study):
        def train(self, plan) -> int:
            def train(arguments, *others) -> int:
                code = trainer(self.accuracy, self.calls)(arguments, *others)
                path = pathlib.Path(self.calls[-1].workdir) / "results.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), measure: with_measure(self.calls[-1])}))
                return code

            return run_plan(plan, self.info, data_dir=self.data_dir, workdir=self.workdir, train=train, **ALONE)

    Measured(data_dir, tmp_path, f"--common=select_by={measure}").run()
    notes = [json.loads((tmp_path / f"tuning/{arm}/tuning.json").read_text()) for arm in ("cnn", "fine")]
    assert [note["factor"] for note in notes] == [1, 1]


def test_tuned_and_untuned_runs_do_not_mix(data_dir, tmp_path):
    Study(data_dir, tmp_path / "untuned").run("")
    with pytest.raises(UserError, match="holds runs of cnn with a rate that was not tuned"):
        Study(data_dir, tmp_path / "untuned").run()
    Study(data_dir, tmp_path / "tuned").run()
    with pytest.raises(UserError, match=f"a study without --tune: the arms of .* were tuned by --tune={TUNE}"):
        Study(data_dir, tmp_path / "tuned").run("")
    with pytest.raises(UserError, match=f"--tune=learning_rate:5: .* were tuned by --tune={TUNE}"):
        Study(data_dir, tmp_path / "tuned").run("learning_rate:5")


def test_tasks_of_arms_tune_their_own_and_tasks_of_runs_none(data_dir, tmp_path):
    first = Study(data_dir, tmp_path, part=lambda plan: plan_of_arm(plan, 1))
    first.run()
    assert {config.backbone for config in first.calls} == {"resnet20"} and len(first.calls) == 4
    second = Study(data_dir, tmp_path, "--seeds=2", part=lambda plan: plan_of_run(plan, 3))
    second.run(may_train=False)
    (call,) = second.calls
    assert (call.backbone, call.seed, f"{call.learning_rate:.3g}") == ("resnet20", 1, "0.00632")
    other = Study(data_dir, tmp_path, part=lambda plan: plan_of_run(plan, 0))
    with pytest.raises(UserError, match=r"cnn has not been tuned yet, .* first start a task for each arm"):
        other.run(may_train=False)
