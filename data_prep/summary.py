"""What a build understood, in a screenful and in `dataset.json`: splits, classes, sizes, duplicates, the left out."""

from typing import Any

from data_prep import duplicates
from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import printable

_TOO_LARGE = 2.0  # times the stored side, from which on a picture loses what a larger image_size would keep
_MOST_LEFT_OUT = 6


def summarise(info: DatasetInfo) -> dict[str, Any]:
    """Returns the summary of a data set as JSON values.

    `splits` are numbers of images; `most` and `least` are the largest and smallest class of train; `stored_bytes`
    counts the shards; `picture_sizes` are [width, height] in pixels of the source's pictures, where it tells them.
    """
    train = info.splits["train"].counts_per_class
    ranked = sorted(train, key=lambda name: (-train[name], name))
    source = info.details["source"]
    return {
        "splits_told_by": source.get("splits_told_by", "the source"),
        "validation": info.details["val"],
        **({"test": info.details["test"]} if "test" in info.details else {}),
        "splits": {name: split.num_examples for name, split in info.splits.items()},
        "classes": info.num_classes,
        "most": [ranked[0], train[ranked[0]]],
        "least": [ranked[-1], train[ranked[-1]]],
        "picture_sizes": source.get("picture_sizes", {}),
        "storage": info.storage,
        "stored_size": list(info.image_shape[:2]),
        "stored_bytes": sum(shard.num_bytes for split in info.splits.values() for shard in split.shards),
        "left_out": source.get("left_out", {}),
        "unreadable": source.get("unreadable", 0),
        "dropped_duplicates": info.details["dropped_duplicates"],
        "dropped_of_groups": info.details["dropped_of_groups"],
        "contradictions": info.details["contradictions"]["pictures"],
    }


def text(info: DatasetInfo) -> str:
    """Returns the summary for the terminal."""
    found = info.details["summary"]
    shares = f"validation is {found['validation']}"
    if "test" in found:
        both = found["test"] == found["validation"]
        shares = f"validation and test are each {found['test']}" if both else f"{shares}; test is {found['test']}"
    lines = [
        f"splits     {printable(found['splits_told_by'])}; {shares}",
        f"classes    {found['classes']:,}; most images: {_class(found['most'])}, least: {_class(found['least'])}",
        f"stored     {_stored(found)}, {found['stored_bytes'] / 1e6:,.1f} MB in all",
    ]
    if found["picture_sizes"]:
        sizes = {name: _size(size) for name, size in found["picture_sizes"].items()}
        lines.append(f"pictures   {sizes['median']} (median width x height), {sizes['smallest']} to {sizes['largest']}")
    left_out = [f"{count:,} {kind}" for kind, count in found["left_out"].items()]
    left_out += [f"{found['unreadable']:,} unreadable"] if found["unreadable"] else []
    if left_out:
        more = f" and {len(left_out) - _MOST_LEFT_OUT} other kinds" if len(left_out) > _MOST_LEFT_OUT else ""
        lines.append(f"left out   {', '.join(left_out[:_MOST_LEFT_OUT])}{more}")
    for key, why in (("dropped_duplicates", "the same picture is in"), ("dropped_of_groups", "their group is in")):
        for pair, count in found[key].items():
            dropped, kept = pair.split("/")
            lines.append(f"dropped    {count:,} images of {dropped}: {why} {kept} too")
    lines += [f"duplicates {line}" for line in duplicates.lines(info.details)]
    return "\n".join([*lines, *too_small(found)])


def too_small(found: dict[str, Any]) -> list[str]:
    """Returns a line where most pictures are more than twice as large as what is stored."""
    if (
        found["storage"] == "original"
        or not found["picture_sizes"]
        or min(found["picture_sizes"]["median"]) <= _TOO_LARGE * max(found["stored_size"])
    ):
        return []
    return [
        f"note       most pictures are more than twice as large as the {_size(found['stored_size'])} pixels that are "
        "stored; --image_size=224 (or what the backbone takes) keeps more of them"
    ]


def _stored(found: dict[str, Any]) -> str:
    if found["storage"] == "pixels":
        return f"{_size(found['stored_size'])} pixels an image"
    if found["storage"] == "jpeg":
        return f"JPEG, the shorter side at most {found['stored_size'][0]:,} pixels"
    return "files as they were"


def _size(pair: list[int]) -> str:
    return f"{pair[0]:,} x {pair[1]:,}"


def _class(pair: list[Any]) -> str:
    return f"{pair[0]} ({pair[1]:,})"
