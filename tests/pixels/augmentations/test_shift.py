"""The shifts: their range, and what they are shares of."""

import numpy as np
from augmented import assert_uniform, settings_with, views

from tl_distributed.pixels.augmentations import shift
from tl_distributed.pixels.seeds import uniforms


def test_shifts_are_uniform_over_their_ranges():
    settings = settings_with(
        width_shift_fraction=0.1, height_shift_fraction=0.2, zoom_fraction=0.25, rotation_degrees=15.0
    )
    view, _ = views(settings, width=40)
    assert_uniform(view.center_x - 20, 4.0)
    assert_uniform(view.center_y - 10, 4.0)


def test_shift_moves_the_view_by_a_share_of_it():
    view, seeds = views(settings_with(width_shift_fraction=0.5, zoom_fraction=0.5), count=50)
    sideways = uniforms(seeds, 8)[:, shift.DRAWS[0]]
    np.testing.assert_allclose(view.center_x, 10 + (2 * sideways - 1) * 0.5 * 20, atol=1e-4)
