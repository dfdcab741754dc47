"""Loads weights from a file: every layer of the backbone, or none and an error that names what differs; and a head."""

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.files import path_exists
from tl_distributed.models.heads import backbone_layers, head_layers
from tl_distributed.models.weight_files import StoredLayer, StoredWeights, read_weight_file

PACKAGED_MODEL_FILE = "model.keras"
_DIFFERENCES_SHOWN = 3


def fetched_weights_file(backbone_name: str) -> str:
    """Returns the name under which `fetch_weights` keeps the ImageNet weights of a backbone."""
    return f"{backbone_name}_imagenet_notop.weights.h5"


def weights_digest(model: Any, *, before: bytes = b"") -> str:
    """Returns the SHA-256 in hex of some bytes and a model's weights, without the state of its random generators."""
    digest = hashlib.sha256(before)
    for weight in model.weights:
        if "seed_generator" not in weight.path:
            digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def load_backbone_weights(classifier_or_backbone: Any, path: str) -> str:
    """Loads the weights of the backbone part; the head keeps its own.

    Nothing is changed unless every layer of the backbone finds its weights, with equal shapes.

    Args:
      classifier_or_backbone: Model of `heads.build_classifier` or `backbones.build_backbone`.
      path: One of: a `.weights.h5` of Keras 3; an `.h5` of `keras.applications` or of an older Keras; a
        `.keras` or `.h5` model, of this project or of stock Keras; the workdir of a run; a folder that
        `fetch_weights` filled. A model may have other layers before and after the backbone.

    Returns:
      One line for the log: what was loaded, and which layers of the file are not of the backbone.

    Raises:
      UserError: No such file, a file of another kind, or layers that differ (named, with both shapes).
    """
    targets = _target_layers(classifier_or_backbone)
    file = _resolve(path, classifier_or_backbone.name)
    with _local_copy(file) as local_file, read_weight_file(local_file, shown_as=file) as stored:
        pairs, unused = _match(targets, stored, classifier_or_backbone.name, file)
        _refuse_unnormalised(pairs, file)
        num_parameters = _assign(pairs)
    ending = f"; not of the backbone: {_first_few([layer.name for layer in unused])}" if unused else ""
    return f"weights of {len(pairs)} backbone layers, {num_parameters:,} numbers, from {file}{ending}"


def load_head_weights(classifier: Any, path: str, why_new_head: Callable[[str], str]) -> str:
    """Loads the weights of the head, where the file has the same head; it stays new otherwise.

    Args:
      classifier: Model of `heads.build_classifier`.
      path: What `load_backbone_weights` takes.
      why_new_head: Given the file that `path` stands for, returns why its head is of no use, or nothing where it
        answers the same question.

    Returns:
      One line for the log: that the head was kept, or why it is new.

    Raises:
      UserError: As `load_backbone_weights`.
    """
    file = _resolve(path, classifier.name)
    reason = why_new_head(file)
    if not reason:
        with _local_copy(file) as local_file, read_weight_file(local_file, shown_as=file) as stored:
            reason = _load_head(classifier, stored.orders or (list(stored.by_path.values()),))
    return f"the head is new: {reason}" if reason else f"the head of {file} is kept, since the classes are the same"


def _load_head(classifier: Any, orders: Sequence[Sequence[StoredLayer]]) -> str:
    """Loads the head from the layers of its names; returns why nothing was loaded, or nothing."""
    targets, found = list(_leaves(head_layers(classifier), "")), []
    for layers in orders:
        by_name = {layer.name: layer for layer in layers}
        pairs = [(target, by_name.get(target.layer.name)) for target in targets]
        differences = [text for target, layer in pairs if (text := _difference(target, layer))]
        if not differences:
            _assign(pairs)
            return ""
        found.append((sum(layer is None for _, layer in pairs), differences))
    return _first_few(min(found)[1], separator="; ")


@dataclasses.dataclass(frozen=True)
class _Target:
    """A layer of the backbone that has weights, and where a Keras 3 weights file keeps it (`layers/conv2d_1`)."""

    layer: Any
    stored_path: str

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(weight.shape) for weight in self.layer.weights)


def _target_layers(model: Any) -> list[_Target]:
    return list(_leaves(backbone_layers(model), ""))


def _leaves(layers: Sequence[Any], parent: str) -> Iterator[_Target]:
    """Yields the layers with weights, the ones inside nested models too.

    A Keras 3 file addresses a layer by its class and how many of that class came before it in the model.
    """
    import keras

    from tl_distributed.models.construction import snake_case

    seen: dict[str, int] = {}
    for layer in layers:
        name = snake_case(type(layer).__name__)
        index = seen[name] = seen.get(name, -1) + 1
        stored_path = f"{parent}layers/{name}_{index}" if index else f"{parent}layers/{name}"
        if isinstance(layer, keras.Model):
            yield from _leaves(layer.layers, f"{stored_path}/")
        elif layer.weights:
            yield _Target(layer, stored_path)


def _resolve(path: str, backbone_name: str) -> str:
    """Returns the file that a file's or folder's path stands for."""
    import tensorflow as tf

    if not path_exists(path):
        if tf.io.gfile.exists(f"{path}.index"):
            raise UserError(f"--weights={path}: a TensorFlow checkpoint; save the model with model.save('NAME.keras')")
        raise UserError(f"--weights={path}: no such file or folder; takes imagenet, none or a path")
    if not tf.io.gfile.isdir(path):
        return path
    candidates = [f"{path.rstrip('/')}/{name}" for name in (PACKAGED_MODEL_FILE, fetched_weights_file(backbone_name))]
    for candidate in candidates:
        if tf.io.gfile.exists(candidate):
            return candidate
    if tf.io.gfile.exists(f"{path.rstrip('/')}/saved_model.pb"):
        raise UserError(f"--weights={path}: a SavedModel holds no layers; give the .keras model it was exported from")
    raise UserError(
        f"--weights={path}: neither {PACKAGED_MODEL_FILE} of a finished run nor "
        f"{fetched_weights_file(backbone_name)} of fetch_weights in this folder"
    )


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[str]:
    """HDF5 and zip readers need a local file."""
    import tensorflow as tf

    if "://" not in path:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local_file = f"{folder}/{path.rsplit('/', 1)[-1]}"
        tf.io.gfile.copy(path, local_file)
        yield local_file


_Pairs = list[tuple[_Target, StoredLayer]]


def _match(targets: list[_Target], stored: StoredWeights, name: str, file: str) -> tuple[_Pairs, list[StoredLayer]]:
    if stored.by_path:
        found, unused = _match_by_path(targets, stored)
    else:
        found, unused = _match_by_order(targets, stored)
    differences = [text for target, layer in found if (text := _difference(target, layer))]
    if differences:
        raise UserError(
            f"--weights={file}: does not fit {name}: {len(differences)} of its {len(targets)} layers differ: "
            + _first_few(differences, separator="; ")
        )
    return found, unused


def _match_by_path(targets: list[_Target], stored: StoredWeights) -> tuple[list, list[StoredLayer]]:
    """Finds each target by its place in the file, below whichever nested model suits the most of them."""

    def found_below(prefix: str) -> list:
        return [(target, stored.by_path.get(prefix + target.stored_path)) for target in targets]

    def num_fitting(found: list) -> int:
        return sum(not _difference(target, layer) for target, layer in found)

    best = max((found_below(prefix) for prefix in stored.prefixes), key=num_fitting)
    used = {id(layer) for _, layer in best}
    return best, [layer for layer in stored.by_path.values() if id(layer) not in used]


def _match_by_order(targets: list[_Target], stored: StoredWeights) -> tuple[list, list[StoredLayer]]:
    """Finds the targets as one unbroken run of the file's layers, which are in the order of the model.

    Unbroken, because ResNet-152 has a layer of each name that ResNet-101 has, and more in between. Where
    layers of equal shapes allow several positions, the one with the most equal names is taken.
    """

    def run_at(layers: Sequence[StoredLayer], start: int) -> list:
        padded = [*layers[start : start + len(targets)], *[None] * len(targets)]
        return list(zip(targets, padded, strict=False))

    def fitness(run: list) -> tuple[int, int]:
        fitting = sum(not _difference(target, layer) for target, layer in run)
        return fitting, sum(layer is not None and target.layer.name == layer.name for target, layer in run)

    runs = [
        (run_at(layers, start), layers)
        for layers in stored.orders
        for start in range(max(1, len(layers) - len(targets) + 1))
    ]
    best, layers = max(runs, key=lambda candidate: fitness(candidate[0]))
    used = {id(layer) for _, layer in best}
    return best, [layer for layer in layers if id(layer) not in used]


def _difference(target: _Target, layer: StoredLayer | None) -> str:
    """Describes how a stored layer differs from its target; empty if it fits."""
    if layer is None:
        return f"{target.layer.name} {_written(target.shapes)} is not in the file"
    if layer.shapes == target.shapes:
        return ""
    stored_name = f"{layer.name} " if layer.name and layer.name != target.layer.name else ""
    return f"{target.layer.name} has {_written(target.shapes)}, the file {stored_name}{_written(layer.shapes)}"


def _refuse_unnormalised(pairs: _Pairs, file: str) -> None:
    """Refuses an EfficientNet v1 that stock Keras built with `weights=None`: it sees other pixels than ours."""
    import keras
    import numpy as np

    for target, layer in pairs:
        if isinstance(target.layer, keras.layers.Normalization):
            mean, variance = (np.asarray(array) for array in layer.arrays[:2])
            if np.all(mean == 0) and np.all(variance == 1):
                raise UserError(
                    f"--weights={file}: made by a network without ImageNet's input normalisation "
                    f"({target.layer.name} has mean 0, variance 1); train it again with this program"
                )


def _assign(pairs: _Pairs) -> int:
    """Assigns every pair; returns how many numbers that were."""
    import numpy as np

    num_parameters = 0
    for target, layer in pairs:
        for weight, array in zip(target.layer.weights, layer.arrays, strict=True):
            values = np.asarray(array)
            weight.assign(values)
            num_parameters += values.size
        if hasattr(target.layer, "finalize_state"):  # Normalization keeps a copy of its statistics
            target.layer.finalize_state()
    return num_parameters


def _written(shapes: Sequence[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def _first_few(texts: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(texts[:_DIFFERENCES_SHOWN])
    rest = len(texts) - _DIFFERENCES_SHOWN
    return f"{shown}{separator}and {rest} more" if rest > 0 else shown
