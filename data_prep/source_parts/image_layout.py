"""Which picture belongs to which split, class and group."""

import dataclasses
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from data_prep.source_parts import split_folders
from data_prep.source_parts.class_map import map_class_names
from data_prep.source_parts.containers import Container
from data_prep.source_parts.folder_layout import Grouped, group_by_folder
from data_prep.source_parts.label_table import read_groups, separated
from data_prep.source_parts.other_tasks import refuse_masks
from data_prep.source_parts.picture_index import PictureIndex, composed, look_of
from data_prep.source_parts.picture_tree import PictureTree
from data_prep.source_parts.table_layout import group_by_table
from data_prep.source_parts.tables import named
from tl_distributed.data.decode import FORMATS_IN_WORDS
from tl_distributed.data.picture_files import is_junk, is_picture
from tl_distributed.data.records import MANIFEST_FILE, SPLITS
from tl_distributed.errors import UserError, printable

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9]+(\.0*)?")


@dataclasses.dataclass(frozen=True)
class LayoutOptions:
    """What the user says of an input, as the flags of the same names.

    `output_dir` is no part of the input where it lies in it. `skip_missing` leaves out lines of `labels_csv` whose
    picture is missing.
    """

    train_dir: str = ""
    val_dir: str = ""
    test_dir: str = ""
    no_split_folders: bool = False
    labels_csv: str = ""
    class_names: str = ""
    group_csv: str = ""
    multi_label: bool = False
    output_dir: str = ""
    skip_missing: bool = False

    def split_dirs(self) -> dict[str, str]:
        """Returns the folders that flags name, by split."""
        named_dirs = {split: getattr(self, f"{split}_dir") for split in SPLITS}
        return {split: folder for split, folder in named_dirs.items() if folder}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The pictures of a container.

    Attributes:
      class_names: In order of label; those of train.
      files: Of each split, the class index of every picture by its path, or its index into `label_sets`.
      groups: Of each picture that `--group_csv` names, its group.
      ids: Of each picture, its id: the path in Unicode's composed form.
      told_by: How the splits were found, for the user.
      left_out: Files that are not used, by the reason; junk is not counted.
      notes: Lines for the user.
      label_sets: As of a `Source`.
    """

    class_names: tuple[str, ...]
    files: dict[str, dict[str, int]]
    groups: dict[str, str]
    ids: dict[str, str]
    told_by: str
    left_out: dict[str, int]
    notes: tuple[str, ...]
    label_sets: tuple[tuple[int, ...], ...] | None = None


def find_layout(container: Container, options: LayoutOptions) -> Layout:
    """Recognises `<split>/<class>/**` with the splits in any spelling, `<class>/**`, or the pictures of a table.

    Raises:
      UserError: No pictures; folders that can be meant in two ways; a picture in no class folder, a class folder
        without a picture or of masks, a class of val or test that train lacks; a table that does not fit the pictures.
    """
    not_input = _other_things(container, options.output_dir)
    files, folders = (
        [name for name in names if not is_junk(name) and not f"{name}/".startswith(not_input)]
        for names in (container.files, container.folders)
    )
    others = [name for name in files if not is_picture(name)]
    tree = PictureTree(container.path, [name for name in files if is_picture(name)], folders, others)
    if not tree.pictures:
        found = _what_is_there(others)
        raise UserError(f"--input={container.path}: no {FORMATS_IN_WORDS} files there, told by their endings{found}")
    grouped = _grouped(tree, container, options)
    of_train = grouped.classes["train"]
    if options.multi_label:
        of_train = {label for text in of_train for label in separated(text)}
    class_names, label_sets = _sorted_names(of_train, by_value=bool(options.labels_csv)), None
    if options.multi_label:
        labelled, label_sets = _label_sets(grouped.classes, class_names, container.path)
    else:
        labelled = {
            split: _label(groups, split, class_names, container.path) for split, groups in grouped.classes.items()
        }
    order_note = [] if options.labels_csv else _order_note(class_names, container.path)
    if options.class_names:
        class_names = map_class_names(options.class_names, class_names, container)
    used = [name for names in labelled.values() for name in names]
    groups, lines = {}, []
    if options.group_csv:
        index = PictureIndex(used, {}.get)  # a name that train and test both have is refused: it may be of either
        groups, lines = read_groups(options.group_csv, container, index)
        if missing := len(used) - len(groups):
            lines.append(f"{options.group_csv}: has no group for {missing:,} of {len(used):,} pictures")
    kinds = _kinds(others)
    return Layout(
        class_names, labelled, groups, _ids(used), grouped.told_by, dict(sorted((kinds + grouped.left_out).items())),
        (*_repeated(container), *grouped.notes, *order_note, *lines), label_sets,
    )  # fmt: skip


def _kinds(names: Iterable[str]) -> Counter[str]:
    return Counter(posixpath.splitext(name)[1].lower() or "no extension" for name in names)


def _what_is_there(names: Sequence[str]) -> str:
    """Returns what an input without pictures holds, and what to do, for the end of a line; "" where it is empty."""
    if not names:
        return ""
    (kind, count), *_ = _kinds(names).most_common(1)
    remedy = "name the archive, or unpack it" if kind in _ARCHIVES else "convert or rename them"
    return f", but {count:,} files with {printable(kind)}: {remedy}"


def _grouped(tree: PictureTree, container: Container, options: LayoutOptions) -> Grouped:
    named_dirs = options.split_dirs()
    if named_dirs and options.no_split_folders:
        raise UserError("--no_split_folders contradicts --train_dir, --val_dir and --test_dir; give one or the other")
    splits = split_folders.named_splits(tree, named_dirs) if named_dirs else None
    if options.labels_csv:
        roots = splits.roots if splits else {} if options.no_split_folders else split_folders.splits_of_table(tree)
        return group_by_table(
            tree, roots, options.labels_csv, container, skip_missing=options.skip_missing,
            multi_label=options.multi_label,
        )  # fmt: skip
    refuse_masks(tree, splits.roots.values() if splits else [""])
    if options.no_split_folders:
        splits = split_folders.all_train(tree)
    return group_by_folder(tree, splits or split_folders.find_splits(tree))


def _other_things(container: Container, output_dir: str) -> tuple[str, ...]:
    """Returns folders, with a `/`, that are no input: the output where it lies in the input, and finished data sets."""
    with_shards = {posixpath.dirname(name) for name in container.files if name.endswith(".tfrecord")}
    described = {posixpath.dirname(name) for name in container.files if posixpath.basename(name) == MANIFEST_FILE}
    data_sets = [f"{folder}/" for folder in with_shards & described if folder]
    if output_dir and "://" not in output_dir + container.path:
        below = os.path.relpath(os.path.realpath(output_dir), os.path.realpath(container.path))
        if below != "." and not below.startswith(".."):
            data_sets += [f"{below}/", f"{below}.partial/"]
    return tuple(data_sets)


def _repeated(container: Container) -> list[str]:
    if not container.repeated:
        return []
    return [
        f"{container.path}: did not follow {len(container.repeated):,} links to folders that are there already: "
        f"{named(container.repeated)}"
    ]


def _sorted_names(names: Iterable[str], *, by_value: bool) -> tuple[str, ...]:
    """Sorts class names; whole numbers by their value where asked, so that the label of class 10 is 10.

    A column of whole numbers in which one is missing is written by pandas as 10.0.
    """
    names = sorted(names)
    if by_value and all(map(_WHOLE_NUMBER.fullmatch, names)):
        names.sort(key=float)
    return tuple(names)


def _order_note(class_names: tuple[str, ...], path: str) -> list[str]:
    """Returns a line where class folders are numbers whose order is not that of their names, else none."""
    by_value = _sorted_names(class_names, by_value=True)
    if by_value == class_names:
        return []
    label, name = next((label, name) for label, name in enumerate(class_names) if name != by_value[label])
    return [
        f"{path}: class folders are in the order of their names, not of their numbers: {name!r} has label {label:,}; "
        "predictions name the folder"
    ]


def _ids(paths: Iterable[str]) -> dict[str, str]:
    """Returns the composed form of each path; a second path of the same form keeps its own, which no other has."""
    ids: dict[str, str] = {}
    taken = set()
    for path in sorted(paths, key=lambda path: (composed(path) != path, path)):
        name = composed(path)
        ids[path] = path if name in taken else name
        taken.add(name)
    return ids


def _label_sets(
    classes: Mapping[str, Mapping[str, Sequence[str]]], class_names: Sequence[str], path: str
) -> tuple[dict[str, dict[str, int]], tuple[tuple[int, ...], ...]]:
    """Returns of each split the number of every picture's combination of labels, and the combinations."""
    index = {name: number for number, name in enumerate(class_names)}
    texts = sorted({text for groups in classes.values() for text in groups})
    for split, groups in classes.items():
        unknown = sorted({label for text in groups for label in separated(text)} - set(index))
        if unknown:
            raise UserError(
                f"--input={path}: label {unknown[0]!r} of {split} is of no picture of train: nothing could learn it"
            )
    sets = tuple(tuple(sorted(index[label] for label in separated(text))) for text in texts)
    numbers = {text: number for number, text in enumerate(texts)}
    files = {
        split: {name: numbers[text] for text, names in groups.items() for name in names}
        for split, groups in classes.items()
    }
    return files, sets


def _label(groups: dict[str, list[str]], split: str, class_names: Collection[str], path: str) -> dict[str, int]:
    index = {name: number for number, name in enumerate(class_names)}
    unknown = sorted(set(groups) - set(index))
    if unknown:
        alike = next((name for name in class_names if look_of(name) == look_of(unknown[0])), None)
        hint = f" (there it is {alike!r}; spell it one way)" if alike else ""
        raise UserError(
            f"--input={path}: class {unknown[0]!r} of {split} is not in train{hint}: nothing could learn it"
        )
    return {name: index[class_name] for class_name, names in groups.items() for name in names}
