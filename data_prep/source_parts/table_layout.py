"""Labels by a table, `--labels_csv`: Kaggle's way, ImageNet's flat validation folder, exports of annotation tools."""

from collections import Counter
from collections.abc import Mapping

from data_prep.source_parts.containers import Container
from data_prep.source_parts.folder_layout import UNLABELLED, Grouped, group_split, root_of
from data_prep.source_parts.label_table import read_labels
from data_prep.source_parts.picture_index import PictureIndex
from data_prep.source_parts.picture_tree import PictureTree
from data_prep.source_parts.split_folders import unwrapped_splits
from data_prep.source_parts.tables import named
from tl_distributed.data.records import SPLITS
from tl_distributed.errors import UserError


def group_by_table(
    tree: PictureTree, roots: Mapping[str, str], table_path: str, container: Container, *, skip_missing: bool,
    multi_label: bool = False,
) -> Grouped:  # fmt: skip
    """Groups pictures by the labels of a table; a split of which it names no picture may lie in class folders.

    A picture's split is that of the table's column, or else of the split folder that it lies in, or else train.

    Args:
      tree: Of the input.
      roots: Of each split, its folder, where the input has split folders.
      table_path: Of the table.
      container: The input.
      skip_missing: Leave out and count lines whose picture is missing.
      multi_label: As `read_labels`: classes are then combinations of labels.

    Raises:
      UserError: As `read_labels`, and where no picture of train has a label.
    """
    of_root = {root: split for split, root in roots.items()}
    split_of = {name: of_root.get(root_of(name, roots)) for name in tree.pictures}
    index = PictureIndex(tree.pictures, split_of.get)
    table = read_labels(table_path, container, index, skip_missing=skip_missing, multi_label=multi_label)
    classes: dict[str, dict[str, list[str]]] = {}
    for name, label in table.labels.items():
        split = table.splits.get(name) or split_of[name] or "train"
        classes.setdefault(split, {}).setdefault(label, []).append(name)
    for split, root in unwrapped_splits(tree, roots).items():
        inside = [name for name in tree.pictures if split_of[name] == split]
        is_listed = any(name in table.labels for name in inside)
        if not is_listed and split not in classes and tree.folders_with_pictures(root):
            classes[split] = group_split(tree, inside, root, roots.values())
    if "train" not in classes:
        raise UserError(
            f"--labels_csv={table_path}: labels no picture of train; a column `split` or --train_dir says which are"
        )
    by = "its split column" if table.splits else "split folders" if roots else "it alone, so all is train"
    found = Grouped({split: classes[split] for split in SPLITS if split in classes}, "", Counter(), table.notes)
    found.told_by = f"labels by {table_path}, splits by {by}"
    _leave_out_the_rest(found, tree, split_of, table_path)
    return found


def _leave_out_the_rest(found: Grouped, tree: PictureTree, split_of: Mapping[str, str | None], table_path: str) -> None:
    used = {name for classes in found.classes.values() for names in classes.values() for name in names}
    rest = [name for name in tree.pictures if name not in used]
    of_test = [name for name in rest if split_of[name] == "test"]
    others = [name for name in rest if split_of[name] != "test"]
    if rest:
        found.left_out[UNLABELLED] += len(rest)
    if of_test:
        found.notes.append(f"{table_path}: left out {len(of_test):,} pictures of the test folder: it gives no labels")
    if others:
        found.notes.append(f"{table_path}: left out {len(others):,} pictures that it does not label: {named(others)}")
