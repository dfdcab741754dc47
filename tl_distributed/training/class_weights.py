"""How much each class counts in the training loss: `--class_weights`."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.runtime.workers import Workers

_MOST_BYTES = 16 * 2**20
_NAMES_IN_MESSAGE = 3


def resolve_class_weights(
    choice: str, class_names: Sequence[str], counts: Mapping[str, int], workers: Workers
) -> tuple[float, ...] | None:
    """Returns the weight of each class, in order of label; `None` where all count alike.

    Args:
      choice: none; balanced: images / (classes * images of the class), over the classes that have images, so that each
        of them counts alike in all (scikit-learn's `compute_class_weight("balanced")`); or the path of a JSON or CSV
        file of class names and weights, which the chief reads.
      class_names: Of the data set.
      counts: Images of each class in the training split, as it is trained on.
      workers: Choose alike.

    Raises:
      UserError: The file cannot be read, names other classes, or holds weights that are none.
    """
    if choice == "none":
        return None
    if choice == "balanced":
        return _balanced([counts[name] for name in class_names])
    return tuple(workers.from_chief("class weights", _read(choice, class_names) if workers.is_chief else None))


def _balanced(counts: Sequence[int]) -> tuple[float, ...]:
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)


def _read(path: str, class_names: Sequence[str]) -> list[float]:
    where = f"--class_weights={path}"
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise UserError(f"{where}: takes none, balanced or a file, which cannot be read ({reason})") from None
    if len(content) > _MOST_BYTES:
        raise UserError(f"{where}: larger than {_MOST_BYTES // 2**20} MiB; not a file of class weights")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error})") from None
    rows = _json_rows(text, where) if text.lstrip().startswith(("{", "[")) else _csv_rows(text, where)
    weights: dict[str, float] = {}
    for name, value in rows:
        if name in weights:
            raise UserError(f"{where}: the class {name} is there twice")
        weights[name] = _weight(name, value, where)
    _check_names(weights, class_names, where)
    if not any(weights.values()):
        raise UserError(f"{where}: all weights are 0")
    return [weights[name] for name in class_names]


def _json_rows(text: str, where: str) -> list[tuple[str, object]]:
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)  # a name that is there twice is seen
        return [(name, value) for name, value in pairs]
    except (ValueError, TypeError) as error:
        raise UserError(f'{where}: not JSON of the form {{"class name": weight, ...}} ({error})') from None


def _csv_rows(text: str, where: str) -> list[tuple[str, object]]:
    """Returns (class name, weight) of each line; a first line `class,weight` is no class."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise UserError(f"{where}: not CSV ({error})") from None
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None or not rows:
        raise UserError(f"{where}: not lines of class name,weight ({','.join(wrong or [])!r})")
    is_header = [cell.strip().lower() for cell in rows[0]] == ["class", "weight"]
    return [(name, value) for name, value in rows[is_header:]]


def _weight(name: str, value: object, where: str) -> float:
    try:
        weight = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{where}: the class {name} has the weight {value!r}; takes a number of 0 or more")
    return weight


def _check_names(weights: Mapping[str, float], class_names: Sequence[str], where: str) -> None:
    for reason, names in (
        ("names classes that the data set has not", [name for name in weights if name not in set(class_names)]),
        ("has no weight for", [name for name in class_names if name not in weights]),
    ):
        if names:
            more = f" and {len(names) - _NAMES_IN_MESSAGE} more" if len(names) > _NAMES_IN_MESSAGE else ""
            raise UserError(f"{where}: {reason}: {', '.join(names[:_NAMES_IN_MESSAGE])}{more}")
