"""Middle and spread of a series, against numpy."""

import numpy as np
import pytest

from tl_distributed.reporting.spread import Spread


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_spread_is_numpys(count):
    values = np.random.default_rng(count).uniform(1, 9, count)
    found = Spread.of(values.tolist())
    expected = (np.median(values), values.min(), values.max(), values.mean())
    assert (found.median, found.low, found.high, found.mean) == pytest.approx(expected)
    assert found.count == count
    assert found.deviation == (None if count == 1 else pytest.approx(np.std(values, ddof=1)))
