"""Layer-wise learning-rate decay: which block a layer is in, and what an update then does."""

import keras
import numpy as np
import pytest
from engine import make_engine, runtime, settings

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.freezing import freeze_for
from tl_distributed.models.heads import build_classifier
from tl_distributed.models.layer_depths import backbone_blocks, rate_multipliers
from tl_distributed.settings.config import Config
from tl_distributed.training.forward import Results


def classifier(backbone: str, size: int):
    model = build_backbone(get_backbone(backbone), image_size=size, weights="none")
    return build_classifier(model, num_classes=3, pooling="avg", head_units=(), dropout=0.1)


# Stem, blocks and top as the papers count them. Inception: five convolutions and eleven modules.
@pytest.mark.parametrize(
    ("backbone", "size", "count", "names"),
    [
        ("resnet50", 32, 1 + 3 + 4 + 6 + 3, {"conv1_bn": 0, "conv2_block1_0_conv": 1, "conv5_block3_3_bn": 16}),
        ("mobilenet_v2", 32, 1 + 17 + 1, {"bn_Conv1": 0, "block_13_expand": 14, "block_13_project_BN": 14}),
        ("convnext_tiny", 32, 1 + 3 + 1 + 3 + 1 + 9 + 1 + 3, {"convnext_tiny_stage_3_block_2_depthwise_conv": 21}),
        ("vgg16", 32, 5, {"block1_conv1": 0, "block5_conv3": 4}),
        ("inception_v3", 75, 5 + 11, {"conv2d_4": 4}),
        ("baseline_cnn", 8, 3, {"conv2": 1, "dense1": 2}),
    ],
)
def test_blocks_are_those_of_the_architecture(backbone, size, count, names):
    model = classifier(backbone, size)
    blocks = backbone_blocks(model)
    assert len(blocks) == count
    place = {layer.name: index for index, block in enumerate(blocks) for layer in block}
    assert {name: place[name] for name in names} == names
    with_weights = {layer.name for layer in model.layers if layer.weights and not layer.name.startswith("head_")}
    assert with_weights <= set(place)


def test_multipliers_fall_with_depth_and_spare_the_head():
    model = classifier("tiny_norm", 16)
    multipliers = rate_multipliers(model, 0.5)
    found = {variable.path: multipliers[id(variable)] for variable in model.trainable_variables}
    for path, factor in found.items():
        expected = 1.0 if "head" in path else 0.5 if ("conv2" in path or "bn2" in path) else 0.25
        assert factor == expected, path
    freeze_for(model, "partial", unfreeze_last_layers=0, unfreeze_from="conv2")
    assert list(rate_multipliers(model, 0.5).values()) == [0.5, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("xla", [False, True])
def test_update_equals_a_hand_computation(xla):
    """SGD with decoupled decay: w (1 - decay rate m) - rate m g, and g from the run without decay."""
    where = runtime(xla=xla)
    start = make_engine(where).weights()
    plain = make_engine(where, initial=start, learning_rate=1.0, optimizer=lambda: keras.optimizers.SGD(0.0))
    variables = [variable.path for variable in plain.model.trainable_variables]
    before = [variable.numpy() for variable in plain.model.trainable_variables]
    plain.train(1)
    gradients = [old - new.numpy() for old, new in zip(before, plain.model.trainable_variables, strict=True)]
    changed = settings(weight_decay=0.1)
    decayed = make_engine(where, initial=start, learning_rate=0.2, step_settings=changed, layer_decay=0.5)
    decayed.train(1)
    for path, old, gradient, new in zip(variables, before, gradients, decayed.model.trainable_variables, strict=True):
        rate = 0.2 * (1.0 if "head" in path else 0.5 if ("conv2" in path or "bn2" in path) else 0.25)
        kept = 1 - 0.1 * rate if old.ndim > 1 else 1.0
        np.testing.assert_allclose(new.numpy(), old * kept - rate * gradient, atol=2e-6, err_msg=path)


def test_off_adds_nothing_to_the_update():
    """With the decay off the traced update has as many multiplications as one block's rate needs: none more."""

    def multiplications(layer_decay: float) -> int:
        import tensorflow as tf

        engine = make_engine(runtime(), layer_decay=layer_decay)
        gradients = [tf.zeros(variable.shape) for variable in engine.model.trainable_variables]
        engine.train(1)  # so that it is known what the first program computes anew
        statistics = [tf.zeros(variable.shape) for variable in engine.step.forward_backward.changed]
        update = tf.function(engine.step.update.body, autograph=False)
        results = Results(gradients, statistics, tf.zeros([2]))
        graph = update.get_concrete_function(tf.constant(0, tf.int64), results).graph
        return sum(operation.type == "Mul" for operation in graph.get_operations())

    assert multiplications(0.5) - multiplications(1.0) == 6  # tiny_norm: kernel, scale, offset of two blocks


def test_decay_without_a_training_backbone_is_refused():
    with pytest.raises(UserError, match=r"--layer_decay=0\.5 has no effect with --transfer=frozen"):
        Config(backbone="mobilenet_v2", transfer="frozen", layer_decay=0.5).validate()
