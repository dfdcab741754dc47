"""Class weights and the focal loss against stock Keras, on any number of replicas; and files of weights."""

import csv
import json

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight
from tiny_runs import assert_identical, config
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.data.order import BatchOrder
from tl_distributed.errors import UserError
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS
from tl_distributed.runtime.workers import Workers
from tl_distributed.training.class_weights import resolve_class_weights
from tl_distributed.training.losses import image_losses, image_weights
from tl_distributed.training.run import train_and_evaluate

WEIGHTS = (0.2, 1.0, 4.0)
STEPS = 5


def batches(steps: int):
    """Returns (inputs, labels) of each of the engine's batches."""
    split = engine.make_engine(engine.runtime(), backbone="tiny").split
    feed = split.train_feed(BatchOrder(global_batch_size=engine.BATCH, num_replicas=1, seed=0), first_step=0)
    for step in range(steps):
        images, labels, _ = feed.replica_batch(tf.constant(step, tf.int64), tf.constant(0), *feed.host_inputs())
        yield images.numpy().astype(np.float32) / 127.5 - 1.0, labels.numpy()


def trained_by_keras(reference: keras.Model, reduction: str, loss_class, **loss) -> list[np.ndarray]:
    """Trains a copy of the model with stock `train_on_batch` and `class_weight`; returns its weights."""
    model = keras.models.clone_model(reference)
    model.set_weights(reference.get_weights())
    model.compile(keras.optimizers.SGD(0.05), loss_class(from_logits=True, reduction=reduction, **loss))
    for inputs, labels in batches(STEPS):
        targets = keras.utils.to_categorical(labels, engine.NUM_CLASSES)
        model.train_on_batch(inputs, targets, class_weight=dict(enumerate(WEIGHTS)))
    return model.get_weights()


def ours(where, **changes) -> engine.Engine:
    settings = engine.settings(weight_of_class=WEIGHTS, **changes)
    return engine.make_engine(where, backbone="tiny", learning_rate=0.05, step_settings=settings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_to_keras_where_it_divides_by_the_sum_of_weights(smoothing):
    run = ours(engine.runtime(), label_smoothing=smoothing)
    expected = trained_by_keras(
        run.model, "mean_with_sample_weight", keras.losses.CategoricalCrossentropy, label_smoothing=smoothing
    )
    run.train(STEPS)
    for found, wanted in zip(run.weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_keras_own_mean_is_ours_times_the_batch_mean_of_weights():
    """Its default divides by the batch size, so that its step grows with the weights of the batch."""
    run = ours(engine.runtime())
    before = run.weights()
    model = keras.models.clone_model(run.model)
    model.set_weights(before)
    model.compile(keras.optimizers.SGD(0.05), keras.losses.CategoricalCrossentropy(from_logits=True))
    ((inputs, labels),) = batches(1)
    targets = keras.utils.to_categorical(labels, engine.NUM_CLASSES)
    model.train_on_batch(inputs, targets, class_weight=dict(enumerate(WEIGHTS)))
    run.train(1)
    mean = np.mean([WEIGHTS[label] for label in labels])
    assert abs(mean - 1) > 0.2
    for old, found, keras_new in zip(before, run.weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose((found - old) * mean, keras_new - old, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"augment": NAMED_AUGMENTATIONS["basic"], "label_smoothing": 0.1, "focal_gamma": 2.0}]
)
def test_replicas_give_the_same_losses_gradients_and_weights(changes):
    """A replica's weights add up to another sum than its neighbour's: only the global one is right."""
    runs = []
    for replicas in (1, 2, 4):
        run = ours(engine.runtime(replicas), **changes)
        runs.append((run.train(STEPS), run.weights()))
    for rows, weights in runs[1:]:
        np.testing.assert_allclose(rows, runs[0][0], rtol=2e-4, atol=1e-5)
        for found, expected in zip(weights, runs[0][1], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [{"gradient_buckets": 2}, {"all_reduce_dtype": "bfloat16"}])
def test_weights_travel_with_gradients_in_parts_and_in_short(settings):
    expected = ours(engine.runtime(2)).train(3)
    found = ours(engine.runtime(2), **settings).train(3)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)
    assert (found[:, 2] > 0).all()


def test_float16_skips_and_divides_alike():
    where = engine.runtime(2, xla=True, precision="mixed_float16")
    rows = ours(where).train(3)
    keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(rows[:, :3], ours(engine.runtime(2)).train(3)[:, :3], rtol=0.05)


def test_a_batch_without_weight_changes_nothing():
    run = engine.make_engine(
        engine.runtime(2), backbone="tiny", step_settings=engine.settings(weight_of_class=(0.0, 0.0, 0.0))
    )
    before = run.weights()
    assert np.isfinite(run.train(2)).all()
    for found, old in zip(run.weights(), before, strict=True):
        np.testing.assert_array_equal(found, old)


def test_a_mixed_image_has_the_mean_of_its_classes_weights():
    targets = tf.constant([[1.0, 0.0, 0.0], [0.25, 0.0, 0.75]])
    np.testing.assert_allclose(image_weights(targets, WEIGHTS), [0.2, 0.25 * 0.2 + 0.75 * 4.0])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_is_that_of_keras(gamma, smoothing):
    generator = np.random.default_rng(0)
    logits = tf.constant(generator.normal(size=(20, 5)), tf.float32)
    targets = tf.constant(generator.dirichlet(np.ones(5), 20), tf.float32)
    found = image_losses(targets, logits, label_smoothing=smoothing, focal_gamma=gamma)
    expected = keras.losses.categorical_focal_crossentropy(
        targets, logits, alpha=1.0, gamma=gamma, from_logits=True, label_smoothing=smoothing
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if gamma == 0:
        plain = image_losses(targets, logits, label_smoothing=smoothing, focal_gamma=None)
        np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradient_is_there_where_the_answer_is_surely_wrong_and_finite_where_surely_right(gamma):
    logits = tf.Variable([[60.0, 0.0], [-60.0, 0.0]])
    with tf.GradientTape() as tape:
        losses = image_losses(tf.constant([[1.0, 0.0]] * 2), logits, label_smoothing=0.0, focal_gamma=gamma)
    right, wrong = tape.gradient(losses, logits).numpy()
    assert np.isfinite(right).all() and np.abs(right).max() < 1e-6
    np.testing.assert_allclose(wrong, [-1.0, 1.0], rtol=1e-3)


def resolved(choice, names=CLASS_NAMES, counts=(6, 3, 1)):
    return resolve_class_weights(str(choice), names, dict(zip(names, counts, strict=True)), Workers())


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(3), (6, 3, 1))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(resolved("balanced"), expected)
    assert resolved("none") is None
    assert resolved("balanced", counts=(3, 0, 1)) == (4 / 6, 0.0, 2.0)


def test_files_of_weights(tmp_path):
    weights = {"bright": 3, "dark": 0.5, "middle": 1}
    (tmp_path / "w.json").write_text(json.dumps(weights))
    for header in ([], [("Class", "weight")]):
        with (tmp_path / "w.csv").open("w", newline="") as file:
            csv.writer(file).writerows([*header, *weights.items()])
        assert resolved(tmp_path / "w.csv") == resolved(tmp_path / "w.json") == (0.5, 1.0, 3.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"dark": 1, "middle": 1}', "has no weight for: bright"),
        ('{"dark": 1, "middle": 1, "bright": 1, "x": 2}', "names classes that the data set has not: x"),
        ('{"dark": 1, "middle": -1, "bright": 1}', "the class middle has the weight -1; takes a number of 0 or more"),
        ('{"dark": 1, "middle": NaN, "bright": 1}', "the class middle has the weight nan"),
        ('{"dark": 1, "middle": true, "bright": 1}', "the class middle has the weight True"),
        ('{"dark": 0, "middle": 0, "bright": 0}', "all weights are 0"),
        ('{"dark": 1, "dark": 2, "middle": 0, "bright": 0}', "the class dark is there twice"),
        ('{"dark": 1', "not JSON of the form"),
        ("[1, 2, 3]", "not JSON of the form"),
        ("dark,1\nmiddle,2,3\n", "not lines of class name,weight"),
        ("dark,1\nmiddle,x\nbright,1\n", "the class middle has the weight 'x'"),
        ("", "not lines of class name,weight"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_wrong_file_is_named_and_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "w"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"--class_weights={path}: .*{message}"):
        resolved(path)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="--class_weights=balnced: takes none, balanced or a file"):
        resolved("balnced")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 24, "val": 9, "test": 9}
    return write_toy_dataset(tmp_path_factory.mktemp("weights") / "toy", counts=counts)


def test_a_weighted_run_goes_on_with_its_weights_and_with_no_others(data_dir, tmp_path):
    weights = tmp_path / "w.json"
    weights.write_text('{"dark": 0.5, "middle": 1, "bright": 3}')
    settings = {"loss": "focal", "class_weights": str(weights), "backbone": "tiny"}
    train_and_evaluate(config(data_dir, tmp_path / "whole", **settings))
    train_and_evaluate(config(data_dir, tmp_path / "run", max_steps=4, **settings))
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["class_weights"] == {"dark": 0.5, "middle": 1.0, "bright": 3.0}
    weights.write_text('{"dark": 0.5, "middle": 1, "bright": 2}')
    with pytest.raises(UserError, match="other class weights"):
        train_and_evaluate(config(data_dir, tmp_path / "run", **settings))
    moved = tmp_path / "moved.csv"
    moved.write_text("dark,0.5\nmiddle,1\nbright,3\n")
    train_and_evaluate(config(data_dir, tmp_path / "run", **{**settings, "class_weights": str(moved)}))
    assert_identical(tmp_path / "whole", tmp_path / "run")


def test_gamma_without_focal_loss_is_refused(data_dir, tmp_path):
    with pytest.raises(UserError, match="--focal_gamma=3 has no effect without --loss=focal"):
        config(data_dir, tmp_path, focal_gamma=3.0)
