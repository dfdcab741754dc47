"""Tasks: the built-in losses against Keras's, and multi-label and one's own through whole runs."""

import json
import pathlib
import subprocess
import sys

import engine
import keras
import numpy as np
import own_tasks
import pytest
import tensorflow as tf
from blank_charts import real_charts
from multi_label_data import NAMES, labels_of, multi_label_data
from PIL import Image
from sklearn.metrics import average_precision_score
from tiny_runs import assert_identical
from toy_dataset import write_toy_dataset

import tl_distributed as tl
from tl_distributed.errors import UserError
from tl_distributed.export import ExportConfig
from tl_distributed.export import main as export
from tl_distributed.inference.predictions import predict_files
from tl_distributed.inference.saved import ENDINGS, open_model
from tl_distributed.inference.scoring import figures_line, score_model
from tl_distributed.reporting.metrics_log import read_metrics
from tl_distributed.training.evaluation import Evaluation
from tl_distributed.training.forward import loss_and_sums
from tl_distributed.training.losses import binary_losses
from tl_distributed.training.tasks import Classification, MultiLabel, Scored


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return multi_label_data(tmp_path_factory.mktemp("tasks") / "several")[0]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("tasks") / "one", counts={"train": 24, "val": 12, "test": 12})


def flags(data_dir, workdir, **changes) -> dict:
    return {
        "data_dir": data_dir, "workdir": str(workdir), "backbone": "tiny_norm", "transfer": "scratch", "epochs": 3,
        "global_batch_size": 8, "learning_rate": 0.01, "augment": "none", "strategy": "one_device",
        "precision": "float32", "xla": "off", **changes,
    }  # fmt: skip


def logits_and_targets() -> tuple[tf.Tensor, tf.Tensor]:
    generator = np.random.default_rng(0)
    targets = tf.constant(generator.random((6, 4)) < 0.4, tf.float32)
    return tf.constant(generator.normal(size=(6, 4)) * 3, tf.float32), targets


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [None, 2.0])
def test_binary_losses_are_keras_own(smoothing, gamma):
    logits, targets = logits_and_targets()
    options = {"from_logits": True, "label_smoothing": smoothing}
    if gamma is None:
        expected = keras.losses.binary_crossentropy(targets, logits, **options)
    else:
        expected = keras.losses.binary_focal_crossentropy(targets, logits, gamma=gamma, **options)
    found = binary_losses(targets, logits, label_smoothing=smoothing, focal_gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_loss_has_a_gradient_where_the_answer_is_certain():
    logits = tf.constant([[-200.0, 200.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = binary_losses(tf.constant([[1.0, 0.0]]), logits, label_smoothing=0.0, focal_gamma=0.5)
    np.testing.assert_allclose(tape.gradient(losses, logits), [[-0.5, 0.5]], rtol=1e-5)


def test_targets_of_both_kinds_of_labels():
    task = MultiLabel()
    np.testing.assert_array_equal(task.targets(tf.constant([[0, 2], [-1, -1]]), 3), [[1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(task.targets(tf.constant([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    (whole,) = task.measures(tf.constant([[0, 2], [-1, -1]]), tf.constant([[1.0, -1.0, 2.0], [-1.0, 0.5, -1.0]]))
    np.testing.assert_array_equal(whole, [1, 0])


def test_training_on_mixed_images_is_measured_by_what_is_in_them():
    """Not by the label of the image that a part was blended into or pasted over."""
    draw = np.random.default_rng(0)
    labels, others = draw.integers(0, 5, (2, 64)).astype(np.int32)
    shares, outputs = draw.uniform(size=(64, 1)).astype(np.float32), draw.normal(size=(64, 5)).astype(np.float32)
    targets = shares * np.eye(5, dtype=np.float32)[labels] + (1 - shares) * np.eye(5, dtype=np.float32)[others]
    settings = engine.settings(task=Classification())
    _, sums = loss_and_sums(settings, tf.constant(outputs), tf.constant(targets), tf.constant(labels), tf.constant(1.0))
    accuracy = np.mean(keras.metrics.categorical_accuracy(targets, outputs))
    assert float(sums[1]) / 64 == pytest.approx(accuracy) and accuracy != np.mean(outputs.argmax(1) == labels)
    half = tf.constant([[0.7, 0.3, 0.5], [0.0, 1.0, 0.2]])
    (whole,) = MultiLabel().training_measures(tf.constant([[0, 1], [1, -1]]), half, tf.constant([[1.0, -1, 1]] * 2))
    np.testing.assert_array_equal(whole, [1, 0])


@pytest.mark.parametrize("xla", [False, True])
def test_a_task_trains_on_replicas_as_on_one_device(xla):
    """Sums of the task reduce over the replicas: loss and measure of two are those of one."""
    settings = engine.settings(task=own_tasks.Ordinal())
    runs = [
        engine.make_engine(engine.runtime(count, xla=xla), backbone="tiny", step_settings=settings).train(4)
        for count in (1, 2)
    ]
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-4, atol=1e-5)
    assert runs[0][:, 1].min() > 0  # the mean of how far it is off, no share of right answers


@pytest.fixture(scope="module")
def trained(several, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tasks") / "run"
    changes = {"epochs": 16, "learning_rate": 0.03, "strategy": "mirrored", "augment": "basic"}
    with real_charts():  # its page is looked at
        return tl.train(**flags(several, workdir, **changes))


def test_multi_label_is_chosen_by_the_data_set_and_learns(trained, several):
    results, written = trained.results, trained.config["config"]
    assert results["task"] == written["task"] == "multi_label" and written["select_by"] == "val_mean_average_precision"
    assert results["test_mean_average_precision"] > 0.9 > results["test_hamming_loss"] > -1
    assert "test_accuracy" not in results and results["temperature"] is None
    saved = np.load(pathlib.Path(trained.workdir) / "predictions_test.npz")
    truth = np.array([[label in row for label in range(3)] for row in saved["labels"].tolist()])
    assert average_precision_score(truth, saved["probabilities"]) == pytest.approx(
        results["test_mean_average_precision"], abs=1e-6
    )
    rows = [row for row in trained.history if "val_loss" in row]
    best = max(rows, key=lambda row: (row["val_mean_average_precision"], -row["val_loss"]))
    assert results["best_step"] == best["step"]
    assert all({"loss", "subset_accuracy"} <= set(row) for row in trained.history if "loss" in row)


def test_multi_label_is_evaluated_and_predicted(trained, several, tmp_path):
    summary = score_model(trained.workdir, several, split="test", batch_size=10)
    for name in ("mean_average_precision", "macro_f1", "subset_accuracy", "loss"):
        assert summary[name] == pytest.approx(trained.results[f"test_{name}"], abs=1e-4)
    assert "mean average precision" in figures_line(summary)
    model = open_model(trained.workdir)
    assert (model.task, model.activation) == ("multi_label", "sigmoid")
    folder = pathlib.Path(several).parent / "pictures" / "images"
    files = [str(folder / f"test{number:03d}.png") for number in range(8)]
    found = list(predict_files(model, files, top=2, batch_size=8, fit="squash"))
    for row in found:
        assert set(row) == {"file", "labels", "top"} and len(row["top"]) == 2
        above = [one["class"] for one in row["top"] if one["probability"] > 0.5]
        assert row["labels"][:2] == above
    right = sum(sorted(row["labels"]) == labels_of(number) for number, row in enumerate(found))
    assert right >= 6
    stock = keras.models.load_model(f"{trained.workdir}/model.keras", safe_mode=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(stock.predict(images, verbose=0), model.predict(images), atol=1e-5)


@pytest.mark.parametrize("kind", ["saved_model", "tflite", "h5"])
def test_multi_label_is_exported(trained, several, tmp_path, kind):
    path = f"{tmp_path}/model{ENDINGS[kind]}"
    export(ExportConfig(workdir=trained.workdir, format=kind, output=path), [])
    exported, model = open_model(path), open_model(trained.workdir)
    assert (exported.activation, exported.task, exported.class_names) == ("sigmoid", "multi_label", NAMES)
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(exported.predict(images), model.predict(images), atol=1e-4)
    summary = score_model(path, several, split="test", batch_size=10)
    assert summary["mean_average_precision"] == pytest.approx(trained.results["test_mean_average_precision"], abs=1e-3)


def test_the_page_of_the_run_says_the_scores_it_has(trained):
    page = (pathlib.Path(trained.workdir) / "report.html").read_text()
    results = trained.results
    assert "mean average precision" in page and f"{results['test_mean_average_precision']:.4f}" in page
    assert "hamming loss" in page and "average precision" in page and "% of" not in page.split("<script")[0]
    assert {path.name for path in (pathlib.Path(trained.workdir) / "plots").iterdir()} == {"learning_curves.png"}


def test_multi_label_from_a_bank_equals_plain_training(several, tmp_path):
    settings = {"backbone": "tiny_norm", "transfer": "frozen", "weights": None, "dropout": 0.0}
    first = tl.train(**flags(several, tmp_path / "first", max_steps=1))
    settings["weights"] = f"{first.workdir}/model.keras"
    banks = [
        tl.train(**flags(several, tmp_path / name, **settings, feature_bank=name)).results for name in ("on", "off")
    ]
    assert banks[0]["test_loss"] == pytest.approx(banks[1]["test_loss"], abs=1e-5)
    assert banks[0]["test_mean_average_precision"] == pytest.approx(banks[1]["test_mean_average_precision"], abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_an_own_task_and_augmentation_go_on_where_they_stopped(one, tmp_path, precision):
    shared = {"task": own_tasks.Ordinal(2.0), "augmentation": own_tasks.brighter}

    def train(name: str, *, task=shared["task"], **changes) -> tl.Run:
        settings = {"strategy": "mirrored", "checkpoint_every_steps": 2, "precision": precision, **changes}
        return tl.train(**flags(one, tmp_path / name, **settings), **{**shared, "task": task})

    whole = train("whole")
    train("parts", max_steps=4)
    parts = train("parts")
    assert_identical(whole.workdir, parts.workdir)
    assert whole.results["test_off_by"] == parts.results["test_off_by"] and "test_accuracy" not in whole.results
    assert set(whole.config["plugin_sha256"]) == {"python=own_tasks.Ordinal", "python=own_tasks.brighter"}
    validations = [row for row in whole.history if "val_loss" in row]
    best = min(validations, key=lambda row: (row["val_off_by"], row["val_loss"]))
    assert whole.results["best_step"] == best["step"]
    with pytest.raises(UserError, match=r"the source of python=own_tasks\.Ordinal, which has changed since"):
        train("parts", task=own_tasks.Ordinal(3.0), epochs=4)


def test_a_task_by_its_name_whose_model_returns_the_outputs(one, tmp_path, caplog):
    run = tl.train(**flags(one, tmp_path / "run", task="own_tasks:LeftAsTheyAre", epochs=1))
    assert list(run.config["plugin_sha256"]) == ["own_tasks"]
    outputs = run.model.predict(np.zeros((2, 16, 16, 3), np.uint8))
    assert not np.allclose(outputs.sum(1), 1)
    with pytest.raises(UserError, match="returns what linear makes"):
        score_model(run.workdir, one, split="test", batch_size=8)


def test_classification_is_the_same_by_flags_and_by_object(one, tmp_path):
    shared = {"epochs": 2, "weight_decay": 0.0}
    by_flags = {"label_smoothing": 0.1, "class_weights": "balanced", "loss": "focal", "focal_gamma": 1.5}
    flagged = tl.train(**flags(one, tmp_path / "flags", **shared, **by_flags))
    task = tl.Classification(label_smoothing=0.1, class_weights="balanced", focal_gamma=1.5)
    given = tl.train(tl.Config(**flags(one, tmp_path / "task", **shared)), task=task)
    assert_identical(flagged.workdir, given.workdir)
    assert given.config["class_weights"] == flagged.config["class_weights"] is not None


def test_an_own_augmentation_changes_training_alone(one, tmp_path):
    plain, changed = (
        tl.train(**flags(one, tmp_path / name, epochs=1), augmentation=function)
        for name, function in (("plain", None), ("changed", own_tasks.brighter))
    )
    losses = [read_metrics(f"{run.workdir}/metrics.jsonl")[0]["loss"] for run in (plain, changed)]
    assert losses[0] != losses[1]
    assert json.loads((tmp_path / "changed" / "config.json").read_text())["config"]["augmentation"].startswith(
        "python="
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": own_tasks.NoTask()}, "task takes a tl.Task"),
        ({"task": "own_tasks:NoTask"}, "takes a class, or a function that returns one, of tl_distributed.Task"),
        ({"task": "own_tasks:Nothing"}, "own_tasks has no function 'Nothing'"),
        (
            {"task": "own_tasks:NeedsAnArgument"},
            "is called without arguments, and missing a required argument: 'scale'",
        ),
        ({"task": own_tasks.NoLosses}, r"task own: NoLosses has no losses\(targets, outputs\)"),
        ({"task": own_tasks.OneLoss}, r"losses has to be \[8\] float32, a number for each image, and is \[\] float32"),
        ({"task": own_tasks.UnnamedMeasure}, "measures returns 2, measure_names names 1"),
        ({"task": own_tasks.NoLossFigure}, r"its figures lack loss"),
        ({"task": "ordinal"}, "--task=ordinal: takes auto, classification, multi_label, or MODULE:CLASS"),
        ({"task": tl.Classification(), "label_smoothing": 0.1}, "task says label_smoothing itself"),
        (
            {"task": own_tasks.Ordinal, "label_smoothing": 0.1},
            "--label_smoothing=0.1 has no effect with --task=python=",
        ),
        ({"task": "multi_label", "class_weights": "balanced"}, "--class_weights=balanced has no effect with --task"),
        (
            {"select_by": "val_mean_average_precision"},
            "--select_by=val_mean_average_precision: task classification has",
        ),
        ({"select_by": "accuracy"}, "takes auto, or val_ and a metric"),
        ({"augmentation": own_tasks.smaller}, r"returns images of float32 \(16, 15, 16, 3\), was given"),
        ({"augmentation": own_tasks.needs_values}, "own_tasks.needs_values: it failed with"),
        ({"augmentation": own_tasks.one_too_many}, "has to return the pair"),
        ({"augmentation": "brighter"}, "takes MODULE:FUNCTION of your own"),
        ({"augmentation": own_tasks.brighter, "feature_bank": "on"}, "changes the images in every epoch"),
        ({"augmentation": own_tasks.brighter, "bank_views": 2}, "--bank_views=2 banks no --augmentation of your own"),
    ],
)
def test_what_cannot_be_meant(one, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tl.train(**flags(one, tmp_path / "run"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "classification"}, "--task=classification: takes one label a picture"),
        ({"task": own_tasks.Ordinal}, "takes one label a picture"),
        ({"images_per_class": 3}, "--images_per_class=3: pictures of"),
        ({"class_weights": "balanced"}, "--class_weights=balanced has no effect with multi_label"),
    ],
)
def test_what_cannot_be_meant_of_several_labels(several, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tl.train(**flags(several, tmp_path / "run"), **changes)


def test_a_study_says_that_it_is_of_one_label(several, tmp_path):
    with pytest.raises(UserError, match="a study compares by accuracy, and its pictures have any number of labels"):
        tl.study({"a": {"backbone": "tiny_norm"}}, data_dir=several, workdir=tmp_path / "study")
    with pytest.raises(UserError, match="a study compares accuracies of classification"):
        tl.study({"a": {"backbone": "tiny_norm", "task": "multi_label"}}, data_dir=several, workdir=tmp_path / "study")


class _WithoutLoss(tl.Task):
    def metrics(self, scored):
        return {"seen": len(scored.labels)}


class _NamedOnly(tl.Task):
    metric_names = ("loss", "kappa")


class _ChosenOnly(tl.Classification):
    metric_names = ("accuracy", "loss", "kappa")


@pytest.mark.parametrize(("task", "line"), [
    (_WithoutLoss(), "task own: its metrics lack loss"),
    (_NamedOnly(), "task own: its figures lack kappa; return it there, or in metrics"),
    (_ChosenOnly(), "task classification: its metrics lack kappa"),
])  # fmt: skip
def test_metrics_that_a_task_names_and_does_not_return_are_said(task, line):
    numbers = np.ones(2, np.float32)
    figures = {"loss": numbers, "prediction": np.zeros(2, np.int64), "in_top_k": numbers, "confidence": numbers}
    evaluation = Evaluation(task, Scored(np.zeros(2, np.int32), figures, None, 2), (), np.zeros((2, 0)))
    with pytest.raises(UserError, match=line):
        _ = evaluation.metrics


def test_metric_names_are_what_metrics_returns(trained):
    assert {f"test_{name}" for name in MultiLabel().metric_names} <= set(trained.results)
    assert Classification().chosen_by in Classification().metric_names and NAMES == ("blue", "green", "red")


def test_an_export_of_several_labels_says_what_it_loses(trained, several, tmp_path, capsys):
    workdir = pathlib.Path(trained.workdir)
    export(
        ExportConfig(workdir=str(workdir), format="tflite", data_dir=several, quantize="float16", overwrite=True), []
    )
    printed = capsys.readouterr().out
    right = trained.results["test_subset_accuracy"]  # a label more or less makes a picture wrong
    assert f"the float model {right:.2%}" in printed
    (card,) = workdir.glob("export/*.md")
    assert f"| test mean average precision | {trained.results['test_mean_average_precision']:.4f} |" in card.read_text()
    export(ExportConfig(workdir=str(workdir), format="saved_model", data_dir=several, overwrite=True), [])
    script = next(path for path in workdir.rglob("export/**/*.py") if "saved_model" in str(path))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "dark.png")
    said = subprocess.run([sys.executable, script, tmp_path / "dark.png"], text=True, capture_output=True, check=True)
    assert said.stdout.startswith("[]")  # no label
