"""Every program of the engine compiles for a GPU, and what stays outside has a kernel there: asked without a GPU."""

import dataclasses
import functools
from operator import attrgetter

import engine
import keras
import pytest
import tensorflow as tf
from gpu_kernels import GPU, XLA_GPU, load_xla_kernels, lower, values_of, without_kernel
from placed_runs import trained

from tl_distributed.bank.build import BankBuilder, FeatureSettings
from tl_distributed.bank.choice import layout_of
from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.data.splits import Batch
from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.heads import build_classifier
from tl_distributed.models.layer_depths import rate_multipliers
from tl_distributed.pixels.augment_settings import NAMED_AUGMENTATIONS
from tl_distributed.training.evaluation import Evaluator
from tl_distributed.training.step import TrainStep

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
PIXELS = 32
FAMILIES = {
    row.family: row for row in sorted(filter(attrgetter("family"), BACKBONES.values()), key=lambda row: -row.gmacs)
}  # the smallest of each
STRONG = NAMED_AUGMENTATIONS["strong"]


def shortest(row: Backbone, precision: str) -> keras.Model:
    """Returns the beginning of a family's smallest net: so long that every kind of its layers is in it."""
    keras.config.set_dtype_policy(precision)
    whole = build_backbone(row, image_size=max(PIXELS, row.minimum_size), weights="none")
    kinds, needed = {type(operation) for operation in whole.operations}, 0
    for kind in kinds:
        first = next(index for index, operation in enumerate(whole.operations) if type(operation) is kind)
        needed = max(needed, first)
    ends = (operation for operation in whole.operations[needed:] if len(operation.output.shape) == 4)
    return keras.Model(whole.input, next(ends).output, name=row.name)


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
    """A family in both half precisions, one of which is among the slow tests."""
    slow = pytest.mark.slow
    return [
        pytest.param(family, precision, marks=[] if index % 2 == place else slow)
        for place, precision in enumerate(PRECISIONS[1:])
    ]


@pytest.mark.parametrize(
    ("family", "precision"), [case for index, family in enumerate(FAMILIES) for case in in_turn(index, family)]
)
def test_the_step_of_every_family_lowers(family, precision):
    row = FAMILIES[family]
    where = engine.runtime(xla=True, precision=precision)
    with where.strategy.scope():
        step = step_of(shortest(row, precision), row, where)
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


def update_nodes(step: TrainStep) -> list:
    """Returns the nodes of the update's program, those of its branches too."""
    model, changed = step._model, step.forward_backward
    arguments = (
        tf.constant(0, tf.int64), tf.constant(0), given(),
        values_of(model.trainable_variables), values_of(model.non_trainable_variables), tf.constant(1.0),
    )  # fmt: skip
    results = changed.compute(*arguments)
    function = tf.function(step.update.body, autograph=False).get_concrete_function(tf.constant(0, tf.int64), results)
    graph = function.graph.as_graph_def()
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


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_operation_of_the_update_is_known_to_xla_on_gpus(optimizer, precision):
    load_xla_kernels()
    assert without_kernel(update_nodes(tiny_step(precision, OPTIMIZERS[optimizer])), XLA_GPU) == []


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
    settings = engine.settings(augment=STRONG, ema_decay=0.9, clip_norm=1.0, weight_decay=0.1)
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
