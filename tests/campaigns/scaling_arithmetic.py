"""Prints what a step costs on 8 GPUs and on many nodes: arithmetic on paper, nothing is measured here.

  python tests/campaigns/scaling_arithmetic.py

Parameters are counted in the models that the package builds, operations are those of its table of backbones. Speeds of
links and GPUs are the flags' values: assumptions, as docs/performance/scaling.md says.
"""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command
from tl_distributed.settings.flags import setting

_MEGA, _GIGA, _TERA = 1e6, 1e9, 1e12
_BACKBONES = (
    "mobilenet_v2", "efficientnet_b0", "densenet121", "inception_v3", "resnet50", "convnext_tiny", "convnext_small",
    "vgg16",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    backbones: tuple[str, ...] = setting(_BACKBONES, "Rows of the tables.", topic="Flags")
    num_classes: int = setting(1000, "Of the head.", topic="Flags", minimum=2)
    replica_batch_size: int = setting(64, "Images in a step of each GPU.", topic="Flags", minimum=1)
    bytes_per_gradient: int = setting(4, "4: --all_reduce_dtype=float32; 2: float16.", topic="Flags", minimum=2)
    gpus_per_node: int = setting(8, "GPUs of a node.", topic="Flags", minimum=1)
    nodes: int = setting(100, "Nodes.", topic="Flags", minimum=2)
    gpu_tflops: float = setting(162.0, "What training sustains on one GPU.", topic="Flags", minimum=0.01)
    depthwise_gpu_tflops: float = setting(
        10.0, "The same for nets of depthwise convolutions, which wait for memory.", topic="Flags", minimum=0.01
    )
    nvlink_gbytes: float = setting(450.0, "GB/s of each GPU in one direction (H100; A100: 300).", topic="Flags")
    network_gbits: tuple[float, ...] = setting((400.0, 100.0), "Gb/s of each node in one direction.", topic="Flags")
    network_latency_us: float = setting(10.0, "Of each step of the ring, microseconds.", topic="Flags", minimum=0)
    gradient_buckets: int = setting(
        3, "What --gradient_buckets would bring, in a third table.", topic="Flags", minimum=1
    )
    efficiency: float = setting(0.9, "For which the last column gives the batch.", topic="Flags", minimum=0.01)
    checkpoint_gbytes: float = setting(1.0, "GB/s at which the shared file system takes a file.", topic="Flags")


def main(config: ScalingConfig, positional: list[str]) -> None:
    refuse_positional(positional)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_tensorflow()
    counted = {name: count(name, config.num_classes, config.gradient_buckets) for name in config.backbones}
    print(table(config, counted), "", bucket_table(config, counted), sep="\n")


@dataclasses.dataclass(frozen=True)
class Counted:
    """One model.

    Attributes:
      parameters: That are trained.
      statistics: Floats of BatchNorm's.
      gmacs: Forward, of an image.
      depthwise: Whether it has depthwise convolutions.
      buckets: (parameters, share of the backward pass) of each bucket, the first one sent first.
    """

    parameters: int
    statistics: int
    gmacs: float
    depthwise: bool
    buckets: tuple[tuple[int, float], ...]


def count(name: str, num_classes: int, num_buckets: int) -> Counted:
    """Builds the model without weights and counts."""
    import keras

    from tl_distributed.models.backbones import get_backbone
    from tl_distributed.models.build import build_backbone
    from tl_distributed.models.calls import macs_of
    from tl_distributed.models.heads import build_classifier
    from tl_distributed.training.segments import split_for_buckets

    row = get_backbone(name)
    size = row.default_size or row.minimum_size
    body = build_backbone(row, image_size=size, weights="none")
    model = build_classifier(body, num_classes=num_classes, pooling="avg", head_units=(), dropout=0.0)
    layers = list(model._flatten_layers())
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    depthwise = any(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in layers)
    statistics = sum(weight.shape[0] for layer in norms for weight in (layer.moving_mean, layer.moving_variance))
    parameters = sum(int(weight.value.shape.num_elements()) for weight in model.trainable_weights)
    segments = split_for_buckets(model, num_buckets)[::-1]
    macs = [sum(map(macs_of, segment.nodes)) for segment in segments]
    sizes = [sum(math.prod(weight.shape) for weight in segment.trainable) for segment in segments]
    buckets = tuple((size, share / sum(macs)) for size, share in zip(sizes, macs, strict=True))
    keras.backend.clear_session()
    return Counted(parameters, statistics, row.gmacs, depthwise, buckets)


def ring_seconds(num_bytes: float, members: int, bytes_per_second: float, latency_seconds: float) -> float:
    """Returns the time of a ring all-reduce: each member sends 2 (n - 1) / n of the bytes, in 2 (n - 1) steps."""
    return 2 * (members - 1) * (num_bytes / members / bytes_per_second + latency_seconds)


def images_per_second(config: ScalingConfig, model: Counted) -> float:
    """Returns what one GPU trains."""
    tflops = config.depthwise_gpu_tflops if model.depthwise else config.gpu_tflops
    return tflops * _TERA / (3 * 2 * model.gmacs * _GIGA)  # forward, and twice as much backward


def table(config: ScalingConfig, counted: dict[str, Counted]) -> str:
    """Returns two tables: a step on one GPU and in one node, then on all nodes."""
    networks = [f"{gbits:g} Gb/s" for gbits in config.network_gbits]
    near = [
        "| backbone | trained parameters | gradient bytes of a step | images/s of a GPU | step | "
        f"all-reduce of {config.gpus_per_node} GPUs | efficiency | checkpoint | writing it |",
        "| --- |" + " --- |" * 8,
    ]
    far = [
        "| backbone | " + " | ".join(f"all-reduce, {network}" for network in networks)
        + " | " + " | ".join(f"efficiency, {network}" for network in networks)
        + " | " + " | ".join(f"images a GPU for {config.efficiency:.0%}, {network}" for network in networks) + " |",
        "| --- |" + " --- |" * (3 * len(networks)),
    ]  # fmt: skip
    for name, model in counted.items():
        moved = config.bytes_per_gradient * model.parameters + 4 * model.statistics
        rate = images_per_second(config, model)
        step = config.replica_batch_size / rate
        inside = ring_seconds(moved, config.gpus_per_node, config.nvlink_gbytes * _GIGA, 0.0)
        checkpoint = 3 * 4 * model.parameters  # weights and Adam's two moments
        near.append(
            f"| `{name}` | {model.parameters / _MEGA:.1f} M | {moved / _MEGA:.0f} MB | {rate:,.0f} | "
            f"{step * 1e3:.0f} ms | {inside * 1e3:.2f} ms | {step / (step + inside):.1%} | "
            f"{checkpoint / _MEGA:.0f} MB | {checkpoint / _GIGA / config.checkpoint_gbytes:.2f} s |"
        )
        # Inside the node first, then each node's sum around the ring of nodes.
        latency = config.network_latency_us * 1e-6
        all_of_it = [
            inside + ring_seconds(moved, config.nodes, gbits * _GIGA / 8, latency) for gbits in config.network_gbits
        ]
        shares = [step / (step + seconds) for seconds in all_of_it]
        batches = [config.efficiency / (1 - config.efficiency) * seconds * rate for seconds in all_of_it]
        cells = [f"{seconds * 1e3:.1f} ms" for seconds in all_of_it]
        cells += [f"{share:.0%}" for share in shares] + [f"{batch:.0f}" for batch in batches]
        far.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*near, "", *far])


def bucketed_seconds(step: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Returns what a step takes in which each bucket is sent when its part of the backward pass is done.

    Args:
      step: Seconds of computing, two thirds of them the backward pass.
      buckets: Of each (seconds that sending it takes, its share of the backward pass), the first one first.
    """
    computed = sent = step / 3
    for seconds, share in buckets:
        computed += step * 2 / 3 * share
        sent = max(sent, computed) + seconds
    return sent


def bucket_table(config: ScalingConfig, counted: dict[str, Counted]) -> str:
    """Returns a table of a step's milliseconds with all gradients sent at its end, and in buckets, by network."""
    latency = config.network_latency_us * 1e-6
    networks = {f"{config.gpus_per_node} GPUs": None}
    networks |= {f"{config.nodes} nodes, {gbits:g} Gb/s": gbits * _GIGA / 8 for gbits in config.network_gbits}
    rows = [
        "| backbone | MB of the buckets | " + " | ".join(networks) + " |",
        "| --- |" + " --- |" * (1 + len(networks)),
    ]
    for name, model in counted.items():
        step = config.replica_batch_size / images_per_second(config, model)
        moved = [config.bytes_per_gradient * parameters for parameters, _ in model.buckets]
        moved[0] += 4 * model.statistics
        shares = [share for _, share in model.buckets]

        def seconds(num_bytes: float, network: float | None) -> float:
            inside = ring_seconds(num_bytes, config.gpus_per_node, config.nvlink_gbytes * _GIGA, 0.0)
            return inside + (ring_seconds(num_bytes, config.nodes, network, latency) if network else 0.0)

        cells = []
        for network in networks.values():
            whole = step + seconds(sum(moved), network)
            parts = bucketed_seconds(
                step, [(seconds(one, network), share) for one, share in zip(moved, shares, strict=True)]
            )
            cells.append(f"{whole * 1e3:.1f}, {parts * 1e3:.1f} ms ({whole / parts - 1:+.0%})")
        sizes = ", ".join(f"{one / _MEGA:.0f}" for one in moved)
        rows.append(f"| `{name}` | {sizes} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run_command(main, ScalingConfig, __doc__)
