"""Labels by class folders: `<split>/<class>/**`, or `<class>/**`."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from data_prep.source_parts.other_tasks import annotations_in
from data_prep.source_parts.picture_index import composed
from data_prep.source_parts.picture_tree import PictureTree
from data_prep.source_parts.split_folders import SplitFolders, refuse_nested_splits
from tl_distributed.data.decode import FORMATS_IN_WORDS
from tl_distributed.errors import UserError, printable

UNLABELLED = "pictures without labels"


@dataclasses.dataclass
class Grouped:
    """Pictures by split and class.

    Attributes:
      classes: Of each split, the pictures of each class.
      told_by: How the splits were found.
      left_out: Pictures that are not used, by the reason.
      notes: Lines for the user.
    """

    classes: dict[str, dict[str, list[str]]]
    told_by: str
    left_out: Counter[str]
    notes: list[str]


def group_by_folder(tree: PictureTree, splits: SplitFolders) -> Grouped:
    """Groups the pictures of each split by its class folders; a test without class folders is left out.

    Raises:
      UserError: A picture in no class folder, a class folder without a picture, or one that looks like a split.
    """
    refuse_nested_splits(tree, splits)
    found = Grouped({}, splits.told_by, Counter(), list(splits.notes))
    outside = 0
    inside: dict[str | None, list[str]] = {}
    for name in tree.pictures:
        inside.setdefault(root_of(name, splits.roots), []).append(name)
    for split, root in splits.roots.items():
        if split == "test" and tree.pictures_directly_in(root) and not tree.folders_with_pictures(root):
            found.left_out[UNLABELLED] += len(inside[root])
            found.notes.append(
                f"{tree.path}: left out {printable(root)} with {len(inside[root]):,} pictures: it has no class "
                "folders; --labels_csv=PATH gives pictures labels"
            )
        else:
            found.classes[split] = group_split(tree, inside.get(root, []), root, splits.roots.values())
    for name in inside.get(None, []):
        if splits.left_out and name.startswith(splits.left_out):
            found.left_out[UNLABELLED] += 1
        else:
            outside += 1
    if splits.left_out:
        found.notes.append(
            f"{tree.path}: left out {', '.join(map(printable, splits.left_out))}: by its name, pictures without labels"
        )
    if outside:
        found.left_out[f"images outside {', '.join(map(printable, splits.roots.values()))}"] = outside
    return found


def root_of(name: str, roots: Mapping[str, str]) -> str | None:
    """Returns the split folder that a picture lies in: of two that hold it, the inner one."""
    return max((root for root in roots.values() if name.startswith(root)), key=len, default=None)


def group_split(tree: PictureTree, pictures: Sequence[str], root: str, roots: Collection[str]) -> dict[str, list[str]]:
    """Returns the pictures of a split by class; names that differ in their Unicode form only are one class.

    Args:
      tree: Of the input.
      pictures: Of the split.
      root: Its folder.
      roots: Of all splits; one may lie in another.

    Raises:
      UserError: A picture in no class folder, or a class folder without one.
    """
    groups: dict[str, list[str]] = {}
    for name in pictures:
        class_name, slash, _ = name[len(root) :].partition("/")
        if not slash:
            raise UserError(
                f"--input={tree.path}: {printable(name)} lies in no class folder; pictures belong in "
                f"{printable(root)}<class>/, or --labels_csv=PATH labels them"
            )
        groups.setdefault(composed(class_name), []).append(name)
    for name in tree.folders_in(root):
        holds_a_split = any(other.startswith(f"{root}{name}/") for other in roots if other != root)
        if composed(name) in groups or holds_a_split:
            continue
        if annotations := annotations_in(tree, f"{root}{name}/"):
            raise UserError(
                f"--input={tree.path}: {printable(root + name)}/ is no class: it holds {annotations} files named as "
                "pictures, as the boxes or masks of a detection or segmentation set are; name the folder of the class "
                "folders by --train_dir, or label pictures by --labels_csv=PATH"
            )
        raise UserError(
            f"--input={tree.path}: class folder {printable(root + name)}/ is empty: no {FORMATS_IN_WORDS} in it; "
            "remove it, fill it, or convert what it holds"
        )
    return groups
