"""What a study says in sentences, on runs with known numbers."""

import dataclasses
import json

import numpy as np
import pytest
from finished_runs import trainer
from report_study import ALONE, plan_of
from scipy import stats

from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.studies import findings
from tl_distributed.studies.budget import best_by_time, budget
from tl_distributed.studies.collect import (
    ArmSummary,
    Pair,
    Record,
    at_largest_size,
    compare_all,
    epochs_of,
    load_records,
    summarise,
)
from tl_distributed.studies.efficiency import data_efficiency
from tl_distributed.studies.plan import Arm, Run
from tl_distributed.studies.ranking import pair_matrix, ranked_table
from tl_distributed.studies.report import write_report
from tl_distributed.studies.runner import run_plan
from tl_distributed.studies.statistics import Comparison, holm


def made_arms(**accuracies):
    """Returns arms of one run each, of which nothing is known but the test accuracy."""
    records = {
        name: Record(Run(Arm(name, ()), 0, 0), name, "done", results={"test_accuracy": share})
        for name, share in accuracies.items()
    }
    return [ArmSummary(name, 0, (record,)) for name, record in records.items()]


def made_pairs(p_values, num_seeds=3):
    """Returns pairs, by two names each the difference and its p, before Holm's correction."""
    adjusted = holm([p_value for _, p_value in p_values.values()])
    return [
        Pair(*names, Comparison(difference, 0.0, 0.0, p_value, num_seeds, (), ()), p_adjusted)
        for (names, (difference, p_value)), p_adjusted in zip(p_values.items(), adjusted, strict=True)
    ]


def test_a_small_lead_beyond_noise_is_not_written_as_none():
    arms, pairs = made_arms(a=0.9504, b=0.95), made_pairs({("a", "b"): (0.0004, 0.01)})
    assert "more than the other arm by 0.04 points or more, beyond noise" in findings.headline(arms, "a", pairs)


def test_who_is_level_does_not_lead():
    arms = made_arms(a=0.9, b=0.9, c=0.5)
    pairs = made_pairs({("a", "b"): (0.0, 1.0), ("a", "c"): (0.4, 1e-6), ("b", "c"): (0.4, 1e-6)})
    assert findings.headline(arms, "a", pairs) == (
        "No winner: a and b are level with 90.0 % of the test images right, ahead of c by more than noise."
    )
    arms = made_arms(a=0.9, b=0.9, c=0.9, d=0.9, e=0.89)
    pairs = [Pair(one, "e", made_pairs({(one, "e"): (0.01, 0.3)})[0].comparison, 1.0) for one in "abcd"]
    assert findings.headline(arms, "a", pairs) == "No winner: 4 arms are level with 90.0 % of the test images right."


def test_a_gain_that_all_pairs_at_once_do_not_tell_says_so():
    """The headline and the letters go by all pairs, the gains by those with the baseline."""
    arms = made_arms(a=0.9, b=0.88, c=0.87)
    pairs = made_pairs({("a", "b"): (0.02, 0.02), ("a", "c"): (0.03, 0.02), ("b", "c"): (0.01, 0.3)})
    assert "not told apart" in findings.headline(arms, "c", pairs)
    assert findings.gain_over_baseline(arms, "c", pairs)[0].endswith(
        "p = 0.04 by Holm's correction for 2 pairs: more than noise; among all 3 pairs at once the two are not told "
        "apart."
    )
    (gain,) = findings.gain_over_baseline(arms[:2], "b", made_pairs({("a", "b"): (0.02, 0.02)}))
    assert gain.endswith("p = 0.02: more than noise.")


@pytest.mark.parametrize(
    ("p_value", "text"),
    [(0.0123, "p = 0.012"), (1.0, "p = 1"), (0.04996, "p = 0.04996"), (0.0503, "p = 0.05"), (9e-5, "p < 0.0001")],
)
def test_a_p_value_is_seen_to_be_below_the_level_where_it_is(p_value, text):
    assert findings.probability(p_value) == text


def test_words_follow_from_the_numbers(study):
    plan, _, records, _ = study
    summaries = summarise(plan, records)
    arms = at_largest_size(plan, summaries)
    pairs = compare_all(arms)
    text = " ".join(findings.ranking(arms, plan.baseline, pairs))
    assert text.startswith(
        "Best on the test images is deep with 90.50 % ± 0.71 (2 seeds), then cnn with 70.50 % ± 0.71."
    )
    assert findings.headline(arms, plan.baseline, pairs) == (
        "deep is best: 90.5 % of the test images right, more than the other arm by 20.0 points or more, beyond noise."
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
    efficiency = data_efficiency(summaries, "cnn")
    assert efficiency[0].startswith("Best by images of each class: 10: deep (70.50 % ± 0.71); all: deep (90.50 %")
    assert efficiency[1] == (
        "deep reaches what cnn reaches with all (70.50 % ± 0.71) with 10 (70.50 % ± 0.71; the two are not told apart)."
    )


def test_the_size_at_which_the_lead_changes_is_named(study, data_dir, tmp_path):
    plan, info = plan_of("--images_per_class=10,0"), read_manifest(data_dir)
    reached = {"baseline_cnn": {10: 0.6, 0: 0.7}, "resnet20": {10: 0.5, 0: 0.9}}
    train = trainer(lambda config: reached.get(config.backbone, {}).get(config.images_per_class, "no"), [])
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=train, **ALONE)
    sentences = data_efficiency(summarise(plan, load_records(plan, str(tmp_path))), "cnn")
    assert "The lead passes from cnn to deep between 10 and all images of each class." in sentences
    plan, _, records, _ = study
    assert not any("lead" in sentence for sentence in data_efficiency(summarise(plan, records), "cnn"))


def test_a_lead_at_a_size_says_whether_the_test_images_tell_it(data_dir, tmp_path):
    """Of 300 images, one more is right with 10 of each class, 60 with all."""
    plan, info = plan_of("--seeds=2", "--images_per_class=10,0"), read_manifest(data_dir)
    reached = {"baseline_cnn": {10: 0.6, 0: 0.7}, "resnet20": {10: 0.597, 0: 0.9}}
    train = trainer(lambda config: reached.get(config.backbone, {}).get(config.images_per_class, "no"), [])
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=train, **ALONE)
    sentences = data_efficiency(summarise(plan, load_records(plan, str(tmp_path))), "cnn")
    assert sentences == [
        "Best by images of each class: 10: cnn (60.00 % ± 0.00), not told apart from deep; all: deep (90.00 % ± 0.00).",
        "The lead passes from cnn to deep between 10 and all images of each class; with 10 they are not told apart.",
        "deep reaches what cnn reaches with all (70.00 % ± 0.00) with all (90.00 % ± 0.00).",
    ]


def test_equal_arms_are_not_told_apart(data_dir, tmp_path):
    plan, info = plan_of(), read_manifest(data_dir)
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=trainer(lambda _: 0.8, []), **ALONE)
    records = write_report(plan, info, data_dir=data_dir, workdir=str(tmp_path))
    arms = summarise(plan, records)
    sentences = findings.ranking(arms, "cnn", compare_all(arms))
    assert sentences[0].startswith("cnn and deep are level on the test images: 80.00 %")
    assert "Not told apart by these runs: cnn and deep; cnn and odd.name-1; deep and odd.name-1." in sentences
    assert findings.headline(arms, "cnn", compare_all(arms)) == (
        "No winner: cnn, deep and odd.name-1 are level with 80.0 % of the test images right (one seed: said of these "
        "runs)."
    )
    assert "How much data" not in (tmp_path / "report.md").read_text()
    assert "interval of one run" not in (tmp_path / "report.md").read_text()


def test_a_higher_mean_of_other_seeds_is_no_win_over_who_is_better_on_the_same(data_dir, tmp_path):
    """cnn has seeds 0 and 1, deep seed 0 alone, on which it is better by far; with 10 a class both have both."""
    plan, info = plan_of("--seeds=2", "--images_per_class=10,0"), read_manifest(data_dir)

    def accuracy(config):
        if config.backbone == "baseline_cnn":
            return (0.5, 0.98)[config.seed] if config.images_per_class == 0 else 0.4
        return 0.7 if config.backbone == "resnet20" and (config.images_per_class or not config.seed) else "no"

    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=trainer(accuracy, []), **ALONE)
    summaries = summarise(plan, load_records(plan, str(tmp_path)))
    arms = at_largest_size(plan, summaries)
    (pair,) = compare_all(arms)
    assert pair.comparison.difference == pytest.approx(-0.2) and pair.adjusted_p < 0.01
    assert findings.headline(arms, "cnn", [pair]) == (
        "No winner: cnn leads with 74.0 % of the test images right over its own runs, but over the seeds that both "
        "have deep has more, beyond noise."
    )
    note = ranked_table(arms, [pair], dict.fromkeys(("cnn", "deep"))).note
    assert "(1 to 2 seeds)" in note and "of one run, the test images alone (Wilson's)" in note
    both = dataclasses.replace(pair, comparison=dataclasses.replace(pair.comparison, num_seeds=2))
    note = pair_matrix(arms, [pair, both], dict.fromkeys(("cnn", "deep"))).note
    assert "holds both; of two arms that share one seed, the noise of the test images alone." in note
    sentences = data_efficiency(summaries, "deep")
    assert "all: cnn (74.00 % ± 33.94), not told apart from deep." in sentences[0]
    assert any("with all they are not told apart" in sentence for sentence in sentences)
    assert "(74.00 % ± 33.94; the two are not told apart)" in sentences[-1]


def test_where_few_runs_are_done_it_is_said_of_what_is_compared(data_dir, tmp_path):
    """With 10 a class all three arms are done, of all images none, then one that has not led before."""
    plan, info = plan_of("--images_per_class=10,0"), read_manifest(data_dir)
    reached = {"baseline_cnn": 0.9, "resnet20": 0.7, "tiny": 0.6}
    few = dataclasses.replace(plan, runs=plan.runs[:3])
    where = {"data_dir": data_dir, "workdir": str(tmp_path)}
    train = trainer(lambda config: reached[config.backbone], [])
    run_plan(few, info, train=train, **where, **ALONE)
    write_report(plan, info, **where)
    text = (tmp_path / "report.md").read_text()
    assert "No run with all images is done: the arms are compared with 10 images of each class." in text
    run_plan(dataclasses.replace(plan, runs=plan.runs[4:5]), info, train=train, **where, **ALONE)
    write_report(plan, info, **where)
    text = (tmp_path / "report.md").read_text()
    assert "is done: the arms are compared" not in text and "The lead passes" not in text
    assert "deep gets 70.0 % of the test images right; no other arm has a finished run on as many images" in text
    assert "The baseline cnn has no finished run on as many images" in text


def test_a_run_that_failed_when_it_was_made_longer_is_not_done(data_dir, tmp_path):
    """Its results are of before; `workdir.reopen` says so in them."""
    plan, info = plan_of(), read_manifest(data_dir)
    where = {"data_dir": data_dir, "workdir": str(tmp_path)}
    run_plan(plan, info, train=trainer(lambda _: 0.8, []), **where, **ALONE)
    for run in plan.runs[:2]:
        path = tmp_path / run.folder / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "finished": False}))
    train = trainer(lambda config: "no room" if config.backbone == "resnet20" else 0.8, [])
    run_plan(dataclasses.replace(plan, runs=plan.runs[1:2]), info, train=train, **where, **ALONE)
    records = load_records(plan, str(tmp_path))
    assert [record.status for record in records] == ["done", "failed", "done"]
    assert findings.incomplete(records) == [
        "Failed: deep, all images, seed 0: no room.",
        "Not trained to the end (--max_steps, or made longer since): 1 of 3 runs; their figures say little.",
    ]


def test_who_draws_level_does_not_overtake(study):
    plan, _, records, _ = study
    arms = at_largest_size(plan, summarise(plan, records))
    order = [dataclasses.replace(arm, records=arm.records[:1]) for arm in arms]

    def validated(arm, *points):
        epochs = [dataclasses.replace(arm.records[0].epochs[0], seconds=s, val_accuracy=share) for s, share in points]
        return dataclasses.replace(arm, records=(dataclasses.replace(arm.records[0], epochs=tuple(epochs)),))

    first, second = validated(order[0], (3.0, 0.5), (4.0, 0.6)), validated(order[1], (1.0, 0.5))
    assert [(lead.arm, lead.seconds) for lead in best_by_time([first, second])] == [("deep", 1.0), ("cnn", 4.0)]


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
    half = 100 * stats.t.ppf(0.975, 58) * ((0.8 * 0.2 + 0.82 * 0.18) / 30) ** 0.5
    assert sentences[1] == (
        f"That deep overtakes cnn at 20 s is not told from noise: +2.00 points, where validation and seeds tell "
        f"{half:.2f} apart."
    )


def test_a_lead_of_few_seeds_is_measured_by_how_little_they_say_of_their_noise(data_dir, tmp_path):
    """Two seeds an arm: 0.79 and 0.81, 0.85 and 0.95, on so many validation images that seeds are all the noise."""
    plan, info = plan_of("--seeds=2"), read_manifest(data_dir)
    reached = {"baseline_cnn": (0.79, 0.81), "resnet20": (0.85, 0.95)}
    train = trainer(lambda config: reached[config.backbone][config.seed] if config.backbone in reached else "no", [])
    run_plan(plan, info, data_dir=data_dir, workdir=str(tmp_path), train=train, **ALONE)
    arms = summarise(plan, load_records(plan, str(tmp_path)))
    for record in (one for arm in arms for one in arm.records):
        record.results["num_examples"]["val"] = 10**9
        epochs = tuple(dataclasses.replace(epoch, seconds=500 * epoch.seconds) for epoch in record.epochs)
        object.__setattr__(record, "epochs", epochs)
    half = 100 * stats.t.ppf(0.975, 2) * ((0.01**2 + 0.05**2) * 2 / 2) ** 0.5
    sentences = budget(arms)
    assert sentences[0].endswith("from 10000 s on deep leads, with 90.0 % there.")
    assert sentences[1] == (
        "That deep overtakes cnn at 10000 s is not told from noise: +10.00 points, where validation and seeds tell "
        f"{half:.2f} apart."
    )


def test_runs_of_other_test_images_are_not_compared(study):
    plan, _, records, _ = study
    arms = at_largest_size(plan, summarise(plan, records))
    record = arms[1].records[0]
    for change in ({"labels": record.answers.labels[::-1]}, {"ids": np.array(["other"] * 300)}):
        other = dataclasses.replace(record)
        vars(other)["answers"] = dataclasses.replace(record.answers, **change)
        changed = dataclasses.replace(arms[1], records=(other, *arms[1].records[1:]))
        with pytest.raises(UserError, match="were scored on other test images"):
            compare_all([_with_ids(arms[0]), changed])


def _with_ids(arm):
    """Returns the arm as if its data set had ids."""
    records = [dataclasses.replace(record) for record in arm.records]
    for new, record in zip(records, arm.records, strict=True):
        vars(new)["answers"] = dataclasses.replace(record.answers, ids=np.array([str(n) for n in range(300)]))
    return dataclasses.replace(arm, records=tuple(records))


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


def test_a_validation_that_answered_nan_is_no_epoch():
    """Nor are the training rows before it those of the next one."""
    rows = [
        {"step": 4, "epoch": 1.0, "loss": 2.0, "accuracy": 0.4, "seconds": 4.0},
        {"step": 4, "epoch": 1.0, "val_loss": None, "val_accuracy": 0.5, "seconds": 4.0},
        {"step": 8, "epoch": 2.0, "loss": 1.0, "accuracy": 0.6, "seconds": 8.0},
        {"step": 8, "epoch": 2.0, "val_loss": 1.5, "val_accuracy": 0.5, "seconds": 8.0},
    ]
    (epoch,) = epochs_of(rows)
    assert (epoch.step, epoch.train_loss, epoch.val_loss) == (8, 1.0, 1.5)
