"""The compact letter display, against its definition."""

import itertools
import random

import pytest

from tl_distributed.studies.letters import significance_letters


@pytest.mark.parametrize("seed", range(30))
def test_two_names_share_a_letter_exactly_where_they_are_not_told_apart(seed):
    draw = random.Random(seed)
    names = [f"arm{index}" for index in range(draw.randint(1, 9))]
    pairs = [frozenset(pair) for pair in itertools.combinations(names, 2)]
    told = {pair for pair in pairs if draw.random() < draw.choice((0.2, 0.5, 0.9))}
    letters = significance_letters(names, told)
    for first, second in itertools.combinations(names, 2):
        assert bool(set(letters[first]) & set(letters[second])) == (frozenset((first, second)) not in told)
    assert all(letters.values()) and "a" in letters["arm0"]


def test_ranks_that_are_told_apart_in_order_have_the_letters_in_order():
    """What a reader of such tables expects: neighbours overlap, the ends do not."""
    letters = significance_letters(["best", "middle", "last"], {frozenset(("best", "last"))})
    assert letters == {"best": "a", "middle": "ab", "last": "b"}
    assert significance_letters(["x", "y"], set()) == {"x": "a", "y": "a"}
