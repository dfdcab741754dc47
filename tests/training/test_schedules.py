"""Learning rates against Keras's schedules, and what holds for every kind."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.training.schedules import Schedule

PEAK, WARMUP, TOTAL = 0.3, 7, 50
KINDS = ("constant", "cosine", "linear", "step")


def rates(kind: str, *, peak: float = PEAK, warmup: int = WARMUP, total: int = TOTAL, steps: int | None = None):
    schedule = Schedule(kind=kind, peak=peak, warmup_steps=warmup, total_steps=total)
    return np.array([float(schedule(step)) for step in range(total if steps is None else steps)])


def of_keras(schedule, first: int = 0) -> np.ndarray:
    return np.array([float(schedule(step)) for step in range(first, TOTAL)])


@pytest.mark.parametrize("warmup", [0, 1, WARMUP])
def test_cosine_equals_keras(warmup):
    # Keras rises from 0, so that its first update does nothing: ours is one step ahead of it in the warm-up.
    first = PEAK / warmup if warmup else PEAK
    target = {"warmup_target": PEAK, "warmup_steps": warmup - 1} if warmup > 1 else {}
    decay = keras.optimizers.schedules.CosineDecay(first, TOTAL - warmup, **target)
    found = rates("cosine", warmup=warmup)
    np.testing.assert_allclose(found[: max(warmup - 1, 0)], of_keras(decay)[: max(warmup - 1, 0)], rtol=1e-6)
    plain = keras.optimizers.schedules.CosineDecay(PEAK, TOTAL - warmup)
    np.testing.assert_allclose(found[warmup:], of_keras(plain)[: TOTAL - warmup], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_linear_equals_keras(warmup):
    decay = keras.optimizers.schedules.PolynomialDecay(PEAK, TOTAL - warmup, end_learning_rate=0.0, power=1.0)
    np.testing.assert_allclose(rates("linear", warmup=warmup)[warmup:], of_keras(decay)[: TOTAL - warmup], rtol=1e-5)


def test_step_equals_keras():
    # Keras's boundaries belong to the piece before them.
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([24, 37], [PEAK, PEAK / 10, PEAK / 100])
    np.testing.assert_allclose(rates("step", warmup=0), of_keras(decay), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 50), (1, 50), (7, 50), (50, 50), (1, 1), (3, 4)])
def test_what_holds_for_every_kind(kind, warmup, total):
    found = rates(kind, warmup=warmup, total=total, steps=total + 5)
    assert (found >= 0).all() and np.isfinite(found).all()  # also beyond the end
    assert found.max() <= PEAK * (1 + 1e-6)
    top = max(warmup - 1, 0)
    assert found[top] == pytest.approx(PEAK)
    np.testing.assert_allclose(found[:top], PEAK * np.arange(1, top + 1) / max(warmup, 1), rtol=1e-6)
    assert (np.diff(found[top:]) <= 1e-7).all()
    assert (found[:total] > 0).all()  # no update of the phase is wasted


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_of_zero_stays_zero(kind):
    assert not rates(kind, peak=0.0).any()


def test_constant_is_constant():
    np.testing.assert_array_equal(rates("constant", warmup=0), np.float32(PEAK))


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_graph_with_a_tensor_for_a_step(kind):
    schedule = Schedule(kind=kind, peak=PEAK, warmup_steps=WARMUP, total_steps=TOTAL)
    compiled = tf.function(schedule, jit_compile=True)
    found = [compiled(tf.constant(step, tf.int64)) for step in range(TOTAL)]
    assert found[0].dtype == tf.float32
    np.testing.assert_allclose(found, rates(kind), rtol=1e-5, atol=1e-7)
