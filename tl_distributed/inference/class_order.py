"""How the classes of a model and those of a data set differ: in their names, or in their order alone."""

from collections.abc import Sequence

import numpy as np

from tl_distributed.errors import printable


def why_other_classes(of_model: Sequence[str], of_data: Sequence[str]) -> str:
    """Returns what tells the names of the classes apart, in words; "" where they are the same, in whatever order."""
    lacking = [
        f"{printable(sorted(names)[0])!r} is of {whose} alone"
        for names, whose in ((set(of_model) - set(of_data), "the model"), (set(of_data) - set(of_model), "the data"))
        if names
    ]
    return ", ".join(lacking)


def why_other_order(of_model: Sequence[str], of_data: Sequence[str]) -> str:
    """Returns where the order of the same classes differs, in words; "" where it does not."""
    for label, (ours, theirs) in enumerate(zip(of_model, of_data, strict=True)):
        if ours != theirs:
            return f"label {label:,} is {printable(ours)!r} in the model, {printable(theirs)!r} in the data"
    return ""


def in_order_of_data(probabilities: np.ndarray, of_model: Sequence[str], of_data: Sequence[str]) -> np.ndarray:
    """Returns a model's `[n, num_classes]` with its columns in the order of a data set of the same classes.

    Args:
      probabilities: Of the model.
      of_model: Its classes in order of label; empty where they are unknown, and then taken to be in the same order.
      of_data: Those of the data set.
    """
    if not of_model or tuple(of_model) == tuple(of_data):
        return probabilities
    places = {name: column for column, name in enumerate(of_model)}
    return probabilities[:, [places[name] for name in of_data]]
