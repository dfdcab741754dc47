"""Reads pickles of plain containers and numeric arrays from strangers; runs nothing that they name.

A pickle may call any function that its reader lets it find. This reader finds stand-ins for the few names
that an array's pickle needs, not NumPy's own: they record what they are given, and the array is then made from
checked parts.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

_NUMBER_KINDS = "biuf"


def loads(data: bytes) -> Any:
    """Returns the pickled value: None, numbers, text, bytes, lists, tuples, dictionaries, and numeric arrays.

    Arrays are read from protocols 0 to 4; the fifth pickles them in another way. Text of Python 2 comes back as bytes.

    Raises:
      ValueError: Anything else in it (named), or damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Refused:
        raise
    except Exception as error:  # a damaged pickle makes the reader raise nearly anything
        raise ValueError(f"not a pickle, or a damaged one: {type(error).__name__}") from None


class Refused(ValueError):
    """The pickle names something that is neither a plain value nor an array."""


class _Dtype:
    """Stands in for `numpy.dtype`: knows numbers only."""

    def __init__(self, code: Any, *_: Any):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or len(code) > 3 or code[:1] not in _NUMBER_KINDS:
            raise Refused(f"an array of {code!r} is refused: numbers only")
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise Refused(f"byte order {order!r} is refused")
        self._order = order

    def to_numpy(self) -> np.dtype:
        return np.dtype(self._order + self._code)


class _Array(np.ndarray):
    """An array that takes the state of a pickled one after checking it."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise Refused("an array whose contents are not plain bytes is refused")
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise Refused("an array of impossible shape is refused")
        checked = dtype.to_numpy()
        if math.prod(shape) * checked.itemsize != len(data):
            raise Refused(f"an array of shape {shape} with {len(data)} bytes is refused")
        super().__setstate__((1, shape, checked, bool(is_fortran), data))


class _Name:
    """Stands in for one name; calling it runs `action`. Takes no state, so a pickle cannot change it."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable):
        self._action = action

    def __call__(self, *arguments: Any) -> Any:
        return self._action(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Refused("a state for a function is refused")


def _no_call(*_: Any) -> None:
    raise Refused("an array made in an unusual way is refused")


def _empty_array(*_: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _encode_latin1(text: Any, codec: Any) -> bytes:
    """What Python 3 pickles bytes as in protocol 2: text, and the codec's name."""
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise Refused("bytes in an unusual codec are refused")
    return text.encode("latin1")


_STAND_INS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Name(_no_call),
    ("numpy.core.multiarray", "_reconstruct"): _Name(_empty_array),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_empty_array),
    ("_codecs", "encode"): _Name(_encode_latin1),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise Refused(f"it names {module}.{name}, which is refused: it may hold arrays and plain containers only")
        return _STAND_INS[module, name]
