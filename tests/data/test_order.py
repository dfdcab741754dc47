"""The order of the examples: permutations, fair ones, that depend on nothing but seed and position."""

import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.data import order
from tl_distributed.data.order import example_indices, steps_for_epochs


def indices(positions, num_examples: int, seed: int = 0, shuffle_blocks: int = 0) -> np.ndarray:
    return example_indices(
        tf.constant(positions, tf.int64), num_examples=num_examples, seed=seed, shuffle_blocks=shuffle_blocks
    ).numpy()


@pytest.fixture
def blocks_of_10(monkeypatch):
    monkeypatch.setattr(order, "BLOCK_RECORDS", 10)


@pytest.mark.parametrize("num_examples", [1, 2, 10, 1000])
@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_every_epoch_is_a_permutation(num_examples, seed):
    shuffled = indices(np.arange(5 * num_examples), num_examples, seed).reshape(5, num_examples)
    np.testing.assert_array_equal(np.sort(shuffled), np.broadcast_to(np.arange(num_examples), shuffled.shape))


@pytest.mark.parametrize("num_examples", [1, 9, 10, 11, 25, 100, 103, 1007])
@pytest.mark.parametrize("shuffle_blocks", [1, 2, 3, 7, 50, 1000])
def test_every_epoch_is_a_permutation_for_any_blocks(blocks_of_10, num_examples, shuffle_blocks):
    positions = np.arange(4 * num_examples)
    whole = indices(positions, num_examples, seed=3, shuffle_blocks=shuffle_blocks)
    for epoch in whole.reshape(4, num_examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))
    parts = [indices(part, num_examples, 3, shuffle_blocks) for part in np.array_split(positions, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shuffle_blocks", [0, 11, 1000])
def test_all_blocks_are_the_plain_shuffle(blocks_of_10, shuffle_blocks):
    np.testing.assert_array_equal(indices(np.arange(330), 107, 5, shuffle_blocks), indices(np.arange(330), 107, 5))


def test_the_plain_shuffle_stays():
    """Another order than this is another `ORDER_VERSION`."""
    assert order.ORDER_VERSION == 2
    np.testing.assert_array_equal(indices(np.arange(8, 16), 10, seed=7), [3, 9, 4, 8, 7, 2, 1, 9])
    np.testing.assert_array_equal(
        indices(np.arange(2498, 2506), 2500, seed=7, shuffle_blocks=2), [2, 631, 314, 752, 687, 451, 497, 2061]
    )


@pytest.mark.parametrize("shuffle_blocks", [1, 2, 5])
def test_examples_near_one_another_are_read_together(blocks_of_10, shuffle_blocks):
    """A stretch of an epoch of W full blocks' length lies in three groups at most, one of which has the short block."""
    for epoch in indices(np.arange(5 * 203), 203, 0, shuffle_blocks).reshape(5, 203):
        for start in range(203 - 10 * shuffle_blocks):
            blocks = np.unique(epoch[start : start + 10 * shuffle_blocks] // 10)
            assert len(blocks) <= 3 * shuffle_blocks


@pytest.mark.slow
@pytest.mark.parametrize("shuffle_blocks", [0, 3])
def test_no_order_comes_again(blocks_of_10, shuffle_blocks):
    """Not after 256 epochs, nor for a seed larger by that: of each word of its key, the cipher takes 8 bits."""
    epochs = indices(np.arange(1000 * 50), 50, 0, shuffle_blocks).reshape(1000, 50)
    assert len(np.unique(epochs, axis=0)) == 1000
    seeds = [indices(np.arange(50), 50, seed, shuffle_blocks) for seed in range(0, 2**14, 2**8)]
    assert len(np.unique(seeds, axis=0)) == 64


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


@pytest.mark.slow
@pytest.mark.parametrize("shuffle_blocks", [pytest.param(10, marks=pytest.mark.release), 50])
def test_examples_of_any_block_are_as_likely_anywhere(blocks_of_10, shuffle_blocks):
    """Over epochs: where an example comes is uniform, and of one block and of two alike; the last block is short."""
    num_examples, epochs = 995, 400
    positions = np.arange(epochs * num_examples)
    orders = indices(positions, num_examples, 0, shuffle_blocks).reshape(epochs, num_examples)
    places = np.argsort(orders, axis=1)  # of each example
    means = places.mean(axis=0)
    deviation = num_examples / np.sqrt(12 * epochs)
    assert abs(means - (num_examples - 1) / 2).max() < 5 * deviation
    assert abs(places[:, 990:].mean() - (num_examples - 1) / 2) < 5 * deviation  # of the short block
    fair = _in_groups_by_numpy(num_examples, epochs, shuffle_blocks)
    found, expected = (np.corrcoef(one)[np.triu_indices(epochs, 1)].std() for one in (orders, fair))
    assert abs(found / expected - 1) < 0.05


def _in_groups_by_numpy(num_examples: int, epochs: int, group_blocks: int) -> np.ndarray:
    generator, found = np.random.default_rng(0), []
    for _ in range(epochs):
        blocks = [np.arange(start, min(start + 10, num_examples)) for start in range(0, num_examples, 10)]
        blocks = [blocks[index] for index in generator.permutation(len(blocks))]
        starts = range(0, len(blocks), group_blocks)
        groups = [generator.permutation(np.concatenate(blocks[one : one + group_blocks])) for one in starts]
        found.append(np.concatenate(groups))
    return np.array(found)


def test_within_a_group_the_shuffle_is_fair(blocks_of_10):
    """All records of a group come as from a plain shuffle: by the measure of that one, over many groups."""
    num_blocks = EXAMPLES // 10
    orders = indices(np.arange(EPOCHS * 2 * EXAMPLES), 2 * EXAMPLES, 0, num_blocks).reshape(EPOCHS, 2, EXAMPLES)
    ranks = np.argsort(np.argsort(orders[:, 0], axis=1), axis=1)  # within the group
    np.testing.assert_allclose(_fairness(ranks), 1, atol=2 * FAIR_WITHIN)


def test_numpys_shuffle_is_fair_by_the_same_measure():
    generator = np.random.default_rng(0)
    permutations = np.stack([generator.permutation(EXAMPLES) for _ in range(EPOCHS)])
    np.testing.assert_allclose(_fairness(permutations), 1, atol=FAIR_WITHIN)


def test_keys_are_splitmix64s_numbers():
    """The first three of the stream of state 1234567, as other implementations have them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(1234567 + place * order._GAMMA) % 2**64 for place in range(3)]
    assert [order._mixed_number(state) for state in states] == expected
    assert order._splitmix(tf.constant(states, tf.uint64)).numpy().tolist() == expected


@pytest.mark.parametrize("known", [1, 3, 5])
def test_keys_that_are_known_are_those_that_are_worked_out(monkeypatch, known):
    """Whether no epoch of a batch is among the known, some are, or all."""
    expected = indices(np.arange(60), 10, seed=4)
    monkeypatch.setattr(order, "_KNOWN_EPOCHS", known)
    order._known_keys.cache_clear()
    for part in (slice(0, 60), slice(0, 30), slice(25, 35), slice(50, 60)):
        np.testing.assert_array_equal(indices(np.arange(60)[part], 10, seed=4), expected[part])
    order._known_keys.cache_clear()


def test_epochs_would_come_again_if_the_key_were_not_mixed(monkeypatch):
    monkeypatch.setattr(order, "_known_keys", lambda stream: np.zeros([0, 3], np.int32))
    positions = np.arange(600 * 100)
    assert len(np.unique(indices(positions, 100, 0).reshape(600, 100), axis=0)) == 600
    monkeypatch.setattr(order, "_splitmix", lambda words: words)
    monkeypatch.setattr(order, "_GAMMA", 1)
    assert len(np.unique(indices(positions, 100, 0).reshape(600, 100), axis=0)) == 256


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
