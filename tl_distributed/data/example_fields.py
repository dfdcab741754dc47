"""Where the features of a serialised `tf.train.Example` lie in its bytes: nothing is copied but what is asked for.

Protobuf's own parser copies an image on its way to Python. This reads the few bytes around the values, by
https://protobuf.dev/programming-guides/encoding: `Example { features = 1 { map entry = 1 { key = 1, value = 2 } } }`,
where a value is `bytes_list = 1 { value = 1 }` or `int64_list = 3 { value = 1 }`.
"""

_MORE, _VARINT_BITS = 128, 7  # set in a varint's byte that is not its last; bits of a number in each
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A  # tags of fields whose length follows
_NUMBER_1 = 0x08  # tag of field 1 as a number that is not packed


def find_bytes_and_number(example: memoryview, bytes_key: bytes, number_key: bytes) -> tuple[int, int, int]:
    """Returns where a feature of one byte string begins and ends, and the value of one of a single number.

    Args:
      example: A serialised `tf.train.Example`.
      bytes_key: Name of the first.
      number_key: Name of the second, 0 or more.

    Raises:
      ValueError: The bytes are not an Example, or lack one of the two.
    """
    *span, numbers = find_bytes_and_numbers(example, bytes_key, number_key)
    if len(numbers) != 1:
        raise ValueError(f"{len(numbers)} values of {number_key.decode()} where one is expected")
    return *span, numbers[0]


def find_bytes_and_numbers(example: memoryview, bytes_key: bytes, number_key: bytes) -> tuple[int, int, list[int]]:
    """As `find_bytes_and_number`, of any number of numbers."""
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
    except IndexError:
        raise ValueError("it ends within a value") from None
    if span is None or numbers is None:
        missing = bytes_key if span is None else number_key
        raise ValueError(f"no feature {missing.decode()}")
    return *span, numbers


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
