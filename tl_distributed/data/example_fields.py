"""Where the features of a serialised `tf.train.Example` lie in its bytes: nothing is copied but what is asked for.

Protobuf's own parser copies an image on its way to Python. This reads the few bytes around the values, by
https://protobuf.dev/programming-guides/encoding: `Example { features = 1 { map entry = 1 { key = 1, value = 2 } } }`,
where a value is `bytes_list = 1 { value = 1 }` or `int64_list = 3 { value = 1 }`.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_MORE, _VARINT_BITS = 128, 7  # set in a varint's byte that is not its last; bits of a number in each
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A  # tags of fields whose length follows
_NUMBER_1 = 0x08  # tag of field 1 as a number that is not packed
_MOST_KNOWN = 1024  # lengths, and endings of each, that are remembered


def find_bytes_and_numbers(
    example: memoryview, bytes_key: bytes, number_key: bytes, skipped: list[tuple[int, int]] | None = None
) -> tuple[int, int, list[int]]:
    """Returns where a feature of one byte string begins and ends, and the values of one of numbers.

    Args:
      example: A serialised `tf.train.Example`.
      bytes_key: Name of the first.
      number_key: Name of the second, whose values are 0 or more.
      skipped: Gets where values of other features begin and end, which are not looked at.

    Raises:
      ValueError: The bytes are not an Example, or lack one of the two.
    """
    span, numbers = None, None
    try:
        at, end = _enter(example, 0, _FIELD_1, len(example))
        while at < end and (span is None or numbers is None):
            entry, entry_end = _enter(example, at, _FIELD_1, end)
            key, key_end = _enter(example, entry, _FIELD_1, entry_end)
            name, at = example[key:key_end], entry_end
            if name == bytes_key:
                span = _only_bytes(example, key_end, entry_end)
            elif name == number_key:
                numbers = _numbers(example, key_end, entry_end)
            elif skipped is not None:
                skipped.append((key_end, entry_end))
    except IndexError:
        raise ValueError("it ends within a value") from None
    if span is None or numbers is None:
        missing = bytes_key if span is None else number_key
        raise ValueError(f"no feature {missing.decode()}")
    return *span, numbers


class AlikeExamples:
    """Finds as `find_bytes_and_numbers` does, in examples that are alike but for their values: eight times as fast.

    What is found in one holds for any other of its length that has the same bytes around the values: what is looked at
    before the byte string is compared, and what comes after it is looked up.
    """

    def __init__(self, bytes_key: bytes, number_key: bytes, label_of: Callable[[list[int]], Any]):
        """`label_of` makes a label of the numbers, the same one for the same numbers, or raises `ValueError`."""
        self._keys, self._label_of = (bytes_key, number_key), label_of
        self._layouts: dict[int, _Layout] = {}  # by length

    def find(self, example: memoryview) -> tuple[int, int, Any]:
        """Returns where the byte string begins and ends, and the label, which is not to be changed."""
        layout = self._layouts.get(len(example))
        if layout is not None and layout.is_alike(example):
            found = layout.found.get(bytes(example[layout.end :]))
            if found is not None:
                return found
        skipped: list[tuple[int, int]] = []
        start, end, numbers = find_bytes_and_numbers(example, *self._keys, skipped)
        found = start, end, self._label_of(numbers)
        if layout is None or layout.end != end or len(layout.found) >= _MOST_KNOWN:
            if len(self._layouts) >= _MOST_KNOWN:
                self._layouts.clear()
            layout = self._layouts[len(example)] = _Layout(_pattern(example, start, skipped).match, end, {})
        if layout.is_alike(example):
            layout.found[bytes(example[end:])] = found
        return found


class _Layout(NamedTuple):
    is_alike: Callable[[memoryview], re.Match[bytes] | None]  # up to where the byte string begins
    end: int  # of the byte string
    found: dict[bytes, tuple[int, int, Any]]  # by what comes after it


def _pattern(example: memoryview, end: int, skipped: list[tuple[int, int]]) -> re.Pattern[bytes]:
    """Returns what matches examples whose first `end` bytes are these, but for what was skipped."""
    pattern, at = b"", 0
    for first, last in [one for one in skipped if one[1] <= end]:
        pattern += re.escape(bytes(example[at:first])) + b".{%d}" % (last - first)
        at = last
    return re.compile(pattern + re.escape(bytes(example[at:end])), re.DOTALL)


def _only_bytes(example: memoryview, at: int, end: int) -> tuple[int, int]:
    for tag in (_FIELD_2, _FIELD_1, _FIELD_1):  # value, bytes_list, its string
        at, inner = _enter(example, at, tag, end)
        if inner != end:
            raise ValueError("several values where one is expected")
    return at, end


def _numbers(example: memoryview, at: int, end: int) -> list[int]:
    for tag in (_FIELD_2, _FIELD_3):  # value, int64_list
        at, inner = _enter(example, at, tag, end)
        if inner != end:
            raise ValueError("several values where one is expected")
    numbers: list[int] = []
    if at < end and example[at] != _NUMBER_1:  # packed, as they usually are
        at, inner = _enter(example, at, _FIELD_1, end)
        if inner != end:
            raise ValueError("several values where one is expected")
        while at < end:
            number, at = _varint(example, at)
            numbers.append(number)
    while at < end:
        if example[at] != _NUMBER_1:
            raise ValueError(f"byte {example[at]} where {_NUMBER_1} is expected")
        number, at = _varint(example, at + 1)
        numbers.append(number)
    if at != end:
        raise ValueError("a number that reaches beyond its field")
    return numbers


def _enter(example: memoryview, at: int, tag: int, end: int) -> tuple[int, int]:
    """Returns where the field with this tag, which begins at `at`, has its content."""
    if example[at] != tag:
        raise ValueError(f"byte {example[at]} where {tag} is expected")
    length = example[at + 1]
    at += 2
    if length >= _MORE:
        length, at = _varint(example, at - 1)
    if at + length > end:
        raise ValueError("a length that reaches beyond its field")
    return at, at + length


def _varint(example: memoryview, at: int) -> tuple[int, int]:
    """Returns the number that begins at `at`, and where it ends."""
    number = shift = 0
    while True:
        byte = example[at]
        at += 1
        number |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return number, at
        shift += _VARINT_BITS
