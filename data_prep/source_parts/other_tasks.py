"""Signs that files are answers of another task, masks or boxes: taken for classes or pictures, they ruin a data set.

A name alone is no sign, for a class may be called `masks`: the files must be named as those of the pictures are.
"""

import posixpath
import re
from collections.abc import Collection, Sequence

from data_prep.source_parts.picture_tree import PictureTree
from data_prep.source_parts.split_names import words_of
from tl_distributed.errors import UserError, printable

_PICTURE_WORD = re.compile(r"images?|imgs?|pictures?|pics?|photos?|jpe?gs?|rgb|inputs?|originals?|raw|left|bit")
_ANSWER_WORD = re.compile(
    r"(bit)?masks?|labels?|anno(t\w*)?|gt\w*|(ground)?truths?|seg(m\w*)?|trimaps?|matt?es?|superpixels?"
)
_PART = r"(?:masks?|labels?|labelids|seg(?:m\w*)?|gt|ground_?truth|annotations?|l|superpixels)"
_ANSWER_ENDING = re.compile(rf"(?<=.)[ _.-]{_PART}(?:[ _.-]?\d+)?$", re.IGNORECASE)
_PICTURE_ENDING = re.compile(r"(?<=.)[ _.-](?:images?|imgs?|sat|rgb|leftimg8bit)$", re.IGNORECASE)
_NAMED_AS_MASK = re.compile(
    r"(?P<stem>[^/])[ _-](?:mask|seg|segmentation|gt|ground_?truth|labelids|superpixels)s?(?:[ _-]?\d+)?"
    r"\.(?:png|bmp|gif|tiff?)$",  # what loses nothing
    re.IGNORECASE,
)
_LEAST_SHARE = 0.9  # of a folder's files, that are named as those of the pictures'
_LEAST_PAIRS = 2
_LEAST_SHARE_OF_MASKS = 0.1  # of all pictures, below which somebody has drawn a few


def refuse_masks(tree: PictureTree, roots: Collection[str]) -> None:
    """Raises `UserError` where masks of a segmentation set would be classes, or pictures of a class.

    Told are a folder beside one of pictures, e.g. `masks/` beside `images/`, whose pictures have the same names, and
    pictures such as `1_mask.png` beside `1.png`.

    Args:
      tree: Of the input.
      roots: Folders of which pictures are taken; "" takes all.
    """
    taken = tuple(roots)
    for parent in sorted(tree.parents()):
        if parent.startswith(taken):
            _refuse_folders(tree, parent)
    names = [name for name in tree.pictures if name.startswith(taken)]
    masks = _masks_beside_pictures(names)
    if len(masks) >= max(_LEAST_PAIRS, _LEAST_SHARE_OF_MASKS * len(names)):
        raise UserError(
            f"--input={tree.path}: {len(masks):,} pictures are named as masks of others beside them, the first "
            f"{printable(masks[0])}: a class would be learnt from them; leave them out of the input, or say which "
            "pictures are meant by --labels_csv=PATH"
        )


def annotations_in(tree: PictureTree, folder: str) -> str:
    """Returns what files of boxes or masks lie in a folder without pictures, e.g. `8 .xml`; "" where there are none."""
    inside = [name for name in tree.others if name.startswith(folder)]
    stems = {_stem(name) for name in tree.pictures}
    found = [name for name in inside if _stem(name) in stems]
    if len(found) < _LEAST_PAIRS or len(found) < _LEAST_SHARE * len(inside):
        return ""
    return f"{len(found):,} {posixpath.splitext(found[0])[1] or 'other'}".rstrip()


def _refuse_folders(tree: PictureTree, parent: str) -> None:
    folders = tree.folders_with_pictures(parent)
    words = {name: set(words_of(name)) for name in folders}
    for answers in folders:
        if not any(map(_ANSWER_WORD.fullmatch, words[answers])):
            continue
        for pictures in folders:
            of_answers, of_pictures = words[answers] - words[pictures], words[pictures] - words[answers]
            of_pictures = {word for word in of_pictures if not word.isdigit()}
            of_either = of_pictures and all(map(_PICTURE_WORD.fullmatch, of_pictures))
            is_pair = of_either and any(map(_ANSWER_WORD.fullmatch, of_answers))
            if is_pair and (count := _count_pairs(tree, f"{parent}{answers}/", f"{parent}{pictures}/")):
                raise UserError(
                    f"--input={tree.path}: {printable(parent + answers)}/ is no class: its {count:,} pictures are "
                    f"named as those of {printable(parent + pictures)}/, as masks of a segmentation set are; leave it "
                    "out of the input, name the folder of the class folders by --train_dir, or label pictures by "
                    "--labels_csv=PATH; if it is a class, rename it"
                )


def _count_pairs(tree: PictureTree, answers: str, pictures: str) -> int:
    """Returns how many files of `answers` are named as one of `pictures`, or 0 where too many are not."""
    names = {_PICTURE_ENDING.sub("", _stem(name)) for name in tree.pictures if name.startswith(pictures)}
    inside = [_stem(name) for name in tree.pictures if name.startswith(answers)]
    found = sum(stem in names or _ANSWER_ENDING.sub("", stem) in names for stem in inside)
    return found if found >= max(_LEAST_PAIRS, _LEAST_SHARE * len(inside)) else 0


def _masks_beside_pictures(names: Sequence[str]) -> list[str]:
    matches = [(name, match.end("stem")) for name in names if (match := _NAMED_AS_MASK.search(name))]
    if not matches:
        return []
    stems = {_PICTURE_ENDING.sub("", posixpath.splitext(name)[0]) for name in names}
    return [name for name, end in matches if name[:end] in stems]


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]
