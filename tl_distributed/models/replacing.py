"""Other methods for layers, for as long as a program is traced."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replaced_methods(name: str, methods: Mapping[Any, Callable]) -> Iterator[None]:
    """Gives layers another method called `name`, and puts back what they had, their class's or one of their own."""
    before = {layer: vars(layer).get(name) for layer in methods}
    try:
        for layer, method in methods.items():
            setattr(layer, name, method)
        yield
    finally:
        for layer, method in before.items():
            if method is None:
                delattr(layer, name)  # the class's own shows again
            else:
                setattr(layer, name, method)
