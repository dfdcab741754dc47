"""Which file belongs to which split and class, told by paths alone."""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Collection

from data_prep.source_parts.containers import Container
from tl_distributed.data.decode import EXTENSIONS, FORMATS_IN_WORDS
from tl_distributed.errors import UserError

_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SYSTEM_FOLDERS = ("__MACOSX",)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a container.

    Attributes:
      class_names: Sorted; those of train.
      files: Of each split, the class index of every image by its path.
      ignored: Files that are no images by their extension, by extension; hidden and system files are not counted.
      has_split_folders: False for a layout of `<class>/*` alone, all of which is train.
    """

    class_names: tuple[str, ...]
    files: dict[str, dict[str, int]]
    ignored: dict[str, int]
    has_split_folders: bool


def find_layout(container: Container) -> Layout:
    """Recognises `train/<class>/**` with optional `val/` and `test/`, or `<class>/**`; one folder may wrap it all.

    Raises:
      UserError: No images, an image in no class folder, a class folder without an image, a class of val or
        test that train lacks, or two folders for one split.
    """
    images = [name for name in container.files if _is_visible(name) and name.lower().endswith(EXTENSIONS)]
    others = [name for name in container.files if _is_visible(name) and not name.lower().endswith(EXTENSIONS)]
    ignored = Counter(posixpath.splitext(name)[1].lower() or "no extension" for name in others)
    if not images:
        raise UserError(f"--input={container.path}: no {FORMATS_IN_WORDS} files there")
    folders = [name for name in container.folders if _is_visible(name)]
    folders += {parent for name in images for parent in _parents(name)}
    prefix = _wrapping_folder(images, folders)
    tops = {name[len(prefix) :].split("/")[0] for name in folders if name.startswith(prefix)}
    split_folders = _split_folders(tops, container.path)
    if "train" in split_folders:
        roots = {split: f"{prefix}{folder}/" for split, folder in split_folders.items()}
    elif split_folders:
        raise UserError(f"--input={container.path}: holds {min(split_folders.values())}/ but no train/")
    else:
        roots = {"train": prefix}
    by_class = {split: _group_by_class(images, folders, root, container.path) for split, root in roots.items()}
    class_names = tuple(sorted(by_class["train"]))
    files = {split: _label(groups, split, class_names, container.path) for split, groups in by_class.items()}
    unused = len(images) - sum(map(len, files.values()))
    if unused:
        ignored[f"images outside {', '.join(roots[split][len(prefix) :] for split in roots)}"] = unused
    return Layout(class_names, files, dict(sorted(ignored.items())), bool(split_folders))


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") or part in _SYSTEM_FOLDERS for part in name.split("/") if part != ".")


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _wrapping_folder(images: list[str], folders: Collection[str]) -> str:
    """Returns `top/` if the data set lies in one folder of the container, else an empty string."""
    tops = {name.split("/")[0] for name in [*images, *folders]}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    is_wrapper = top not in _SPLIT_FOLDERS and all(name.count("/") >= 2 for name in images)
    return f"{top}/" if is_wrapper else ""


def _split_folders(tops: Collection[str], path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in sorted(tops):
        split = _SPLIT_FOLDERS.get(folder)
        if split in found:
            raise UserError(f"--input={path}: {found[split]}/ and {folder}/ would both be the split {split}; keep one")
        if split:
            found[split] = folder
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _group_by_class(images: list[str], folders: Collection[str], root: str, path: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in images:
        if not name.startswith(root):
            continue
        class_name, slash, _ = name[len(root) :].partition("/")
        if not slash:
            raise UserError(f"--input={path}: {name} lies in no class folder; images belong in {root}<class>/")
        groups.setdefault(class_name, []).append(name)
    for folder in sorted(folders):
        class_name = folder[len(root) :] if folder.startswith(root) else ""
        if class_name and "/" not in class_name and class_name not in groups:
            raise UserError(f"--input={path}: class folder {folder}/ is empty: no image in it; remove it or fill it")
    return groups


def _label(groups: dict[str, list[str]], split: str, class_names: tuple[str, ...], path: str) -> dict[str, int]:
    index = {name: number for number, name in enumerate(class_names)}
    unknown = sorted(set(groups) - set(index))
    if unknown:
        raise UserError(
            f"--input={path}: class {unknown[0]!r} of {split} has no folder in train: nothing could learn it"
        )
    return {name: index[class_name] for class_name, names in groups.items() for name in names}
