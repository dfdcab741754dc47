"""Who goes where: duplicates, the limit a class, the validation share, and the order of the records.

Splits are decided by seeded hashes of the contents, and the order by those of the ids; never by the order in which the
source hands out its images: the same images and seed give the same splits in the same order, be they read from a
folder, from an archive of it, or by any number of threads or machines.
"""

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_prep.group_cut import join_groups, units_for_share
from data_prep.source_parts.picture_index import look_of
from tl_distributed.data.records import SPLITS
from tl_distributed.errors import UserError

TRAIN, VAL, TEST = (SPLITS.index(name) for name in ("train", "val", "test"))
_UNFIT_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control, lone surrogates (bytes that are no UTF-8), line, paragraph


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The outcome of `assign_splits`.

    Attributes:
      order: Indices of the images of each split, in the order in which they are written; only splits that exist.
      dropped_duplicates: Images left out of a split because another holds the same pixels, by
        "left out of/kept in", e.g. `{"train/test": 3}`.
      repeats_within: Images of each split whose pixels the same split holds already; they are kept.
      dropped_of_groups: Images left out because another split holds their group, counted as `dropped_duplicates`.
    """

    order: dict[str, np.ndarray]
    dropped_duplicates: dict[str, int]
    repeats_within: dict[str, int]
    dropped_of_groups: dict[str, int]


def assign_splits(
    hashes: np.ndarray,
    labels: np.ndarray,
    origins: np.ndarray,
    keys: np.ndarray,
    *,
    val_fraction: float,
    limit_per_class: int,
    test_fraction: float = 0.0,
    groups: np.ndarray | None = None,
) -> Assignment:
    """Decides split and position of every image.

    An image that test holds too stays in test only, and one that the source's own val holds too leaves
    train, unless a class would have no image left to train on: it keeps them, and test or val loses them. Equal
    images of train fall on the same side of a cut. Images of one group are treated alike:
    what test holds of a group, or else val, is the only part that stays.

    Args:
      hashes: `[n, 2] uint64`, of the contents, uniform for a given seed.
      labels: `[n]` class indices.
      origins: `[n]` the source's split of each image, an index into `SPLITS`.
      keys: `[n] uint64`, by which the records of a split are sorted.
      val_fraction: Share of each class of train that becomes val, in [0, 1); unused if the source has val. A class of
        two different images or more gives at least one and keeps at least one.
      limit_per_class: Images of each class of train to keep before the cuts; 0 keeps all.
      test_fraction: Share of each class of train that becomes test, before val is cut; unused if the source has test.
      groups: `[n] int64` number of each image's group, -1 for none.
    """
    equal = group_equal(hashes)
    split_of = origins.astype(np.int8).copy()
    dropped = _keep_last_of_classes(equal, labels, split_of) | _drop_repeated(equal, split_of)
    units = equal if groups is None else join_groups(equal, groups)
    dropped_of_groups = {} if groups is None else _drop_repeated(units, split_of)
    if limit_per_class:
        _limit_train(equal, labels, split_of, keys, limit_per_class)
    for split, fraction in ((TEST, test_fraction), (VAL, val_fraction)):
        if not fraction or (origins == split).any():
            continue
        if groups is None:
            _cut_share(equal, labels, split_of, keys, split, fraction)
        else:
            split_of[units_for_share(units, labels, split_of == TRAIN, fraction)] = split
    order, repeats = {}, {}
    for code, name in enumerate(SPLITS):
        members = np.flatnonzero(split_of == code)
        if members.size:
            order[name] = members[np.lexsort((hashes[members, 1], hashes[members, 0], keys[members]))]
            repeats[name] = int(members.size - np.unique(equal[members]).size)
    return Assignment(order, dropped, repeats, dropped_of_groups)


def check_class_names(class_names: Sequence[str]) -> None:
    """Raises `UserError` for fewer than two classes, names that look alike (`look_of`), or that no text file can hold.

    A line feed, U+2028 or any control character, or bytes that are not UTF-8, would break what is written later: lists
    of labels, figures, logs.
    """
    if len(class_names) < 2:
        found = f"only one class ({class_names[0]})" if class_names else "no class"
        raise UserError(
            f"the source has {found}; a classifier needs at least two: a folder for each, or a table of labels"
        )
    for name in class_names:
        unfit = [character for character in name if unicodedata.category(character) in _UNFIT_CATEGORIES]
        if unfit or not look_of(name):
            held = f"the character {unfit[0]!r}" if unfit else "nothing but spaces"
            raise UserError(f"class {name!r}: its name holds {held}; rename the folder or label, or use --class_names")
    seen: dict[str, str] = {}
    for name in class_names:
        other = seen.setdefault(look_of(name), name)
        if other is not name:
            raise UserError(
                f"classes {other!r} and {name!r} have the same name but for case, spaces or characters that show "
                "nothing; rename one"
            )


def check_classes_present(class_names: Sequence[str], labels: np.ndarray, origins: np.ndarray) -> None:
    """Raises `UserError` for a class without a training image; names the split that holds it, if any."""
    in_train = np.bincount(labels[origins == TRAIN], minlength=len(class_names))
    for index in np.flatnonzero(in_train == 0):
        name = class_names[index]
        elsewhere = [SPLITS[code] for code in (TEST, VAL) if ((origins == code) & (labels == index)).any()]
        if elsewhere:
            raise UserError(f"class {name!r} of {elsewhere[0]} has no image in train: nothing could learn it")
        raise UserError(f"class {name!r} is empty: it has no image in train; remove it or give it images")


def count_per_class(class_names: Sequence[str], labels: np.ndarray) -> dict[str, int]:
    """Counts the `[n]` labels of each class, by name, in the order of the names."""
    counts = np.bincount(labels, minlength=len(class_names))
    return {name: int(count) for name, count in zip(class_names, counts, strict=True)}


def group_equal(hashes: np.ndarray) -> np.ndarray:
    """Numbers images so that equal ones share a number; as the hashes are keyed, the numbers are a seeded shuffle."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(starts) - 1
    return groups


def _drop_repeated(groups: np.ndarray, split_of: np.ndarray) -> dict[str, int]:
    """Marks with -1 in `split_of` the images of whose group test, or else val, holds one; returns the counts."""
    dropped: Counter[str] = Counter()
    for kept, losers in ((TEST, (TRAIN, VAL)), (VAL, (TRAIN,))):
        held = np.zeros(groups.max(initial=-1) + 1, bool)
        held[groups[split_of == kept]] = True
        for loser in losers:
            repeated = (split_of == loser) & held[groups]
            split_of[repeated] = -1
            dropped[f"{SPLITS[loser]}/{SPLITS[kept]}"] += int(repeated.sum())
    return {pair: count for pair, count in dropped.items() if count}


def _keep_last_of_classes(groups: np.ndarray, labels: np.ndarray, split_of: np.ndarray) -> dict[str, int]:
    """Marks with -1 what test or val repeat of classes of which they repeat every image; returns the counts."""
    train = split_of == TRAIN
    repeated = train & np.isin(groups, groups[(split_of == TEST) | (split_of == VAL)])
    keeping = train & ~np.isin(labels, labels[train & ~repeated])
    held, dropped = np.isin(groups, groups[keeping]), {}
    for loser in (VAL, TEST):
        lost = held & (split_of == loser)
        split_of[lost] = -1
        dropped[f"{SPLITS[loser]}/train"] = int(lost.sum())
    return {pair: count for pair, count in dropped.items() if count}


def _members_by_class(
    groups: np.ndarray, labels: np.ndarray, split_of: np.ndarray, keys: np.ndarray
) -> list[np.ndarray]:
    """Returns the train images of each class, each in the seeded order of their contents, equal ones of their keys."""
    train = np.flatnonzero(split_of == TRAIN)
    train = train[np.lexsort((keys[train], groups[train], labels[train]))]
    return np.split(train, np.flatnonzero(np.diff(labels[train])) + 1)


def _limit_train(
    groups: np.ndarray, labels: np.ndarray, split_of: np.ndarray, keys: np.ndarray, limit_per_class: int
) -> None:
    for members in _members_by_class(groups, labels, split_of, keys):
        split_of[members[limit_per_class:]] = -1


def _cut_share(
    groups: np.ndarray, labels: np.ndarray, split_of: np.ndarray, keys: np.ndarray, split: int, fraction: float
) -> None:
    """Moves a share of each class of train to `split`; equal images go together."""
    sizes = np.bincount(groups[split_of == TRAIN], minlength=groups.max(initial=-1) + 1)
    is_taken = np.zeros(sizes.size, bool)
    # Equal images with different labels count for the class that comes first.
    decided = np.zeros(sizes.size, bool)
    for members in _members_by_class(groups, labels, split_of, keys):
        wanted = min(max(1, int(members.size * fraction + 0.5)), members.size - 1)
        candidates = np.unique(groups[members])  # sorted, which is the seeded order
        for group in candidates[~decided[candidates]]:
            if wanted <= 0:
                break
            if sizes[group] <= wanted:
                is_taken[group] = True
                wanted -= sizes[group]
        decided[candidates] = True
    split_of[(split_of == TRAIN) & is_taken[groups]] = split
