"""The same picture in several places: under two labels, or in two splits of the source; counted, and some are named."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep import splits
from data_prep.id_file import IdFile
from data_prep.index import Index
from tl_distributed.data.records import SPLITS
from tl_distributed.errors import printable

_LISTED, _SHOWN, _MEMBERS = 100, 3, 4  # pictures in dataset.json, on the screen, and places named of each


def describe(index: Index, ids: IdFile, class_names: Sequence[str]) -> dict[str, Any]:
    """Describes the pictures, equal pixel for pixel, that have two labels or lie in two splits of the source.

    Returns:
      `contradictions` and `across_splits`, each with `pictures` (different ones), `files` (in all) and `examples`: some
      pictures, chosen by content, as lists of {id, label, split}.
    """
    equal = splits.group_equal(index.hashes)
    return {
        "contradictions": _describe(_with_several(equal, index.labels), equal, index, ids, class_names),
        "across_splits": _describe(_with_several(equal, index.origins), equal, index, ids, class_names),
    }


def lines(described: dict[str, Any]) -> list[str]:
    """Returns what to print of `describe`."""
    titles = {"contradictions": "have two labels", "across_splits": "lie in two splits"}
    found = []
    for kind, title in titles.items():
        if described[kind]["pictures"]:
            found.append(f"{described[kind]['pictures']:,} pictures {title} ({described[kind]['files']:,} files), e.g.")
            found += [
                "  " + " = ".join(f"{printable(one['id'])} ({one['split']}, {one['label']})" for one in example)
                for example in described[kind]["examples"][:_SHOWN]
            ]
    return found


def _with_several(equal: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the numbers, sorted, of the sets of equal images that hold more than one of the values."""
    pairs = np.unique(np.stack([equal, values.astype(np.int64)], axis=1), axis=0)[:, 0]
    numbers, counts = np.unique(pairs, return_counts=True)
    return numbers[counts > 1]


def _describe(
    chosen: np.ndarray, equal: np.ndarray, index: Index, ids: IdFile, class_names: Sequence[str]
) -> dict[str, Any]:
    files = np.flatnonzero(np.isin(equal, chosen))
    examples = []
    for number in chosen[:_LISTED]:  # the numbers are a seeded shuffle, the same for any order of the source
        members = files[equal[files] == number]
        names = sorted(zip(ids.read(members), members.tolist(), strict=True))
        examples.append(
            [
                {"id": name, "label": class_names[index.labels[row]], "split": SPLITS[index.origins[row]]}
                for name, row in _varied(names, index)
            ]
        )
    return {"pictures": len(chosen), "files": len(files), "examples": examples}


def _varied(names: list[tuple[str, int]], index: Index) -> list[tuple[str, int]]:
    """Returns a few of the places of one picture, one for each label and split first."""
    kinds = [(index.labels[row], index.origins[row]) for _, row in names]
    firsts = [place for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    others = [place for place in range(len(names)) if place not in firsts]
    return [names[place] for place in sorted((firsts + others)[:_MEMBERS])]
