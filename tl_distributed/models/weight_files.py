"""Reads the layers and arrays of a weight file or model file, whichever of Keras's formats it has.

No code of the file is run: arrays are read from HDF5, and `.keras` models are built with `safe_mode=True`.
"""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator
from typing import Any

from tl_distributed.errors import UserError, one_line

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_TAKES = "takes a .weights.h5, .h5 or .keras file of Keras, a run's workdir, or a folder of fetch_weights"


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """One layer's arrays, in the order of `layer.weights`; anything that `numpy.asarray` takes."""

    name: str
    arrays: tuple[Any, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(array.shape) for array in self.arrays)


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """What a file holds; either `by_path` or `orders` is filled.

    Attributes:
      by_path: Layers by their place in a Keras 3 weights file, for example `layers/conv2d_1`.
      prefixes: Where in `by_path` a (nested) model begins; "" is the outermost.
      orders: The layers in the order of the model; more than one list where the file leaves it open
        whether an entry is a layer or a nested model.
    """

    by_path: dict[str, StoredLayer] = dataclasses.field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    orders: tuple[list[StoredLayer], ...] = ()


@contextlib.contextmanager
def read_weight_file(file: str, *, shown_as: str) -> Iterator[StoredWeights]:
    """Opens a local file; its arrays are read when they are used, within the context.

    Args:
      file: Local path.
      shown_as: The path as the user gave it, for messages.

    Raises:
      UserError: Not a file of Keras, damaged, or one that would have to run code.
    """
    with open(file, "rb") as opened:
        magic = opened.read(len(_HDF5_MAGIC))
    if magic == _HDF5_MAGIC:
        with _open_hdf5(file, shown_as) as root:
            try:
                stored = _read_hdf5(root, shown_as)
            except (OSError, RuntimeError, KeyError, ValueError, AttributeError) as error:
                raise _damaged(shown_as, error) from None
            yield stored
    elif magic.startswith(_ZIP_MAGIC):
        yield _read_keras_archive(file, shown_as)
    else:
        raise UserError(f"--weights={shown_as}: {_kind_of_stranger(file, magic)}; {_TAKES}")


def _kind_of_stranger(file: str, magic: bytes) -> str:
    if not magic:
        return "an empty file"
    if file.endswith((".index", "checkpoint")) or ".data-0" in file:
        return "a TensorFlow checkpoint, which does not say which layer a value belongs to"
    if magic.startswith(b"\x80"):
        return "a pickle, which could run code"
    return "not a weight file of Keras"


@contextlib.contextmanager
def _open_hdf5(file: str, shown_as: str) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(file, "r") as root:
            yield root
    except OSError as error:  # also of an array that cannot be read when it is used
        raise _damaged(shown_as, error) from None


def _damaged(shown_as: str, error: Exception) -> UserError:
    return UserError(f"--weights={shown_as}: damaged or incomplete HDF5 file ({one_line(error)}); copy it again")


def _read_hdf5(root: Any, shown_as: str) -> StoredWeights:
    if "layers" in root:
        return _read_keras3(root, shown_as)
    group = root.get("model_weights", root)
    names = _attribute(group, "layer_names")
    if not names:
        raise UserError(f"--weights={shown_as}: an HDF5 file without layers of Keras; {_TAKES}")
    whole = [_legacy_layer(group[name], name) for name in names if name in group]
    whole = [layer for layer, _ in whole if layer.arrays], [part for _, parts in whole for part in parts]
    return StoredWeights(orders=whole)


def _read_keras3(root: Any, shown_as: str) -> StoredWeights:
    """Reads `layers/NAME/vars/0`, ...; the group of a layer may carry the layer's own name."""
    by_path: dict[str, StoredLayer] = {}

    def visit(path: str, entry: Any) -> None:
        if path.endswith("/vars") and len(entry) and all(key.isdigit() for key in entry):
            arrays = tuple(entry[str(index)] for index in range(len(entry)))
            if any("dtype" in array.attrs for array in arrays):  # bits of a type that HDF5 has not
                kind = next(array.attrs["dtype"] for array in arrays if "dtype" in array.attrs)
                raise UserError(f"--weights={shown_as}: holds {kind} values; save the model in float32")
            layer_path = path.removesuffix("/vars")
            names = (holder.attrs.get("name") for holder in (entry, entry.parent))
            name = next((str(name) for name in names if name), layer_path.rsplit("/", 1)[-1])
            by_path[layer_path] = StoredLayer(name, arrays)

    root.visititems(visit)
    prefixes = {""}
    for path in by_path:
        parts = path.split("/layers/")
        prefixes.update("/layers/".join(parts[:count]) + "/" for count in range(1, len(parts)))
    return StoredWeights(by_path=by_path, prefixes=tuple(sorted(prefixes)))


def _legacy_layer(group: Any, name: str) -> tuple[StoredLayer, list[StoredLayer]]:
    """Returns an entry of an older file as one layer, and split into the layers of a nested model.

    Weights are named `LAYER/kernel:0`; in files older than Keras 2 `LAYER_W_1:0`, never nested.
    """
    weight_names = _attribute(group, "weight_names")
    parts: dict[str, list[Any]] = {}
    for weight_name in weight_names:
        parts.setdefault(weight_name.rpartition("/")[0] or name, []).append(group[weight_name])
    whole = StoredLayer(name, tuple(group[weight_name] for weight_name in weight_names))
    return whole, [StoredLayer(part.rpartition("/")[2], tuple(arrays)) for part, arrays in parts.items()]


def _attribute(group: Any, name: str) -> list[str]:
    """Reads a list of names; HDF5 limits an attribute to 64 KB, so that long ones are cut into NAME0, NAME1, ..."""
    if name in group.attrs:
        values = list(group.attrs[name])
    else:
        values, index = [], 0
        while f"{name}{index}" in group.attrs:
            values.extend(group.attrs[f"{name}{index}"])
            index += 1
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _read_keras_archive(file: str, shown_as: str) -> StoredWeights:
    import keras

    try:
        with zipfile.ZipFile(file) as archive:
            members = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise UserError(f"--weights={shown_as}: damaged or incomplete archive ({error}); copy it again") from None
    if not {"config.json", "metadata.json"} <= members:
        raise UserError(f"--weights={shown_as}: an archive, but not a .keras model (PyTorch and NumPy use zip too)")
    try:
        model = keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the file provokes
        cause = " ".join(str(error).split())[:300]
        raise UserError(f"--weights={shown_as}: Keras refuses this model without running its code ({cause})") from None
    return StoredWeights(orders=(list(_model_layers(model)),))


def _model_layers(model: Any) -> Iterator[StoredLayer]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _model_layers(layer)
        elif layer.weights:
            yield StoredLayer(layer.name, tuple(layer.get_weights()))
