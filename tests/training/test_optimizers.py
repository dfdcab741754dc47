"""Optimizers against those of Keras, whatever the kernel."""

import itertools

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.settings.recipes import read_recipe
from tl_distributed.training.optimizers import decayed_variables, make_optimizer

UPDATES, RATE = 5, 0.02
STOCK = {
    "adamw": lambda: keras.optimizers.Adam(RATE),
    "sgd": lambda: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True),
    "sgd_without_momentum": lambda: keras.optimizers.SGD(RATE),
}


def make(name: str) -> keras.optimizers.Optimizer:
    kind, _, plain = name.partition("_")
    return make_optimizer(Config(optimizer=kind, momentum=0.0 if plain else 0.9))


def values(seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(np.float32) for shape in ((3, 3, 2, 4), (4,))]


@pytest.mark.parametrize(("name", "xla"), list(itertools.product(STOCK, (False, True))))
def test_updates_equal_those_of_keras(name, xla):
    ours, stock = updated(make(name), xla=xla), updated(STOCK[name](), xla=xla)
    for one, other in zip(ours, stock, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert all(np.abs(one - before).min() > 1e-4 for one, before in zip(ours, values(0), strict=False))


def updated(optimizer: keras.optimizers.Optimizer, *, xla: bool) -> list[np.ndarray]:
    """Returns variables and the optimizer's own after some updates."""
    variables = [keras.Variable(value) for value in values(0)]
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=xla or None)
    def update(gradients):
        for gradient, variable in zip(gradients, variables, strict=True):
            optimizer.update_step(gradient, variable, tf.constant(RATE))
        optimizer.iterations.value.assign_add(1)

    for step in range(UPDATES):
        update([tf.constant(value) for value in values(step + 1)])
    slots = optimizer.variables[2:]  # after the count and the rate
    return [variable.numpy() for variable in (*variables, *slots)]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_replicas_update_their_own_copies_alike(name):
    runs = []
    for replicas in (1, 2):
        run = engine.make_engine(engine.runtime(replicas), backbone="tiny", optimizer=lambda: make(name))
        run.train(UPDATES)
        for variable in run.model.trainable_variables:
            copies = run.step._strategy.experimental_local_results(variable.value)
            for copy in copies[1:]:
                np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())
        runs.append(run.weights())
    for one, two in zip(*runs, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=5e-4)


def test_kernels_alone_decay_whatever_the_shape_of_the_rest():
    """A bias of attention is [heads, channels], and a norm over two axes is as wide and high as these."""
    attention, norm = keras.layers.MultiHeadAttention(2, 3), keras.layers.LayerNormalization(axis=[1, 2])
    attention.build((None, 4, 6), (None, 4, 6))
    norm.build((None, 4, 6))
    variables = [*attention.trainable_variables, *norm.trainable_variables]
    assert sum(len(variable.shape) > 1 for variable in variables if variable.name != "kernel") == 3 + 2
    for variable, decays in zip(variables, decayed_variables(variables), strict=True):
        assert decays == (variable.name == "kernel"), variable.path


def test_decay_of_the_sgd_recipe_is_the_papers_penalty():
    """He et al. 2015: an L2 penalty of 1e-4 at momentum 0.9, which builds it up tenfold; decoupled decay is not."""
    recipe = parse_arguments(Config, list(read_recipe("resnet50_full").arguments))[0]
    rate, steps = 0.05, 400
    published = keras.Variable(1.0)
    sgd = keras.optimizers.SGD(rate, momentum=recipe.momentum, nesterov=True)
    sgd.build([published])
    for _ in range(steps):
        sgd.apply([1e-4 * published.value], [published])
    decoupled = (1 - recipe.weight_decay * rate) ** steps
    assert 1 - decoupled == pytest.approx(1 - float(published.value), rel=0.05)
