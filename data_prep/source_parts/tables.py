"""Tables that people give beside their pictures: CSV with any common separator, read line by line."""

import contextlib
import csv
import dataclasses
import io
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from data_prep.source_parts.archive_limits import UnreadableFile
from data_prep.source_parts.containers import Container
from tl_distributed.data.picture_files import open_file
from tl_distributed.errors import UserError, printable

_SEPARATORS = ",;\t|"
# Python takes quotes that do not match, and then lines that follow for a part of the value, without a word.
DIALECT: dict[str, Any] = {"strict": True, "skipinitialspace": True}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NO_TEXTS = {
    b"PK\3\4": "a workbook or zip",
    b"\xd0\xcf\x11\xe0": "a workbook",
    b"\x1f\x8b": "packed by gzip",
    b"PAR1": "Parquet",
}
_NAMES_SHOWN = 3
_MOST_SPARE_VALUES = 8

FILE_COLUMNS = (
    *("file", "filename", "filepath", "path", "image", "imagefile", "imagename", "imagepath", "imagefilename"),
    *("imageid", "id", "idcode", "img", "imgname", "imgid", "picture", "photo", "photoid", "name"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first line names its columns.

    Attributes:
      columns: Which column was taken for what, e.g. `{"file": "image_id"}`.
      rows: Its lines, one value for each of the wanted columns, "" where a line or the table lacks it.
      spare: Its other columns.
    """

    columns: dict[str, str]
    rows: Iterator[tuple[str, ...]]
    spare: "SpareColumns"


class SpareColumns:
    """Columns that are taken for nothing, and their values as long as these are few."""

    def __init__(self, header: Sequence[str], taken: Collection[int | None]):
        self._names = {place: name.strip() for place, name in enumerate(header) if place not in taken}
        self._values: dict[int, set[str]] = {place: set() for place in self._names}

    def see(self, record: Sequence[str]) -> None:
        """Takes the values of a line."""
        for place, values in list(self._values.items()):
            if place < len(record):
                values.add(record[place].strip())
            if len(values) > _MOST_SPARE_VALUES:
                del self._values[place]

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return list(self._names.values())

    def values(self) -> Iterator[tuple[str, set[str]]]:
        """Yields each column that has few different values in the lines seen so far, and these."""
        for place, values in self._values.items():
            yield self._names[place], values


@contextlib.contextmanager
def open_table(
    flag: str, path: str, wanted: Mapping[str, Sequence[str]], *, needed: Collection[str], container: Container
) -> Iterator[Table]:
    """Opens a table; the separator (comma, semicolon, tab or bar) is told from its first line.

    What can be read in two ways is refused: quotes that do not match, a line of more values than the first one names.

    Args:
      flag: That names it, for messages.
      path: Of the table; where no such file is, the file of that name in the input.
      wanted: Of each kind of value, the names that its column may have, the best first, in small letters and digits.
      needed: Kinds that the table must have.
      container: The input.

    Raises:
      UserError: No such file, not CSV, or a needed column is missing.
    """
    with _lines(flag, path, container) as lines:
        before, first = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
        if first.lower().startswith("sep="):  # Excel's own
            before, first = before + 1, next(lines, "")
        separator = max(_SEPARATORS, key=lambda one: _matches(first, one, wanted))
        records = _records(flag, path, itertools.chain([first], lines), separator, before)
        _, header = next(records, (1, []))
        names = {plain(name): number for number, name in reversed(list(enumerate(header)))}
        places = {
            kind: next((names[name] for name in choices if name in names), None) for kind, choices in wanted.items()
        }
        missing = [kind for kind in needed if places[kind] is None]
        if missing:
            raise UserError(
                f"--{flag}={path}: no column for the {missing[0]} ({', '.join(wanted[missing[0]][:5])} ...) among "
                f"{named(header) or 'none: it is empty'}; name the columns in its first line"
            )
        columns = {kind: header[place].strip() for kind, place in places.items() if place is not None}
        if twice := [name for name in columns.values() if [one.strip() for one in header].count(name) > 1]:
            raise UserError(f"--{flag}={path}: several columns are called {twice[0]!r}; rename all but one")
        spare = SpareColumns(header, places.values())
        yield Table(columns, _rows(flag, path, records, len(header), tuple(places.values()), spare), spare)


def named(names: Collection[str]) -> str:
    """Returns up to three names and the number of the others."""
    first = ", ".join(repr(printable(name)) for name in list(names)[:_NAMES_SHOWN])
    return first + (f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else "")


def read_text(flag: str, path: str, container: Container) -> str:
    """Returns the text of a small file, at `path` or in the input; raises `UserError` as `open_table`."""
    with _lines(flag, path, container) as lines:
        return "".join(lines)


def _matches(line: str, separator: str, wanted: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    try:
        names = {plain(name) for name in next(csv.reader([line], delimiter=separator), [])}
    except csv.Error:  # told when the table is read
        return 0, 0
    return sum(any(choice in names for choice in choices) for choices in wanted.values()), len(names)


def plain(name: str) -> str:
    """Returns a column's name in small letters and digits alone."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _records(
    flag: str, path: str, lines: Iterator[str], separator: str, before: int
) -> Iterator[tuple[int, list[str]]]:
    """Yields the values of each record and the number of the line in which it begins; so many lines lie before."""
    reader = csv.reader(lines, delimiter=separator, **DIALECT)
    number = before + 1
    try:
        for record in reader:
            yield number, record
            number = before + reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"--{flag}={path}: line {number:,} is not CSV ({error}); put values that hold separators or quotes in "
            "quotes, with each quote inside of them twice"
        ) from None


def _rows(
    flag: str, path: str, records: Iterator[tuple[int, list[str]]], num_columns: int, places: Sequence[int | None],
    spare: SpareColumns,
) -> Iterator[tuple[str, ...]]:  # fmt: skip
    for number, record in records:
        spare.see(record)
        if any(value.strip() for value in record[num_columns:]):
            raise UserError(
                f"--{flag}={path}: line {number:,} has {len(record)} values ({named(record)}), the first line names "
                f"{num_columns} columns; put values that hold the separator in quotes"
            )
        if any(value.strip() for value in record):
            yield tuple("" if place is None or place >= len(record) else record[place] for place in places)


@contextlib.contextmanager
def _lines(flag: str, path: str, container: Container) -> Iterator[Iterator[str]]:
    """Opens a text as UTF-8, with or without byte order mark; bytes that are none are kept as they are.

    Lines end by a line feed, a carriage return or both.
    """
    import tensorflow as tf

    try:
        if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
            file = open_file(path)
        elif path in container.files:
            (member,) = container.members([path])
            file = io.BytesIO(member.read())
        else:
            raise UserError(f"--{flag}={path}: no such file, nor in the input")
        with file:
            first = file.readline()
            if first.startswith(_UTF16):
                raise UserError(f"--{flag}={path}: is UTF-16; save it as UTF-8")
            if found := next((words for signature, words in _NO_TEXTS.items() if first.startswith(signature)), None):
                raise UserError(f"--{flag}={path}: is {found}, no text; save it as CSV, in UTF-8")
            lines = itertools.chain([first.removeprefix(b"\xef\xbb\xbf")], iter(file.readline, b""))
            texts = (line.decode("utf-8", "surrogateescape") for line in lines)
            yield itertools.chain.from_iterable(
                io.StringIO(text, newline="") if "\r" in text else (text,) for text in texts
            )
    except (OSError, UnreadableFile, tf.errors.OpError) as error:
        cause = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise UserError(f"--{flag}={path}: cannot be read ({cause})") from None
