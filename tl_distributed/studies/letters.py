"""Letters that say which arms can be told apart: two that share one cannot."""

from collections.abc import Collection, Sequence


def significance_letters(names: Sequence[str], told_apart: Collection[frozenset[str]]) -> dict[str, str]:
    """Returns the compact letter display of names, by insert and absorb (Piepho 2004).

    Any two names share a letter exactly where they are not told apart.

    Args:
      names: The best first, so that it has the letter a.
      told_apart: Pairs of names that differ by more than noise.
    """
    columns: list[frozenset[str]] = [frozenset(names)]
    for pair in sorted(told_apart, key=sorted):
        split = [column for column in columns if pair <= column]
        kept = [column for column in columns if not pair <= column]
        halves = [column - {one} for column in split for one in sorted(pair)]
        columns = _absorbed([*kept, *halves])
    columns = _swept(columns)
    places = {name: place for place, name in enumerate(names)}
    columns.sort(key=lambda column: sorted(places[name] for name in column))
    return {
        name: "".join(_letter(index) for index, column in enumerate(columns) if name in column) for name in names
    }  # fmt: skip


def _absorbed(columns: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Leaves out a column that another one holds."""
    unique = list(dict.fromkeys(columns))
    return [column for column in unique if not any(column < other for other in unique)]


def _swept(columns: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Leaves out columns whose pairs, and names, others hold: fewer letters say the same."""
    kept = sorted(columns, key=lambda column: (len(column), sorted(column)))
    for column in list(kept):
        pairs = [{first, second} for first in column for second in column]  # a name alone among them
        others = [other for other in kept if other is not column]
        if all(any(pair <= other for other in others) for pair in pairs):
            kept = others
    return kept


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"
