"""The training step against stock Keras, against itself on more replicas, and in every configuration."""

import itertools

import engine
import keras
import numpy as np
import pytest
from stock_keras import assert_same_weights, keras_fit, stock_model

from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS
from tl_distributed.training.loss_scale import make_loss_scale

STEPS = 20


def kernels_only(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> keras.optimizers.Optimizer:
    optimizer.exclude_from_weight_decay([variable for variable in model.trainable_variables if len(variable.shape) < 2])
    return optimizer


@pytest.mark.parametrize("freezing", ["full", "partial", "frozen"])
def test_sgd_equals_keras_fit(freezing):
    ours = engine.make_engine(
        engine.runtime(), freezing=freezing, optimizer=lambda: keras.optimizers.SGD(0.0, momentum=0.9, nesterov=True),
        learning_rate=0.02,
    )  # fmt: skip
    theirs = stock_model(ours.model)
    before = ours.weights()
    keras_fit(theirs, keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True), STEPS)
    ours.train(STEPS)
    assert_same_weights(ours.weights(), theirs.get_weights())
    assert any(np.abs(new - old).max() > 1e-3 for new, old in zip(ours.weights(), before, strict=True))


def test_adamw_with_decay_clipping_and_smoothing_equals_keras_fit():
    ours = engine.make_engine(
        engine.runtime(), optimizer=lambda: keras.optimizers.Adam(0.0), learning_rate=3e-3,
        step_settings=engine.settings(weight_decay=0.1, clip_norm=0.05, label_smoothing=0.1),
    )  # fmt: skip
    theirs = stock_model(ours.model)
    adamw = keras.optimizers.AdamW(3e-3, weight_decay=0.1, global_clipnorm=0.05)
    keras_fit(theirs, kernels_only(adamw, theirs), STEPS, label_smoothing=0.1)
    ours.train(STEPS)
    # Adam divides by the root of the squared gradient: tiny differences of tiny gradients count in full.
    assert_same_weights(ours.weights(), theirs.get_weights(), rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize(
    ("backbone", "freezing"), [("tiny", "full"), ("tiny_norm", "frozen"), ("tiny_positions", "full")]
)
def test_replicas_give_the_same_losses_gradients_and_weights(backbone, freezing):
    runs = []
    for replicas in (1, 2, 4):
        run = engine.make_engine(engine.runtime(replicas), backbone=backbone, freezing=freezing)
        rows = run.train(6)
        runs.append((rows, run.weights()))
    for rows, weights in runs[1:]:
        np.testing.assert_allclose(rows, runs[0][0], rtol=2e-5, atol=1e-6)
        assert_same_weights(weights, runs[0][1], rtol=1e-4, atol=1e-6)


def test_augmentation_does_not_depend_on_the_replicas():
    augment = NAMED_AUGMENTATIONS["basic"]
    rows = [
        engine.make_engine(
            engine.runtime(replicas), backbone="tiny", step_settings=engine.settings(augment=augment)
        ).train(3)
        for replicas in (1, 2)
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=2e-5, atol=1e-6)
    plain = engine.make_engine(engine.runtime(), backbone="tiny").train(3)
    assert np.abs(plain[:, 0] - rows[0][:, 0]).max() > 1e-4


CONFIGURATIONS = list(
    itertools.product(
        (1, 2), (False, True), ("float32", "mixed_bfloat16", "mixed_float16"), ("frozen", "partial", "full")
    )
)


def in_turn(index: int, configuration: tuple) -> object:
    """Of training the whole net each in the plain suite, of its parts every fourth; the others are slow."""
    is_plain = configuration[-1] == "full" or index % 4 == 0
    return pytest.param(*configuration, marks=[] if is_plain else pytest.mark.slow)


@pytest.mark.parametrize(
    ("replicas", "xla", "precision", "freezing"), [in_turn(*one) for one in enumerate(CONFIGURATIONS)]
)
def test_every_configuration_trains(replicas, xla, precision, freezing):
    where = engine.runtime(replicas, xla=xla, precision=precision)
    run = engine.make_engine(where, freezing=freezing, optimizer=lambda: keras.optimizers.Adam(0.0), learning_rate=0.05)
    before = {variable.path: variable.numpy() for variable in run.model.weights}
    trained = {variable.path for variable in run.model.trainable_variables}
    rows = run.train(16)
    assert np.isfinite(rows).all()
    assert rows[-4:, 0].mean() < 0.9 * rows[:4, 0].mean()
    for variable in run.model.weights:
        moved = np.abs(variable.numpy() - before[variable.path]).max() > 0
        norm_of_trained_layer = "moving" in variable.path and f"{variable.path.rsplit('/', 1)[0]}/gamma" in trained
        assert moved == (variable.path in trained or norm_of_trained_layer), variable.path


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
def test_infinite_float16_gradient_skips_the_update_and_halves_the_scale(replicas, xla):
    where = engine.runtime(replicas, xla=xla, precision="mixed_float16")
    run = engine.make_engine(where, optimizer=lambda: keras.optimizers.Adam(0.0), learning_rate=0.01)
    run.train(2)
    run.step.loss_scale.scale.assign(2.0**100)  # far beyond float16: every gradient overflows
    weights, slots = run.weights(), [value.numpy() for value in run.step.optimizer.variables]
    assert run.train(1)[0, 3] == 1
    assert_same_weights(run.weights(), weights, rtol=0, atol=0)
    assert_same_weights([value.numpy() for value in run.step.optimizer.variables], slots, rtol=0, atol=0)
    for copy in run.loop._strategy.experimental_local_results(run.step.loss_scale.scale):
        assert float(copy) == 2.0**99
    run.step.loss_scale.scale.assign(2.0**10)
    assert run.train(1)[0, 3] == 0
    assert any(np.abs(new - old).max() > 0 for new, old in zip(run.weights(), weights, strict=True))


def test_loss_scale_grows_after_enough_good_updates():
    where = engine.runtime(precision="mixed_float16")
    run = engine.make_engine(where)
    run.step.loss_scale.scale.assign(1024.0)
    run.step.loss_scale.good_steps.assign(1999)
    run.train(1)
    assert float(run.step.loss_scale.scale) == 2048.0
    assert int(run.step.loss_scale.good_steps) == 0


def test_averages_follow_the_published_rule():
    decay = 0.9
    run = engine.make_engine(engine.runtime(2), step_settings=engine.settings(ema_decay=decay))
    averaged = [variable for variable in run.model.weights if "seed_generator" not in variable.path]
    expected = [variable.numpy() for variable in averaged]
    for update in range(5):
        run.train(1)
        rate = min(decay, (1 + update) / (10 + update))
        weights = [variable.numpy() for variable in averaged]
        expected = [rate * old + (1 - rate) * new for old, new in zip(expected, weights, strict=True)]
    found = [run.step.averages[id(variable)].numpy() for variable in averaged]  # BatchNorm's statistics too
    assert_same_weights(found, expected, rtol=1e-5, atol=1e-6)


def test_gradients_travel_in_bfloat16():
    exact = engine.make_engine(engine.runtime(2), backbone="tiny").train(3)
    short = engine.make_engine(
        engine.runtime(2), backbone="tiny", step_settings=engine.settings(all_reduce_dtype="bfloat16")
    ).train(3)
    np.testing.assert_allclose(short[:, 2], exact[:, 2], rtol=1e-2)
    assert (short[:, 2] != exact[:, 2]).any()


def test_dropout_is_a_function_of_seed_and_step():
    def losses(seed: int) -> np.ndarray:
        run = engine.make_engine(
            engine.runtime(), backbone="tiny", dropout=0.5, learning_rate=0.0, step_settings=engine.settings(seed=seed)
        )
        return run.train(7)[:, 0]

    first = losses(0)
    np.testing.assert_array_equal(first, losses(0))
    assert np.abs(first - losses(1)).max() > 1e-4
    assert first[0] != first[5]  # the same five batches come again in another order and with other masks


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_statistics_move_in_float16_however_gradients_travel(dtype):
    """The norm of scaled gradients overflows float16, so what checks them has to be in float32."""
    where = engine.runtime(2, precision="mixed_float16")
    run = engine.make_engine(
        where, optimizer=lambda: keras.optimizers.Adam(0.0), learning_rate=0.01,
        step_settings=engine.settings(all_reduce_dtype=dtype),
    )  # fmt: skip
    before = {variable.path: variable.numpy() for variable in run.model.weights if "moving" in variable.path}
    rows = run.train(12)
    assert rows[-1, 3] == 0
    for variable in run.model.weights:
        if variable.path in before:
            assert np.abs(variable.numpy() - before[variable.path]).max() > 1e-3, variable.path


def test_a_skipped_update_leaves_the_statistics(monkeypatch):
    where = engine.runtime(2, precision="mixed_float16")
    run = engine.make_engine(where, optimizer=lambda: keras.optimizers.Adam(0.0), learning_rate=0.01)
    run.train(1)
    before = run.weights()
    run.step.loss_scale.scale.assign(2.0**100)
    assert run.train(1)[0, 3] == 1
    assert_same_weights(run.weights(), before, rtol=0, atol=0)


def test_a_scale_of_another_precision_is_not_taken_over():
    for precision, restored, expected in (
        ("mixed_bfloat16", 32768.0, 1.0), ("float32", 1.0, 1.0), ("mixed_float16", 1.0, 32768.0),
        ("mixed_float16", 512.0, 512.0),
    ):  # fmt: skip
        with engine.runtime(2, precision=precision).strategy.scope():
            scale = make_loss_scale(precision)
        scale.scale.assign(restored)
        scale.adopt()
        assert float(scale.scale.numpy()) == expected


def test_rates_are_of_the_variables_whatever_their_order():
    made = engine.make_engine(engine.runtime(), layer_decay=0.5)
    settings, variables = made.step._settings, made.model.trainable_variables
    by_path = {variable.path: settings.rate_multiplier(variable) for variable in reversed(variables)}
    assert by_path["conv1/kernel"] == 0.25 and by_path["conv2/kernel"] == 0.5
    with pytest.raises(KeyError):
        settings.rate_multiplier(keras.Variable(0.0))
