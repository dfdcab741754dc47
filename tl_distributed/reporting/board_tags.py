"""The names under which TensorBoard shows a run: tags in groups, and the charts that it opens on."""

from collections.abc import Mapping, Sequence
from typing import Any

QUALITY, OPTIMIZER, SPEED, CHECKPOINTS = "quality", "optimizer", "speed", "checkpoints"
BEST = "best"  # scores of the weights that are kept; before the other groups, so that HParams shows them first

_OPTIMIZER = ("learning_rate", "gradient_norm")
_LOSS_SCALE = ("loss_scale", "skipped_updates")
_SPEED = ("images_per_second", "step_seconds", "input_wait_seconds")
_OF_REPLICAS = ("images_per_second_per_replica", "all_reduce_seconds", "scaling_efficiency")
_CHECKPOINTS = {"checkpoint_blocking_seconds": "blocking_seconds", "checkpoint_write_seconds": "write_seconds"}


def quality_tag(split: str, score: str) -> str:
    """Returns e.g. `quality/validation_loss`; `split` is `training` or `validation`."""
    return f"{QUALITY}/{split}_{score}"


def scalars_of(
    row: Mapping[str, Any], *, replicas: int, precision: str, measures: Sequence[str] = ("accuracy",)
) -> dict[str, float]:
    """Returns what a row of `metrics.jsonl` adds to the charts, by tag.

    What cannot vary is left out: sums over one replica, the loss scale of a precision that needs none, a time that is
    the whole step's. So are the row's own `epoch` and `seconds`.

    Args:
      row: Values by name; those of validation begin with `val_`.
      replicas: Of the run.
      precision: Keras's dtype policy.
      measures: What a row of training has beside the loss.
    """
    tags = {name: f"{OPTIMIZER}/{name}" for name in _OPTIMIZER}
    if precision == "mixed_float16":
        tags |= {name: f"{OPTIMIZER}/{name}" for name in _LOSS_SCALE}
    tags |= {name: f"{SPEED}/{name}" for name in _SPEED}
    if replicas > 1:
        tags |= {name: f"{SPEED}/{name}" for name in _OF_REPLICAS}
    if replicas > 1 or row.get("input_wait_seconds") is not None:
        tags["compute_seconds"] = f"{SPEED}/compute_seconds"
    tags |= {name: f"{CHECKPOINTS}/{short}" for name, short in _CHECKPOINTS.items()}
    tags |= {name: quality_tag("training", name) for name in ("loss", *measures)}
    tags |= {name: quality_tag("validation", name.removeprefix("val_")) for name in row if name.startswith("val_")}
    return {tags[name]: value for name, value in row.items() if name in tags and isinstance(value, int | float)}


def best_tag(score: str) -> str:
    """Returns the tag of a score of `results.json`, e.g. `best/validation_accuracy` of `val_accuracy`."""
    names = {"temperature": "validation_temperature"}  # it is fitted there; and test accuracy stays the first
    return f"{BEST}/{names.get(score, score.replace('val_', 'validation_', 1))}"


def chart_layout(metric: str = "accuracy") -> Any:
    """Returns the layout of the Custom Scalars dashboard: training and validation in one chart, the rest folded.

    `metric` is shown beside the loss.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2

    def chart(title: str, *tags: str) -> Any:
        # They are regular expressions; a slash and an underscore are themselves.
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{t}$" for t in tags]))

    def category(title: str, *charts: Any, closed: bool) -> Any:
        return layout_pb2.Category(title=title, chart=charts, closed=closed)

    both = [
        chart(score, quality_tag("training", score), quality_tag("validation", score))
        for score in dict.fromkeys(("loss", metric))
    ]
    return layout_pb2.Layout(category=[
        category("quality: training and validation", *both, closed=False),
        category("optimizer", *(chart(name, f"{OPTIMIZER}/{name}") for name in _OPTIMIZER), closed=True),
        category("speed", chart("images_per_second", f"{SPEED}/images_per_second"), chart(
            "where the time of a step goes", f"{SPEED}/.*_seconds"), closed=True),
    ])  # fmt: skip
