"""`--labels_csv` and `--group_csv`: which picture has which label, split and group by a table."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from data_prep.source_parts.containers import Container
from data_prep.source_parts.picture_index import PictureIndex, composed, look_of
from data_prep.source_parts.split_names import role_of, words_of
from data_prep.source_parts.tables import FILE_COLUMNS, SpareColumns, Table, named, open_table, plain
from tl_distributed.data.records import SPLITS
from tl_distributed.errors import UserError, printable

_BOXES = "predictionstring"
_WHOLE_AS_FLOAT = re.compile(r"^([-+]?[0-9]+)\.0*$")  # as pandas writes a column in which one number is missing
# What pandas and SQL write where there is no label; it may be a class's name too ("none": no defect).
_LIKE_MISSING = frozenset({"nan", "-nan", "#n/a", "n/a", "na", "<na>", "null", "none", "?", "-1"})
_LABEL_COLUMNS = (
    *("label", "labels", "class", "classname", "classlabel", "target", "category", "categoryname", "tag"),
    *("species", "breed", "diagnosis", "dx", "choice", "y", "labelname", "classid", "labelid", "categoryid"),
    _BOXES,
)
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_SPLIT_FLAGS = frozenset(
    f"is{name}" for name in ("train", "training", "val", "valid", "validation", "test", "trainingimage")
)
_GROUP_COLUMNS = (
    *("group", "groupid", "patient", "patientid", "subject", "subjectid", "lesionid", "individual", "case", "caseid"),
    *("video", "videoid", "sequence", "burst", "location", "site"),
)


_FEW_PICTURES = 10  # of which most may be alone in their class
SEPARATOR = "|"  # of the labels of one picture


def joined(labels: Iterable[str]) -> str:
    """Returns one text for a set of labels, whatever their order."""
    return SEPARATOR.join(sorted({label.strip() for label in labels}))


def separated(text: str) -> list[str]:
    """Returns the labels of `joined`."""
    return text.split(SEPARATOR) if text else []


@dataclasses.dataclass
class LabelTable:
    """What `--labels_csv` says.

    Attributes:
      labels: Of each picture that it labels, by path.
      splits: Of each picture whose split it names.
      notes: Lines for the user.
    """

    labels: dict[str, str]
    splits: dict[str, str]
    notes: list[str]


def read_labels(
    path: str, container: Container, index: PictureIndex, *, skip_missing: bool, multi_label: bool = False
) -> LabelTable:
    """Reads `--labels_csv`.

    Args:
      path: Of the table.
      container: The input, for a table that lies in it.
      index: Of its pictures.
      skip_missing: Leave out and count the lines whose picture is missing, in place of refusing them.
      multi_label: A picture has any number of labels, separated by `SEPARATOR` or in several lines, and the label that
        is returned is of all of them, sorted; an empty one is of none.

    Raises:
      UserError: As `open_table`; a picture that is missing or that several may be; a label that is spelled in two ways;
        a picture that has two labels or splits; a split by an unknown name. Each with names and counts.
    """
    wanted = {"picture": FILE_COLUMNS, "label": _LABEL_COLUMNS, "split": _SPLIT_COLUMNS}
    with open_table("labels_csv", path, wanted, needed=("picture", "label"), container=container) as table:
        found = _Reader("labels_csv", path, index, skip_missing, multi_label).read(table)
        if "split" not in table.columns:
            found.notes += _hidden_split(path, table.spare)
    return found


def _hidden_split(path: str, spare: SpareColumns) -> list[str]:
    """Returns lines about columns that tell a split by their name; raises `UserError` for one that does by its values.

    Without it, pictures of test would be trained on.
    """
    for name, values in spare.values():
        roles = [{role_of(word) for word in words_of(value)} & set(SPLITS) for value in values - {""}]
        if all(len(role) == 1 for role in roles) and {"train"} < set().union(*roles):
            raise UserError(
                f"--labels_csv={path}: column {name!r} tells splits ({named(sorted(values - {''}))}) but not by its "
                "name; call it split, with the values train, val and test, or take it out of the table"
            )
    return [
        f"{path}: column {name!r} is not used; a column `split` of train, val and test says which pictures are which"
        for name in spare.names if plain(name) in _SPLIT_FLAGS
    ]  # fmt: skip


def read_groups(path: str, container: Container, index: PictureIndex) -> tuple[dict[str, str], list[str]]:
    """Reads `--group_csv`; returns the group of each picture that it names, and lines for the user.

    A line whose picture is not in the input is counted, since such tables often hold more than one set of pictures.

    Raises:
      UserError: As `open_table`; a picture in two groups; no picture of the input named at all.
    """
    wanted = {"picture": FILE_COLUMNS, "group": _GROUP_COLUMNS}
    with open_table("group_csv", path, wanted, needed=("picture", "group"), container=container) as table:
        reader = _Reader("group_csv", path, index, skip_missing=True)
        rows = ((entry, _look_of_value(group), "") for entry, group in table.rows)  # `7`, `7.0`, ` 7`: one patient
        groups = reader.read(dataclasses.replace(table, rows=rows), spelling=False)
    if not groups.labels:
        raise UserError(f"--group_csv={path}: names no picture of the input")
    return groups.labels, groups.notes


def _look_of_value(text: str) -> str:
    """Returns what values share that look alike, a whole number as pandas writes it beside a missing one too."""
    return _WHOLE_AS_FLOAT.sub(r"\1", look_of(text))


def _is_utf8(text: str) -> bool:
    """Tells whether a text has no bytes that are not UTF-8, which Python holds as lone surrogates."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


class _Reader:
    """Reads (picture, value, split) lines, and keeps what is wrong with them until the end."""

    def __init__(self, flag: str, path: str, index: PictureIndex, skip_missing: bool, multi_label: bool = False):
        self._flag, self._path, self._index, self._skip_missing = flag, path, index, skip_missing
        self._multi_label, self._with_separator = multi_label, 0
        self._spellings: dict[str, Counter[str]] = {}
        self._missing: list[str] = []
        self._unclear: list[str] = []
        self._several: list[str] = []
        self._no_split: Counter[str] = Counter()
        self._repeated = self._empty = self._without_split = 0

    def read(self, table: Table, *, spelling: bool = True) -> LabelTable:
        found = LabelTable({}, {}, [])
        # ImageNet's LOC_val_solution.csv: a class and the corners of its box, once for each object of that class.
        has_boxes = plain(table.columns.get("label", "")) == _BOXES
        for entry, label, split in table.rows:
            if not label.strip() and not self._multi_label:
                self._empty += 1
            else:
                label = label.split()[0] if has_boxes and label.strip() else label
                self._with_separator += SEPARATOR in label
                self._take(found, entry, composed(label), self._split(split))
            self._without_split += "split" in table.columns and not split.strip()
        self._refuse(spelling)
        taken = ", ".join(f"{kind} from column {name!r}" for kind, name in table.columns.items())
        counts = {
            "of pictures that are not there": len(self._missing),
            "repeated": self._repeated,
            "without a value": self._empty,
        }
        left_out = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        found.notes.append(f"{self._path}: {taken}" + (f"; lines left out: {left_out}" if left_out else ""))
        for label in sorted(_LIKE_MISSING & self._spellings.keys()):
            (name, count), *_ = self._spellings[label].most_common(1)
            found.notes.append(
                f"{self._path}: {name!r}, in {count:,} lines, is taken as it stands; where it means that nothing is "
                "known, leave the field empty"
            )
        if spelling:
            found.notes += [
                f"{self._path}: {note}" for note in self._doubts(set(found.labels.values()), len(found.labels))
            ]
        return found

    def _doubts(self, labels: set[str], num_pictures: int) -> Iterator[str]:
        """Yields what makes it doubtful that the columns hold what they are taken for."""
        if self._without_split:
            yield f"{self._without_split:,} lines name no split: their pictures are of the folder's, or else of train"
        if not self._multi_label:
            if self._with_separator:
                count = self._with_separator
                yield f"{count:,} labels hold a {SEPARATOR}; where it separates labels, add --multi_label"
            if num_pictures >= _FEW_PICTURES and 2 * len(labels) > num_pictures:
                yield f"{len(labels):,} labels for {num_pictures:,} pictures; is this the column of the class?"
            return
        with_comma = [name for counts in self._spellings.values() for name in counts if "," in name or ";" in name]
        if with_comma:
            yield f"{named(with_comma)} are taken for one label each; labels are separated by {SEPARATOR}"
        elif not any(SEPARATOR in label for label in labels):
            yield f"no picture has several labels; labels are separated by {SEPARATOR}"

    def _split(self, name: str) -> str | None:
        split = role_of(name)
        if name.strip() and split not in SPLITS:
            self._no_split[name.strip()] += 1
        return split

    def _take(self, found: LabelTable, entry: str, label: str, split: str | None) -> None:
        labels = [part for part in label.split(SEPARATOR) if part.strip()] if self._multi_label else [label]
        for one in labels:
            self._spellings.setdefault(_look_of_value(one), Counter())[one.strip() if self._multi_label else one] += 1
        name = joined(labels) if self._multi_label else label.strip()
        pictures = self._index.find(entry, split)
        if len(pictures) != 1:
            (self._unclear if pictures else self._missing).append(entry)
            return
        (picture,) = pictures
        if picture not in found.labels:
            found.labels[picture] = name
            if split in SPLITS:
                found.splits[picture] = split
        elif found.labels[picture] == name and found.splits.get(picture) == split:
            self._repeated += 1
        elif self._multi_label and found.splits.get(picture) == split:
            found.labels[picture] = joined([*separated(found.labels[picture]), *labels])
        else:
            self._several.append(entry)

    def _refuse(self, spelling: bool) -> None:
        twice = [counts for counts in self._spellings.values() if len(counts) > 1] if spelling else []
        no_utf8 = [name for counts in self._spellings.values() for name in counts if not _is_utf8(name)]
        if no_utf8 and spelling:
            raise UserError(
                f"--{self._flag}={self._path}: label {printable(no_utf8[0])!r} is not UTF-8; save the table as UTF-8"
            )
        if self._no_split:
            self._say(self._no_split, "lines name a split that is none of train, val and test", self._no_split.total())
        if twice:
            spelled = " and ".join(f"{label!r} ({count:,})" for label, count in twice[0].most_common(3))
            more = f", and {len(twice) - 1:,} more so" if len(twice) > 1 else ""
            raise UserError(f"--{self._flag}={self._path}: one label is spelled {spelled}{more}; spell it one way")
        if self._several:
            more = "" if self._multi_label else "; --multi_label takes several labels of a picture"
            self._say(self._several, "lines repeat a picture with another label or split", hint=more)
        if self._unclear:
            self._say(self._unclear, "pictures are named that several files may be; give their paths")
        if self._missing and not self._skip_missing:
            self._say(
                self._missing, "pictures are named that are not in --input; mend the table, or add --skip_unreadable"
            )

    def _say(self, names: Sequence[str] | Counter[str], what: str, count: int | None = None, *, hint: str = "") -> None:
        raise UserError(f"--{self._flag}={self._path}: {count or len(names):,} {what}: {named(list(names))}{hint}")
