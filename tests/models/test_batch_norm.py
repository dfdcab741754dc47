"""Momentum of BatchNorm's moving statistics."""

import engine
import keras
import numpy as np
import pytest

from tl_distributed.models.batch_norm import initial_share_after, set_batch_norm_momentum
from tl_distributed.models.freezing import freeze_for


def test_momentum_is_what_moves_the_statistics():
    """Against the published rule, on the batch that the layer sees."""
    layer = keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), layer])
    set_batch_norm_momentum(model, 0.75)
    batch = np.random.default_rng(0).normal(3.0, 2.0, (64, 4)).astype(np.float32)
    model(batch, training=True)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.25 * batch.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.75 + 0.25 * batch.var(0), rtol=1e-4)


def test_initial_share_counts_only_layers_that_train():
    model = engine.make_engine(engine.runtime(), backbone="tiny_norm").model
    set_batch_norm_momentum(model, 0.9)
    model.get_layer("bn1").momentum = 0.999
    freeze_for(model, "full", unfreeze_last_layers=0, unfreeze_from="")
    assert initial_share_after(model, 750) == pytest.approx(0.999**750)
    freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from="conv2")
    assert initial_share_after(model, 20) == pytest.approx(0.9**20)
    freeze_for(model, "frozen", unfreeze_last_layers=0, unfreeze_from="")
    assert initial_share_after(model, 1) == 0.0
