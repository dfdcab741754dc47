"""What trains, for how long, at which rate."""

import pytest

from tl_distributed.settings.config import Config
from tl_distributed.training.phases import plan_phases


def plan(num_examples: int = 100, **settings):
    config = Config(**{"backbone": "mobilenet_v2", "global_batch_size": 32, **settings})
    config.validate()
    return plan_phases(config.resolved(native_size=32), num_examples=num_examples)


@pytest.mark.parametrize(
    ("transfer", "rate", "extra"),
    [
        ("scratch", 0.01, {}),
        ("frozen", 0.01, {}),
        ("full", 0.002, {}),
        ("partial", 0.002, {"unfreeze_last_layers": 3}),
    ],
)
def test_one_phase(transfer, rate, extra):
    (phase,) = plan(transfer=transfer, learning_rate=0.01, finetune_learning_rate=0.002, epochs=4, **extra)
    assert (phase.name, phase.freezing, phase.epochs) == ("main", transfer, 4)
    assert phase.total_steps == phase.schedule.total_steps == 13  # 400 examples in batches of 32
    assert phase.schedule.peak == rate


@pytest.mark.parametrize(
    ("extra", "freezing"),
    [({}, "full"), ({"unfreeze_last_layers": 3}, "partial"), ({"unfreeze_from": "out_relu"}, "partial")],
)
def test_two_phases(extra, freezing):
    head, main = plan(
        transfer="two_phase", head_epochs=2, epochs=5, learning_rate=0.01, finetune_learning_rate=0.002,
        schedule="linear", **extra,
    )  # fmt: skip
    assert (head.name, head.freezing, head.epochs, head.total_steps) == ("head", "frozen", 2, 7)
    assert (main.name, main.freezing, main.epochs, main.total_steps) == ("main", freezing, 5, 16)
    assert (head.schedule.peak, main.schedule.peak) == (0.01, 0.002)
    assert head.schedule.kind == main.schedule.kind == "linear"


@pytest.mark.parametrize(
    ("warmup_epochs", "epochs", "warmup_steps"), [(0, 3, 0), (0.5, 3, 2), (1, 3, 4), (2, 3, 7), (9, 3, 10)]
)
def test_warmup_is_in_epochs_and_no_longer_than_the_phase(warmup_epochs, epochs, warmup_steps):
    (phase,) = plan(transfer="scratch", warmup_epochs=warmup_epochs, epochs=epochs)
    assert (phase.schedule.warmup_steps, phase.schedule.total_steps) == (warmup_steps, 10)


@pytest.mark.parametrize(
    ("extra", "warmup_steps"),
    [
        ({"transfer": "full"}, [4]),  # a tenth of 38 steps
        ({"transfer": "full", "finetune_warmup_fraction": 0.5}, [19]),
        ({"transfer": "full", "warmup_epochs": 2}, [7]),  # the longer of both
        ({"transfer": "full", "schedule": "constant"}, [0]),
        ({"transfer": "two_phase", "head_epochs": 1}, [0, 4]),
        ({"transfer": "frozen"}, [0]),
        ({"transfer": "scratch"}, [0]),
    ],
)
def test_pretrained_weights_are_warmed_up(extra, warmup_steps):
    phases = plan(epochs=12, **extra)
    assert [phase.schedule.warmup_steps for phase in phases] == warmup_steps


@pytest.mark.parametrize(("num_examples", "steps"), [(1, 1), (10, 1), (11, 2), (31, 3), (32, 3), (33, 4)])
def test_small_splits(num_examples, steps):
    (phase,) = plan(num_examples, transfer="scratch", epochs=3)
    assert phase.total_steps == steps


@pytest.mark.parametrize(
    ("num_examples", "epochs", "total_steps"),
    [
        (100, 64, 200),  # 200 steps of 32 are 64 epochs
        (101, 64, 202),  # 63.4, and epochs are whole
        (3000, 3, 282),  # --epochs are more
    ],
)
def test_small_splits_get_more_epochs_where_steps_are_promised(num_examples, epochs, total_steps):
    for phase in plan(num_examples, epochs=3, head_epochs=3, min_steps=200):
        assert (phase.epochs, phase.total_steps) == (epochs, total_steps)
        assert phase.schedule.total_steps == total_steps
