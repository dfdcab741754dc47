"""The plan of a study: how arms are written, and what is refused before anything runs."""

import subprocess
import sys

import pytest
from paths import REPO

from tl_distributed.errors import UserError
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.settings.recipes import all_recipes
from tl_distributed.studies.clock import PlanClock
from tl_distributed.studies.plan import StudyConfig, make_plan, parse_arms, plan_of_arm, plan_of_run
from tl_distributed.study import main

CNN = "cnn:backbone=baseline_cnn,transfer=scratch"


def plan_of(*arguments: str):
    return make_plan(parse_arguments(StudyConfig, arguments)[0])


def arm_config(arm) -> Config:
    return parse_arguments(Config, arm.arguments)[0]


@pytest.mark.parametrize(
    "text",
    [
        "vgg16_frozen,a:head_units=512,128,epochs=3,b:weights=gs://bucket/x,convnext_tiny",
        "vgg16_frozen;a:head_units=512,128,epochs=3;b:weights=gs://bucket/x;convnext_tiny;",
        " vgg16_frozen ; a: head_units=512, 128, epochs=3 ;b:weights=gs://bucket/x , convnext_tiny",
    ],
)
def test_arms_with_commas_semicolons_and_lists(text):
    arms = [(name, [part.strip() for part in own]) for name, own in parse_arms(text)]
    assert arms == [
        ("vgg16_frozen", []), ("a", ["head_units=512,128", "epochs=3"]), ("b", ["weights=gs://bucket/x"]),
        ("convnext_tiny", []),
    ]  # fmt: skip


def test_recipe_then_common_then_own_then_override():
    plan = plan_of(
        f"--arms=densenet121_frozen:head_units=64,32,epochs=4;{CNN},epochs=7",
        "--common=epochs=5,global_batch_size=16", "--override=max_steps=3",
    )  # fmt: skip
    densenet, cnn = map(arm_config, plan.arms)
    assert (densenet.transfer, densenet.head_units, densenet.image_size) == ("frozen", (64, 32), 224)
    assert (densenet.epochs, cnn.epochs) == (4, 7)
    assert densenet.global_batch_size == cnn.global_batch_size == 16
    assert densenet.max_steps == cnn.max_steps == 3
    assert arm_config(plan_of("--arms=densenet121_frozen", "--common=epochs=5").arms[0]).epochs == 5
    assert arm_config(plan_of("--arms=mine:recipe=densenet121_frozen,epochs=2").arms[0]).image_size == 224


def test_every_arm_at_every_size_and_seed():
    plan = plan_of(
        f"--arms={CNN};convnext_tiny", "--seeds=2", "--images_per_class=0,50,10,50", "--baseline=convnext_tiny"
    )
    assert len(plan.runs) == 2 * 3 * 2
    assert [run.images_per_class for run in plan.runs[:6]] == [10, 10, 50, 50, 0, 0]
    assert {run.seed for run in plan.runs[:6]} == {0}
    assert plan.baseline == "convnext_tiny"
    assert len({run.folder for run in plan.runs}) == 12


@pytest.mark.parametrize("name", [recipe.name for recipe in all_recipes() if recipe.is_study])
def test_study_recipes_are_plans(name):
    plan = plan_of(f"--recipe={name}")
    assert plan.baseline == "baseline_cnn"
    transfers = [arm_config(arm).transfer for arm in plan.arms]
    assert transfers == ["scratch", "frozen", "two_phase" if name == "mobilenet_v2_study" else "full"]
    assert len(plan_of(f"--recipe={name}", f"--arms={CNN}").arms) == 1  # a later flag wins


def test_mobilenet_study_is_the_walk_through():
    cnn, frozen, last = map(arm_config, plan_of("--recipe=mobilenet_v2_study").arms)
    for config in (cnn, frozen, last):
        assert (config.image_size, config.rotation_degrees, config.width_shift_fraction) == (32, 20, 0.2)
    assert (frozen.head_units, frozen.dropout, frozen.epochs, frozen.learning_rate) == ((256,), 0.5, 20, 1e-3)
    assert (last.unfreeze_last_layers, last.head_epochs, last.finetune_learning_rate) == (30, 20, 1e-4)
    assert cnn.epochs == 20


@pytest.mark.parametrize("later", [["--common=image_size=64,momentum=0.8"], ["-common", "image_size=64,momentum=0.8"]])
def test_common_on_the_command_line_adds_to_the_recipes(later):
    for config in map(arm_config, plan_of("--recipe=mobilenet_v2_study", *later).arms):
        assert (config.image_size, config.momentum) == (64, 0.8)
        assert (config.rotation_degrees, config.optimizer, config.dropout) == (20, "adam", 0.5)  # the recipe's


def test_lists_that_are_given_again_add_up():
    (arm,) = plan_of(
        "--common=epochs=5,image_size=32", f"--arms={CNN}", "--common=epochs=6", "--override=max_steps=3",
        "--override=log_every_steps=2",
    ).arms  # fmt: skip
    config = arm_config(arm)
    assert (config.epochs, config.image_size, config.max_steps, config.log_every_steps) == (6, 32, 3, 2)
    with pytest.raises(UserError, match="Missing value for flag --common"):
        plan_of("--recipe=mobilenet_v2_study", "--common")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no arms"),
        (["--arms=densnet121_frozen"], "densnet121_frozen is no recipe, so its flags must say the backbone"),
        (["--arms=densnet121_frozen:epochs=3"], "densnet121_frozen is no recipe"),
        ([f"--arms={CNN},epoch=3"], "arm cnn: Unknown command line flag 'epoch'"),
        ([f"--arms={CNN},epochs=0"], "arm cnn: .*epochs.*at least 1"),
        ([f"--arms={CNN},weights=imagenet"], "arm cnn: --weights=imagenet: baseline_cnn has none"),
        ([f"--arms={CNN};{CNN}"], "two arms are called cnn"),
        ([f"--arms={CNN},seed=3"], "--seed is the study's own"),
        ([f"--arms={CNN}", "--override=workdir=x"], "--workdir is the study's own"),
        ([f"--arms={CNN}", "--common=epochs"], "--common: 'epochs' is not flag=value"),
        ([f"--arms={CNN}", "--baseline=none"], "--baseline=none: no such arm; there are cnn"),
        (["--arms=../x"], "'../x' is neither a recipe nor"),
        (["--arms=mobilenet_v2_study"], "arm mobilenet_v2_study: .*tl_distributed.study"),
        (["--recipe=vgg16_frozen"], "is one arm"),
        (
            ["--recipe=mobilenet_v2_study", "--recipe=efficientnet_b0_study"],
            "--recipe=efficientnet_b0_study: a study takes one recipe, and mobilenet_v2_study is given too",
        ),
        (
            [f"--arms={CNN},strategy=multi_worker"],
            "arm cnn: --strategy=multi_worker: .* the study's own; .* to the study",
        ),
        ([f"--arms={CNN},strategy=mirrored", "--strategy=multi_worker"], "arm cnn: --strategy=mirrored: .* drop it"),
        ([f"--arms={CNN}", "--worker_index=1"], "--worker_index needs --strategy=multi_worker"),
        ([f"--arms={CNN}", "--strategy=multi_worker", "--worker_index=1"], "--workers and --worker_index go together"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_runs(arguments, message):
    with pytest.raises(UserError, match=message):
        plan_of(*arguments)


def test_a_study_of_several_workers_tells_its_runs_where_they_are_and_notes_it_in_no_arm():
    given = ["--strategy=multi_worker", "--workers=a:1,b:2", "--worker_index=1", "--worker_timeout_seconds=9"]
    config = parse_arguments(StudyConfig, [f"--arms={CNN}", *given])[0]
    assert make_plan(config) == plan_of(f"--arms={CNN}")
    run, _ = parse_arguments(Config, ["--backbone=baseline_cnn", *config.cluster_arguments()])
    assert (run.strategy, run.workers, run.worker_index) == ("multi_worker", ("a:1", "b:2"), 1)
    assert run.worker_timeout_seconds == 9
    assert config.of_runs() == run.part(RuntimeSettings)
    assert parse_arguments(StudyConfig, [f"--arms={CNN}"])[0].cluster_arguments() == ()


def test_clock_goes_by_the_arm_and_else_by_cost():
    runs = plan_of(f"--arms={CNN};convnext_tiny", "--seeds=2").runs
    clock = PlanClock(dict(zip(runs, (10.0, 40.0, 10.0, 40.0), strict=True)))
    assert clock.seconds_left(runs[0], elapsed_seconds=3, share_done=0) is None
    # A fifth of 10 units took 4 s: 2 s a unit, 100 units in all.
    assert clock.seconds_left(runs[0], elapsed_seconds=4, share_done=0.2) == pytest.approx(98 * 2)
    clock.finish(runs[0], seconds=25, training_seconds=20)
    # 5 s of start and 2 s a unit: 85, 25 and 85 s, less the 2 s that have passed.
    assert clock.seconds_left(runs[1], elapsed_seconds=2, share_done=0) == pytest.approx(85 + 25 + 85 - 2)
    # Half of the second arm in 5 + 10 s: 0.5 s a unit for it, still 2 s for the first.
    assert clock.seconds_left(runs[1], elapsed_seconds=15, share_done=0.5) == pytest.approx(10 + 25 + 25)
    clock.finish(runs[1], seconds=25, training_seconds=20)
    clock.skip(runs[2])
    assert clock.seconds_left(runs[3], elapsed_seconds=0, share_done=0) == pytest.approx(25)


def test_the_plan_of_one_arm():
    plan = plan_of(f"--arms={CNN};convnext_tiny", "--seeds=2", "--images_per_class=10,50")
    own = plan_of_arm(plan, 1)
    assert own.runs == tuple(run for run in plan.runs if run.arm.name == "convnext_tiny") and len(own.runs) == 4
    assert own.arms == plan.arms
    with pytest.raises(UserError, match="--arm_index=2: no such arm; there are 0 cnn, 1 convnext_tiny"):
        plan_of_arm(plan, 2)


def test_the_plan_of_one_run():
    plan = plan_of(f"--arms={CNN};convnext_tiny", "--seeds=2", "--images_per_class=10,50")
    alone = [plan_of_run(plan, index) for index in range(8)]
    assert [part.runs for part in alone] == [(run,) for run in plan.runs] and alone[0].arms == plan.arms
    message = "--run_index=8: no such run; there are 8, from 0 .cnn, 10 images a class, seed 0. to 7 .convnext_tiny, 50"
    with pytest.raises(UserError, match=message):
        plan_of_run(plan, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arm_index=0", "--run_index=0"], "--arm_index and --run_index: give one of them"),
        (["--runs_per_node=2", "--strategy=multi_worker", "--workers=a:1,b:2", "--worker_index=0"],
         "--runs_per_node=2 shares a node between runs, --strategy=multi_worker a run between workers"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_together_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        plan_of(f"--arms={CNN}", *arguments)


def test_arms_are_listed_with_their_numbers_without_tensorflow():
    code = (
        "import sys; from tl_distributed.study import main; from tl_distributed.studies.plan import StudyConfig; "
        f"code = main(StudyConfig(arms='{CNN};convnext_tiny', list_arms=True), []); "
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "0 cnn\n1 convnext_tiny\n"


def test_runs_are_listed_with_their_numbers(capsys):
    assert main(StudyConfig(arms=f"{CNN};convnext_tiny", seeds=2, list_runs=True), []) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 cnn, all images, seed 0", "1 convnext_tiny, all images, seed 0", "2 cnn, all images, seed 1",
        "3 convnext_tiny, all images, seed 1",
    ]  # fmt: skip
