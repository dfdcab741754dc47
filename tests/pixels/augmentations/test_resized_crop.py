"""The box of the random resized crop: its area, its aspect ratio, its place."""

import numpy as np
import pytest
from augmented import settings_with, views


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 26), (30, 10)])
def test_resized_crop_keeps_area_aspect_and_stays_inside(height, width):
    view, _ = views(settings_with(resized_crop_min_area=0.25), height=height, width=width)
    area = (view.span_x * view.span_y).numpy() / (height * width)
    aspect = (view.span_x / view.span_y).numpy()
    largest = min(1.0, 4 / 3 * min(height / width, width / height))
    assert area.min() >= 0.25 - 1e-4 and area.max() <= largest + 1e-4
    assert area.min() < 0.26 and area.max() > largest - 0.01
    assert area.mean() == pytest.approx((0.25 + largest) / 2, abs=0.02)
    assert aspect.min() >= 0.75 - 1e-4 and aspect.max() <= 4 / 3 + 1e-4
    assert aspect.min() < 0.78 and aspect.max() > 1.28
    for center, span, size in ((view.center_x, view.span_x, width), (view.center_y, view.span_y, height)):
        assert (center - span / 2).numpy().min() >= -1e-4 and (center + span / 2).numpy().max() <= size + 1e-4


def test_resized_crop_of_a_long_image_takes_what_fits():
    view, _ = views(settings_with(resized_crop_min_area=0.9), height=10, width=40)
    np.testing.assert_allclose(view.span_y, 10, atol=1e-3)
    np.testing.assert_allclose(view.span_x, 40 / 3, atol=1e-3)
