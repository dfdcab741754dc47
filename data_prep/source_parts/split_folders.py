"""Which folders are the splits, told by their names in any spelling, and by what they hold.

What is clear is taken; what could be meant in two ways is refused with the flag that settles it, since a guess would
train on the wrong pictures without a word.
"""

import dataclasses
import os
import shlex
from collections.abc import Collection, Iterable, Mapping

from data_prep.source_parts.picture_tree import PictureTree
from data_prep.source_parts.split_names import is_plain, role_of, roles_of, words_of
from tl_distributed.data.records import SPLITS
from tl_distributed.errors import UserError, printable

_SPLIT_FLAGS = "--train_dir, --val_dir and --test_dir"
NO_SPLITS = "--no_split_folders takes every folder for a class"


@dataclasses.dataclass(frozen=True)
class SplitFolders:
    """Where the splits lie.

    Attributes:
      roots: Of each split, its folder with a `/` at the end; empty for the input itself.
      told_by: How that was found out, for the user.
      are_folders: False where all is train because there are no split folders.
      left_out: Folders of pictures that are known to have no labels.
      notes: Lines for the user.
    """

    roots: dict[str, str]
    told_by: str
    are_folders: bool = True
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_splits(tree: PictureTree) -> SplitFolders:
    """Finds the split folders of an input, or that it has none.

    Args:
      tree: Of the input.

    Raises:
      UserError: The folders can be meant in two ways, or two of them are the same split, or there is no train.
    """
    top = _unwrapped(tree)
    folders = tree.folders_with_pictures(top)
    roles = roles_of(folders)
    beside = [name for name in folders if name not in roles]
    splits = {name: role for name, role in roles.items() if role in SPLITS or role == "held out"}
    if not splits:
        _refuse_hidden_splits(tree, top, folders)
        note = f"{tree.path}: no train/ there, so every class folder is train"
        return _classes_alone(top, note)
    if _is_a_class(tree, top, splits, beside):
        note = f"{tree.path}: {min(splits)}/ lies among folders of its kind, so it is a class and all is train"
        return _classes_alone(top, f"{note}; if it is not, name the splits by {_SPLIT_FLAGS}")
    roots = _one_each(tree, splits, top)
    if beside:
        taken = ", ".join(f"{name}/ as {role}" for name, role in sorted(splits.items()))
        raise UserError(
            f"--input={tree.path}: takes {taken}, and would leave out {_listed(beside)} beside it; say "
            f"{_flags(top, splits)} if that is meant, or {NO_SPLITS}"
        )
    if "train" not in roots:
        raise UserError(
            f"--input={tree.path}: holds {min(splits)}/ but no train/; name it by --train_dir, or {NO_SPLITS}"
        )
    left_out = tuple(f"{top}{name}/" for name, role in sorted(roles.items()) if role == "unlabelled")
    roots = unwrapped_splits(tree, roots)
    told_by = "split folders " + ", ".join(f"{root} ({split})" for split, root in roots.items())
    usual = all(root == f"{top}{split}/" for split, root in roots.items())
    notes = () if usual else (f"{tree.path}: {told_by}",)
    return SplitFolders(roots, told_by, left_out=left_out, notes=notes)


def _classes_alone(top: str, note: str) -> SplitFolders:
    return SplitFolders({"train": top}, "no split folders: every folder is a class", False, notes=(note,))


def named_splits(tree: PictureTree, named: Mapping[str, str]) -> SplitFolders:
    """Returns the splits that `--train_dir`, `--val_dir` and `--test_dir` name; `named` is by split, "" for none.

    Raises:
      UserError: No train, a folder without pictures, or one folder for two splits.
    """
    roots: dict[str, str] = {}
    for split in SPLITS:
        if not named.get(split):
            continue
        root = named[split].replace("\\", "/").strip("/").removeprefix("./")
        root = "" if root in ("", ".") else f"{root}/"
        if not tree.has_pictures(root):  # the whole path, from outside of the input
            root = _below(named[split], tree.path)
        if not tree.has_pictures(root):
            raise UserError(f"--{split}_dir={named[split]}: no such folder with pictures in --input={tree.path}")
        if root in roots.values():
            raise UserError(f"--{split}_dir={named[split]}: is another split already")
        roots[split] = root
    if "train" not in roots:
        raise UserError("--train_dir is needed with --val_dir and --test_dir: no folder is guessed beside them")
    told_by = "by flags: " + ", ".join(f"{root or './'} ({split})" for split, root in roots.items())
    return SplitFolders(roots, told_by, are_folders=len(roots) > 1 or roots["train"] != "")


def _below(path: str, of_input: str) -> str:
    """Returns a path as of a folder in the input, both from the folder of now or absolute; "" for the input itself."""
    if "://" not in path + of_input:
        path, of_input = os.path.abspath(path), os.path.abspath(of_input)
    return f"{path.strip('/')}/".removeprefix(f"{of_input.strip('/')}/")


def all_train(tree: PictureTree) -> SplitFolders:
    """Returns what `--no_split_folders` means: all is train."""
    return SplitFolders({"train": _unwrapped(tree)}, "by --no_split_folders: every folder is a class", False)


def splits_of_table(tree: PictureTree) -> dict[str, str]:
    """Returns the folders of the splits where a table labels the pictures: what is doubtful is then no split."""
    top = _unwrapped(tree)
    roles = roles_of(tree.folders_with_pictures(top))
    found = {split: [name for name, role in sorted(roles.items()) if role == split] for split in SPLITS}
    return {split: f"{top}{names[0]}/" for split, names in found.items() if len(names) == 1}


def refuse_nested_splits(tree: PictureTree, splits: SplitFolders) -> None:
    """Raises `UserError` where there are splits within a split, e.g. `train/cat/test/` or `train/val/cat/`."""
    if not splits.are_folders:
        return
    for root in splits.roots.values():
        if _are_splits(tree, root):
            raise UserError(
                f"--input={tree.path}: {printable(root)} is a split, but holds "
                f"{_listed(tree.folders_with_pictures(root))}; name the splits by {_SPLIT_FLAGS}"
            )
        for name in tree.folders_with_pictures(root):
            inside = _only_splits(roles_of(tree.folders_with_pictures(f"{root}{name}/")))
            if len(set(inside.values())) > 1:
                raise UserError(
                    f"--input={tree.path}: {printable(root + name)}/ would be a class, but holds {_listed(inside)}; "
                    f"name the splits by {_SPLIT_FLAGS}"
                )


def _only_splits(roles: Mapping[str, str]) -> dict[str, str]:
    return {name: role for name, role in roles.items() if role in SPLITS}


def _unwrapped(tree: PictureTree) -> str:
    """Returns the folder, with a `/`, below which the splits or classes begin: others may wrap it."""
    top = ""
    while True:
        inside = tree.folders_with_pictures(top)
        if len(inside) != 1 or tree.pictures_directly_in(top):
            return top
        below = f"{top}{inside[0]}/"
        if tree.pictures_directly_in(below) or (role_of(inside[0]) and not _are_splits(tree, below)):
            return top
        is_alone = len(tree.folders_in(top)) == 1
        if not is_alone and not roles_of(tree.folders_with_pictures(below)):
            return top
        top = below


def _are_splits(tree: PictureTree, folder: str) -> bool:
    """Tells whether the folders in `folder` are train and another split, each with class folders."""
    names = tree.folders_with_pictures(folder)
    splits = _only_splits(roles_of(names))
    have_classes = all(tree.folders_with_pictures(f"{folder}{name}/") for name in names)
    return have_classes and len(splits) == len(names) > 1 and "train" in splits.values()


def unwrapped_splits(tree: PictureTree, roots: Mapping[str, str]) -> dict[str, str]:
    """Steps into the one folder of a split that is no class, e.g. `seg_train/seg_train/` or `train/images/`."""
    unwrapped: dict[str, str] = {}
    for split, root in roots.items():  # train is the first
        classes = tree.folders_with_pictures(unwrapped["train"]) if "train" in unwrapped else ()
        unwrapped[split] = _unwrapped_split(tree, root, split, classes)
    return unwrapped


def _unwrapped_split(tree: PictureTree, root: str, split: str, classes: Collection[str]) -> str:
    inside = tree.folders_with_pictures(root)
    if len(inside) != 1 or inside[0] in classes or tree.pictures_directly_in(root):
        return root
    below, parent = f"{root}{inside[0]}/", root.rstrip("/").split("/")[-1]
    is_wrapper = inside[0] == parent or role_of(inside[0]) == split or is_plain(inside[0])
    if not is_wrapper or (split == "train" and not tree.folders_with_pictures(below)):
        return root
    return _unwrapped_split(tree, below, split, classes)


def _is_a_class(tree: PictureTree, top: str, splits: Mapping[str, str], beside: Collection[str]) -> bool:
    """Tells whether the one folder that is called like a split is a class for certain.

    It is where it and all beside it hold pictures and no folders: a train or val without class folders is none. Not so
    for test, whose pictures often have no labels.
    """
    if len(splits) != 1 or not beside or next(iter(splits.values())) not in ("train", "val"):
        return False
    return not any(tree.folders_with_pictures(f"{top}{name}/") for name in (*splits, *beside))


def _one_each(tree: PictureTree, splits: Mapping[str, str], top: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, role in sorted(splits.items()):
        if role == "held out":
            raise UserError(
                f"--input={tree.path}: {name}/ may be validation or test; say "
                f"{_flag('val', top + name)} or {_flag('test', top + name)}, with --train_dir"
            )
        if role in found:
            raise UserError(
                f"--input={tree.path}: {found[role]}/ and {name}/ would both be the split {role}; keep one, or name "
                f"the splits by {_SPLIT_FLAGS}"
            )
        found[role] = name
    return {split: f"{top}{found[split]}/" for split in SPLITS if split in found}


def _refuse_hidden_splits(tree: PictureTree, top: str, folders: Collection[str]) -> None:
    """Raises `UserError` where folders that would be classes look like something else."""
    unlabelled = [name for name, role in roles_of(folders).items() if role == "unlabelled"]
    if unlabelled and len(folders) > len(unlabelled):
        raise UserError(
            f"--input={tree.path}: {_listed(unlabelled)} would be a class, but is called like pictures without labels; "
            f"name the others by --train_dir, or {NO_SPLITS}"
        )
    inside = {name: tree.folders_with_pictures(f"{top}{name}/") for name in folders}
    for name, below in inside.items():
        splits = _only_splits(roles_of(below))
        if "train" in splits.values() or len(set(splits.values())) > 1:
            every = ", as all classes do" if len(inside) > 1 and all(map(bool, inside.values())) else ""
            raise UserError(
                f"--input={tree.path}: {printable(top + name)}/ would be a class, but holds {_listed(splits)}{every}; "
                f"name the splits by {_SPLIT_FLAGS}, or put the class folders into train/ and test/; {NO_SPLITS}"
            )
    words = [{role_of(word) for word in words_of(name)} & set(SPLITS) for name in folders]
    if folders and all(words) and len(set.union(*words)) > 1:
        raise UserError(
            f"--input={tree.path}: {_listed(folders)} would be classes, but are called like splits; name the splits by "
            f"{_SPLIT_FLAGS}; {NO_SPLITS}"
        )
    shared = set.intersection(*map(set, inside.values())) if len(inside) > 1 else set()
    union = set().union(*inside.values())
    if len(shared) > 1 and 2 * len(shared) > len(union):
        raise UserError(
            f"--input={tree.path}: {_listed(folders)} would be classes, but all hold the same folders "
            f"({_listed(shared)}), as splits do; name the splits by {_SPLIT_FLAGS}; {NO_SPLITS}"
        )


def _flags(top: str, splits: Mapping[str, str]) -> str:
    return " ".join(_flag(role, top + name) for name, role in sorted(splits.items()) if role in SPLITS)


def _flag(split: str, folder: str) -> str:
    return f"--{split}_dir={shlex.quote(printable(folder))}"


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(f"{printable(name)}/" for name in names[:3]) + more
