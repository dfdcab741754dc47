"""The beginnings of networks, for what depends on the kinds of their layers alone."""

from operator import attrgetter

import keras

from tl_distributed.models.backbones import BACKBONES, Backbone
from tl_distributed.models.build import build_backbone

PIXELS = 32
FAMILIES = {
    row.family: row for row in sorted(filter(attrgetter("family"), BACKBONES.values()), key=lambda row: -row.gmacs)
}  # the smallest of each


def whole_network(row: Backbone) -> keras.Model:
    """Returns a stock network without its top, of random weights, at the least size that it takes."""
    return build_backbone(row, image_size=max(PIXELS, row.minimum_size), weights="none")


def shortest(row: Backbone) -> keras.Model:
    """Returns the beginning of a network: so long that every kind of its layers is in it."""
    whole = whole_network(row)
    kinds, needed = {type(operation) for operation in whole.operations}, 0
    for kind in kinds:
        first = next(index for index, operation in enumerate(whole.operations) if type(operation) is kind)
        needed = max(needed, first)
    ends = (operation for operation in whole.operations[needed:] if len(operation.output.shape) == 4)
    return keras.Model(whole.input, next(ends).output, name=row.name)
