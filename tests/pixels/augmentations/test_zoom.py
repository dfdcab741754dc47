"""The zoom: its range, the same along both axes."""

import numpy as np
from augmented import assert_uniform, settings_with, views


def test_zoom_is_uniform_over_its_range_and_keeps_the_aspect_ratio():
    settings = settings_with(
        width_shift_fraction=0.1, height_shift_fraction=0.2, zoom_fraction=0.25, rotation_degrees=15.0
    )
    view, _ = views(settings, width=40)
    assert_uniform(view.span_x / 40 - 1, 0.25)
    assert_uniform(view.span_y / 20 - 1, 0.25)
    np.testing.assert_allclose(view.span_x / 40, view.span_y / 20, rtol=1e-6)
