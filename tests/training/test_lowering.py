"""Every program of the engine compiles for a GPU, and what stays outside has a kernel there: asked without a GPU."""

import dataclasses
import functools

import engine
import keras
import numpy as np
import pytest
import tensorflow as tf
from gpu_kernels import GPU, XLA_GPU, load_xla_kernels, lower, values_of, without_kernel
from placed_runs import trained
from pure_update import pure_update, variables_of
from short_networks import FAMILIES, shortest

from tl_distributed.bank.build import BankBuilder, FeatureSettings
from tl_distributed.bank.choice import layout_of
from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.data.splits import Batch
from tl_distributed.models.backbones import Backbone
from tl_distributed.models.heads import build_classifier
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS
from tl_distributed.training.evaluation import Evaluator
from tl_distributed.training.forward import Results
from tl_distributed.training.optimizers import make_optimizer
from tl_distributed.training.settings import OptimizationSettings
from tl_distributed.training.step import TrainStep

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Quick to build, and between them of all kinds of layers but separable convolutions and a scale of branches.
QUICK = ("mobilenet_v2", "mobilenet_v3", "convnext", "efficientnet", "resnet", "inception_v3")
STRONG = NAMED_AUGMENTATIONS["strong"]


def step_of(backbone: keras.Model, row: Backbone, where, **changes) -> TrainStep:
    model = build_classifier(backbone, num_classes=3, pooling="avg", head_units=(), dropout=0.2)
    settings = engine.settings(
        augment=STRONG, image_size=backbone.input.shape[1], normalization=row.normalization, clip_norm=1.0,
        weight_decay=0.1, ema_decay=0.9, rate_multipliers=rate_multipliers(model, 0.5), **changes,
    )  # fmt: skip
    return TrainStep(
        model, keras.optimizers.Adam, lambda step: 1e-3 / (1.0 + tf.cast(step, tf.float32)), settings, where
    )


def given(size: int = engine.IMAGE_SIZE) -> Batch:
    return Batch(tf.zeros([4, size, size, 3], tf.uint8), tf.zeros([4], tf.int32))


def in_turn(index: int, family: str) -> list:
    """A family in every precision: one half precision here, of those that are quick; the others among the slow tests.

    float32, which has no operation that they have not, is for a release.
    """
    here = PRECISIONS[1 + index % 2] if family in QUICK else ""
    marks = {here: [], "float32": [pytest.mark.slow, pytest.mark.release]}
    return [pytest.param(family, precision, marks=marks.get(precision, pytest.mark.slow)) for precision in PRECISIONS]


@pytest.mark.parametrize(
    ("family", "precision"), [case for index, family in enumerate(FAMILIES) for case in in_turn(index, family)]
)
def test_the_step_of_every_family_lowers(family, precision):
    row = FAMILIES[family]
    where = engine.runtime(xla=True, precision=precision)
    with where.strategy.scope():
        step = step_of(shortest(row), row, where)
    model = step._model
    program = lower(
        step.forward_backward.compute, tf.constant(0, tf.int64), tf.constant(0), given(),
        values_of(model.trainable_variables), values_of(model.non_trainable_variables), tf.constant(1.0),
    )  # fmt: skip
    assert "HloModule" in program


@functools.cache
def tiny_step(precision: str, optimizer=keras.optimizers.Adam, replicas: int = 1) -> TrainStep:
    where = engine.runtime(replicas, xla=True, precision=precision)
    settings = engine.settings(augment=STRONG, clip_norm=1.0, weight_decay=0.1, ema_decay=0.9)
    return engine.make_engine(where, optimizer=optimizer, dropout=0.2, step_settings=settings).step


def results_of(step: TrainStep) -> Results:
    """Returns what the first program gives to the update."""
    model = step._model
    arguments = (
        tf.constant(0, tf.int64), tf.constant(0), given(),
        values_of(model.trainable_variables), values_of(model.non_trainable_variables), tf.constant(1.0),
    )  # fmt: skip
    return step.forward_backward.compute(*arguments)


def update_nodes(step: TrainStep) -> list:
    """Returns the nodes of the update's program, those of its branches too."""
    given = tf.constant(0, tf.int64), results_of(step)
    graph = tf.function(step.update.body, autograph=False).get_concrete_function(*given).graph.as_graph_def()
    return [*graph.node, *(node for one in graph.library.function for node in one.node_def)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_programs_of_the_tiny_net_lower(precision):
    step = tiny_step(precision)
    model = step._model
    weights = values_of(model.trainable_variables), values_of(model.non_trainable_variables)
    where = engine.runtime(xla=True, precision=precision)
    forward = lower(
        step.forward_backward.compute, tf.constant(0, tf.int64), tf.constant(0), given(), *weights, tf.constant(1.0)
    )
    sizes = {"image_size": engine.IMAGE_SIZE, "normalization": "tf"}
    evaluator = Evaluator(model, features=None, **sizes, runtime=where)
    evaluation = lower(lambda *arguments: evaluator.compute(*arguments), given(), *weights)
    tempered = lower(evaluator.compute, given(), *weights, tf.constant([0.5, 2.0]))
    made = engine.make_engine(where, freezing="partial")
    cut = cut_at_frozen(made.model)
    builder = BankBuilder(cut.prefix, layout_of(cut, "auto"), FeatureSettings(**sizes, augment=STRONG, seed=0), where)
    prefix = values_of(cut.prefix.trainable_variables), values_of(cut.prefix.non_trainable_variables)
    bank = lower(builder.compute, given().images, None, tf.range(4), tf.constant(0), *prefix)
    assert all("HloModule" in program for program in (forward, evaluation, tempered, bank))


OPTIMIZERS = {
    "adam": keras.optimizers.Adam, "lamb": keras.optimizers.Lamb, "lion": keras.optimizers.Lion,
    "sgd": lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lamb", "lion"])
def test_every_operation_of_the_update_is_known_to_xla_on_gpus(optimizer):
    """Also those on variables, and the branch, which its pure twin does not have; of the optimizers that runs have."""
    load_xla_kernels()
    make = functools.partial(make_optimizer, OptimizationSettings(optimizer=optimizer))
    nodes = update_nodes(tiny_step("mixed_float16", make))
    assert {"AssignVariableOp", "If"} <= {node.op.removeprefix("Stateless") for node in nodes}
    assert without_kernel(nodes, XLA_GPU) == []


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [*((optimizer, "mixed_float16") for optimizer in OPTIMIZERS), ("adam", "float32"), ("adam", "mixed_bfloat16")],
)
def test_the_update_lowers_as_a_function_of_its_variables(optimizer, precision):
    step = tiny_step(precision, OPTIMIZERS[optimizer])
    results = results_of(step)
    values = [tf.zeros(variable.shape, variable.dtype) for variable in variables_of(step.update)]
    program = lower(pure_update(step.update), tf.constant(0, tf.int64), results, values)
    assert program.count("parameter(") >= len(values)


@pytest.mark.parametrize("number", [1.0, np.inf])
def test_what_is_lowered_in_place_of_the_update_does_what_it_does(number):
    """In float16 with everything in it; also where a gradient is not finite, and weights are to stay."""
    step = tiny_step.__wrapped__("mixed_float16")
    results = results_of(step)
    first, *others = results.gradients
    results = results._replace(gradients=[first + number, *others])
    variables, number = variables_of(step.update), tf.constant(3, tf.int64)
    before = [tf.identity(variable) for variable in variables]
    norm, expected = tf.function(pure_update(step.update), autograph=False)(number, results, before)
    found = tf.function(step.update.body, autograph=False)(number, results)
    np.testing.assert_allclose(found, norm, rtol=1e-6)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-6, atol=1e-7)
    is_changed = [not np.array_equal(variable, value) for variable, value in zip(variables, before, strict=True)]
    assert (sum(is_changed) > 10) == np.isfinite(norm)  # scale and sums change in any case


@pytest.mark.parametrize(
    ("xla", "precision"),
    [
        (True, "mixed_float16"),
        (False, "mixed_bfloat16"),
        *(pytest.param(True, precision, marks=pytest.mark.slow) for precision in PRECISIONS[:2]),
        *(pytest.param(False, precision, marks=pytest.mark.slow) for precision in PRECISIONS[::2]),
    ],
)
def test_what_is_left_to_a_device_has_a_kernel_on_gpus(xla, precision, tmp_path):
    augment = NAMED_AUGMENTATIONS["none"] if xla else STRONG  # which XLA takes with it, so nothing of it is left
    settings = engine.settings(augment=augment, ema_decay=0.9, clip_norm=1.0, weight_decay=0.1)
    executed = trained(2, "device", tmp_path, xla=xla, precision=precision, dropout=0.2, step_settings=settings)
    assert without_kernel((node for device, node in executed.nodes() if device != "CPU:0"), GPU) == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_variable_of_the_step_lives_on_a_gpu(precision):
    """A variable of a type without kernel lands on the host, and a compiled program that captures it cannot run."""
    assert variables_without_kernel(tiny_step(precision)) == []


def variables_without_kernel(step: TrainStep) -> list[str]:
    variables = [
        *(variable.value for variable in (*step._model.variables, *step.optimizer.variables)),
        *step.averages.values(), step.loss_scale.scale, step.loss_scale.good_steps, step._sums,
    ]  # fmt: skip
    nodes = []
    for variable in variables:
        if "seed_generator" in variable.name or "seed" in variable.name:
            continue  # an int64 or uint32 state, which no program reads: it is replaced by a function of the step
        node = tf.compat.v1.NodeDef(op="VarHandleOp", name=variable.name)
        node.attr["dtype"].type = variable.dtype.as_datatype_enum
        nodes.append(node)
    return without_kernel(nodes, GPU)


def test_a_planted_int32_variable_is_found():
    step = tiny_step("float32")
    planted = dataclasses.replace(step.loss_scale, good_steps=tf.Variable(0, dtype=tf.int32))
    before, step.loss_scale = step.loss_scale, planted
    try:
        assert variables_without_kernel(step) == ["VarHandleOp {'dtype': 'int32'}"]
    finally:
        step.loss_scale = before


def test_a_planted_operation_that_xla_does_not_know_is_found():
    def planted(x: tf.Tensor) -> tf.Tensor:
        return tf.strings.to_number(tf.strings.as_string(x))

    with pytest.raises(ValueError, match="AsString"):
        lower(planted, tf.zeros([2]))
    load_xla_kernels()
    graph = tf.function(planted).get_concrete_function(tf.TensorSpec([2])).graph.as_graph_def()
    assert [line.split()[0] for line in without_kernel(graph.node, XLA_GPU)] == ["AsString", "StringToNumber"]
