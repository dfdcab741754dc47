"""What layers put out for many images, and its comparison between two networks, in bounded memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_distributed.inspection.layers import Shape
from tl_distributed.inspection.networks import Network
from tl_distributed.inspection.similarity import Similarity, linear_cka
from tl_distributed.progress import Progress

MOST_FEATURES = 12288  # of an image's map; above, neighbouring places are averaged
_GROUP_BYTES = 512 * 2**20  # of activations held at a time, of both networks


def compute_activations(
    network: Network,
    images: np.ndarray,
    cells: Mapping[str, int],
    *,
    batch_size: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Runs images through a network as in evaluation.

    Args:
      network: Of either kind.
      images: `[n, height, width, 3] uint8`.
      cells: Layer names, each with the side in places of the cells over which its maps are averaged; 1: as they are.
      batch_size: Images at once.
      progress: Counts the images.

    Returns:
      For each name `[n, *shape] float32`.
    """
    operations = {operation.name: operation for operation in network.classifier.operations}
    outputs = [operations[name].output for name in cells]
    model = keras.Model(network.classifier.input, outputs)

    def traced(batch: tf.Tensor) -> list[tf.Tensor]:
        values = model(network.prepare(batch), training=False)
        return [
            _averaged(tf.cast(value, tf.float32), side)
            for value, side in zip(tf.nest.flatten(values), cells.values(), strict=True)
        ]

    # Concrete: TensorFlow warns of functions that are traced often, as one for each network and layers is.
    signature = tf.TensorSpec([None, *network.image_shape], tf.uint8)
    compute = tf.function(traced, autograph=False).get_concrete_function(signature)
    parts: dict[str, np.ndarray] = {}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        for name, value in zip(cells, compute(tf.constant(batch)), strict=True):
            if name not in parts:
                parts[name] = np.empty((len(images), *value.shape[1:]), np.float32)
            parts[name][start : start + len(batch)] = value.numpy()
        progress.update(len(batch))
    return parts


def _averaged(maps: tf.Tensor, side: int) -> tf.Tensor:
    """Averages over cells of side x side places; a cell at the border is what there is of it."""
    return maps if side == 1 else tf.nn.avg_pool2d(maps, side, side, "SAME")


@dataclasses.dataclass(frozen=True)
class LayerSimilarity:
    """One layer's comparison.

    Attributes:
      name: Of the layer.
      shape: Of its output for one image.
      cell_side: Its maps were averaged over cells of this side in places; 1: not at all.
      similarity: Of before and after.
    """

    name: str
    shape: Shape
    cell_side: int
    similarity: Similarity


def compare_layers(
    before: Network, after: Network, images: np.ndarray, shapes: Mapping[str, Shape], *, batch_size: int
) -> list[LayerSimilarity]:
    """Compares layers of two networks on the same images, as many layers at a time as memory allows.

    Args:
      before: One network.
      after: The other.
      images: `[n, height, width, 3] uint8`.
      shapes: The layers, with the shape of an image's output, equal in both networks.
      batch_size: Images at once.
    """
    cells = {name: _cell_side(shape) for name, shape in shapes.items()}
    groups = list(_groups(shapes, cells, len(images)))
    total = 2 * len(groups) * len(images)
    found = []
    with Progress(total=total, unit="images", label="Comparing layers") as progress:
        for group in groups:
            sides = {name: cells[name] for name in group}
            first, second = (
                compute_activations(network, images, sides, batch_size=batch_size, progress=progress)
                for network in (before, after)
            )
            for name in group:
                pair = [values.pop(name).reshape(len(images), -1) for values in (first, second)]
                found.append(LayerSimilarity(name, shapes[name], cells[name], linear_cka(*pair)))
    return found


def _cell_side(shape: Shape) -> int:
    """Returns the smallest cell that leaves no more than `MOST_FEATURES` numbers of an image's maps."""
    side = 1
    while len(shape) == 3 and side < max(shape[:2]) and _num_features(shape, side) > MOST_FEATURES:
        side += 1
    return side


def _num_features(shape: Shape, side: int) -> int:
    if len(shape) != 3:
        return math.prod(shape)
    return math.ceil(shape[0] / side) * math.ceil(shape[1] / side) * shape[2]


def _groups(shapes: Mapping[str, Shape], cells: Mapping[str, int], num_images: int) -> Iterator[Sequence[str]]:
    """Yields neighbouring layers whose activations fit into memory together."""
    group: list[str] = []
    held = 0
    for name, shape in shapes.items():
        num_bytes = 2 * 4 * num_images * _num_features(shape, cells[name])
        if group and held + num_bytes > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += num_bytes
    yield group
