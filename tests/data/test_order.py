"""The order of the examples: permutations, fair ones, that depend on nothing but seed and position."""

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data import order
from tl_distributed.data.order import example_indices, steps_for_epochs


def indices(positions, num_examples: int, seed: int = 0) -> np.ndarray:
    return example_indices(tf.constant(positions, tf.int64), num_examples=num_examples, seed=seed).numpy()


@pytest.mark.parametrize("num_examples", [1, 2, 10, 1000])
@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_every_epoch_is_a_permutation(num_examples, seed):
    shuffled = indices(np.arange(5 * num_examples), num_examples, seed).reshape(5, num_examples)
    np.testing.assert_array_equal(np.sort(shuffled), np.broadcast_to(np.arange(num_examples), shuffled.shape))


def test_epochs_and_seeds_differ():
    orders = [indices(np.arange(200), 100, seed).reshape(2, 100) for seed in (0, 1, 2)]
    flat = [tuple(epoch) for order in orders for epoch in order]
    assert len(set(flat)) == 6


def test_far_positions_are_permutations_too():
    """Positions beyond 32 bits, as in a long run on a large set."""
    first = 1000 * 2**31
    shuffled = indices(first + np.arange(1000), 1000)
    np.testing.assert_array_equal(np.sort(shuffled), np.arange(1000))


def test_slicing_does_not_matter():
    whole = indices(np.arange(350), 100, seed=3)
    for size in (1, 7, 50, 175):
        parts = [indices(np.arange(start, min(start + size, 350)), 100, seed=3) for start in range(0, 350, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    strided = [indices(np.arange(start, 350, 2), 100, seed=3) for start in (0, 1)]
    np.testing.assert_array_equal(np.stack(strided, 1).ravel(), whole)


def test_inside_a_graph():
    compiled = tf.function(lambda first: example_indices(first + tf.range(40, dtype=tf.int64), num_examples=30, seed=5))
    np.testing.assert_array_equal(compiled(tf.constant(70, tf.int64)), indices(np.arange(70, 110), 30, seed=5))


EPOCHS, EXAMPLES, BATCH, CLASSES = 200, 1000, 50, 10


def _count_variance(orders: np.ndarray, label_of: np.ndarray) -> float:
    """Variance of the class counts of batches, in units of that of a fair shuffle (hypergeometric)."""
    labels = label_of[orders].reshape(-1, BATCH)
    counts = np.stack([(labels == label).sum(1) for label in range(CLASSES)], axis=1)
    share = 1 / CLASSES
    return counts.var() / (BATCH * share * (1 - share) * (EXAMPLES - BATCH) / (EXAMPLES - 1))


def _epoch_correlation(orders: np.ndarray) -> float:
    """Deviation of the correlations between any two epochs, in units of that of fair shuffles."""
    correlations = np.corrcoef(orders)[np.triu_indices(EPOCHS, 1)]
    return correlations.std() * np.sqrt(EXAMPLES - 1)


def _fairness(orders: np.ndarray) -> np.ndarray:
    """Three figures that are 1 for a fair shuffle: for classes in blocks, for classes in turn, between epochs."""
    blocks, turns = np.arange(EXAMPLES) * CLASSES // EXAMPLES, np.arange(EXAMPLES) % CLASSES
    return np.array([_count_variance(orders, blocks), _count_variance(orders, turns), _epoch_correlation(orders)])


def _epochs(seed: int) -> np.ndarray:
    return indices(np.arange(EPOCHS * EXAMPLES), EXAMPLES, seed).reshape(EPOCHS, EXAMPLES)


FAIR_WITHIN = 0.03  # NumPy's permutations stay within 0.02 in 20 trials


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_shuffle_is_fair(seed):
    np.testing.assert_allclose(_fairness(_epochs(seed)), 1, atol=FAIR_WITHIN)


def test_numpys_shuffle_is_fair_by_the_same_measure():
    generator = np.random.default_rng(0)
    permutations = np.stack([generator.permutation(EXAMPLES) for _ in range(EPOCHS)])
    np.testing.assert_allclose(_fairness(permutations), 1, atol=FAIR_WITHIN)


def test_fewer_rounds_would_not_be_fair(monkeypatch):
    monkeypatch.setattr(order, "_SHUFFLE_ROUNDS", 4)
    blocks, _, between_epochs = _fairness(_epochs(0))
    assert blocks > 3 and between_epochs > 1.2
    assert abs(_fairness(_public_function())[0] - 1) > FAIR_WITHIN


def _public_function() -> np.ndarray:
    return np.stack(
        [tf.random.experimental.index_shuffle(tf.range(EXAMPLES), [0, epoch], EXAMPLES - 1) for epoch in range(EPOCHS)]
    )


@pytest.mark.parametrize(
    ("epochs", "num_examples", "batch", "steps"),
    [
        (1, 100, 10, 10), (1, 101, 10, 11), (3, 60, 8, 23), (2, 60, 8, 15), (0, 60, 8, 0), (0.5, 60, 8, 4),
        (1, 3, 8, 1), (10, 40000, 128, 3125), (0.1 + 0.2, 100, 10, 3), (0.3, 10, 3, 1),
    ],
)  # fmt: skip
def test_steps_for_epochs(epochs, num_examples, batch, steps):
    assert steps_for_epochs(epochs, num_examples=num_examples, global_batch_size=batch) == steps


def test_steps_cover_whole_epochs_and_waste_less_than_a_batch():
    for num_examples in (1, 7, 60, 1000):
        for batch in (1, 3, 8, 64):
            for epochs in (1, 2, 13):
                steps = steps_for_epochs(epochs, num_examples=num_examples, global_batch_size=batch)
                assert 0 <= steps * batch - epochs * num_examples < batch
