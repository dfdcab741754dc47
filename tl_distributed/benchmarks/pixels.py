"""`benchmark pixels`: resize and augmentation alone."""

from typing import Any

from tl_distributed.benchmarks.processes import CONTENDERS, Contender, take_turns
from tl_distributed.benchmarks.report import Layout, chosen, publish
from tl_distributed.benchmarks.settings import PixelsConfig

_OURS = "ours_xla"
_KINDS = (
    _OURS, "ours_no_xla", "tf_image_xla", "tf_image_no_xla", "keras_eager", "keras_graph", "keras_graph_resize_first",
    "keras_tf_data",
)  # fmt: skip


def run_pixels(config: PixelsConfig, facts: dict[str, Any]) -> None:
    """Measures every way of resizing, flipping, cropping and zooming a batch."""
    common = {"native_size": config.native_size, "image_size": config.image_size, "batch_size": config.batch_size}
    contenders = [
        Contender(name=name, module=f"{CONTENDERS}.pixels", settings=({**common, "kind": name},))
        for name in chosen(_KINDS, config.contenders)
    ]
    outcomes = take_turns(contenders, repeats=config.repeats, amount=config.batches)
    layout = Layout(
        title=f"pixels: {config.native_size} to {config.image_size} px, flip, crop by 4 pixels, zoom; batches of "
        f"{config.batch_size}, {config.batches} a turn (tf_image: without zoom)",
        unit="images/s",
        bases=(_OURS, "ours_no_xla"),
    )
    publish(outcomes, layout, facts, benchmark="pixels", settings=config)
