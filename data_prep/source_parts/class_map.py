"""`--class_names`: what the classes are called, where their folders or labels have other names, e.g. WordNet ids."""

import csv
import json
from collections import Counter
from collections.abc import Sequence

from data_prep.source_parts.containers import Container
from data_prep.source_parts.picture_index import composed
from data_prep.source_parts.tables import DIALECT, named, read_text
from tl_distributed.errors import UserError


def map_class_names(path: str, class_names: Sequence[str], container: Container) -> tuple[str, ...]:
    """Returns the names that the file gives the classes, in their order.

    The file is JSON (`{"n01440764": "tench"}`, or Keras's `{"0": ["n01440764", "tench"]}`), or lines of two columns,
    separated by a comma, semicolon, tab or, as in ImageNet's LOC_synset_mapping.txt, by the first space. Which of them
    is told by which one names the most classes.

    Raises:
      UserError: No such file, a class that it does not name, or one name for two classes.
    """
    text = read_text("class_names", path, container)
    maps = [_of_json(text), *(_of_columns(text, separator) for separator in "\t,;"), _of_columns(text, None)]
    found = max(maps, key=lambda one: sum(name in one for name in class_names))
    missing = [name for name in class_names if name not in found]
    if missing:
        raise UserError(
            f"--class_names={path}: has no name for {len(missing):,} of {len(class_names):,} classes: {named(missing)}"
        )
    names = tuple(found[name] for name in class_names)
    (most, count), *_ = Counter(names).most_common(1)
    if count > 1:
        twice = [name for name in class_names if found[name] == most]
        raise UserError(f"--class_names={path}: calls {named(twice)} all {most!r}; give each class a name of its own")
    return names


def _of_json(text: str) -> dict[str, str]:
    try:
        pairs = json.loads(text)
        values = [
            value if isinstance(value, list) and len(value) == 2 else [key, value] for key, value in pairs.items()
        ]
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {composed(str(key)): composed(str(value)).strip() for key, value in values}


def _of_columns(text: str, separator: str | None) -> dict[str, str]:
    lines = text.splitlines(keepends=True)
    try:
        rows = (
            [line.strip().split(maxsplit=1) for line in lines]
            if separator is None else list(csv.reader(lines, delimiter=separator, **DIALECT))
        )  # fmt: skip
    except csv.Error:
        return {}
    return {composed(row[0]).strip(): composed(row[1]).strip() for row in rows if len(row) > 1 and row[1].strip()}
