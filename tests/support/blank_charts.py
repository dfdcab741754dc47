"""Charts of nothing: drawing real ones is a fifth of the time of tests that look at other things."""

import contextlib
import io
from collections.abc import Callable, Iterator

import pytest
from matplotlib.figure import Figure
from PIL import Image

from tl_distributed.reporting import drawing

_drawn = drawing._saved


def blank_charts() -> contextlib.AbstractContextManager[None]:
    """Until it ends, this process draws no chart; files that hold charts are written all the same."""
    return _charts_by(_blank)


def real_charts() -> contextlib.AbstractContextManager[None]:
    """Until it ends, charts are drawn also in a file whose charts are blank."""
    return _charts_by(_drawn)


@contextlib.contextmanager
def _charts_by(save: Callable[..., bytes]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_saved", save)
        yield


def _blank(figure: Figure, *, format: str, **_: object) -> bytes:
    if format == "svg":
        return b"<svg ></svg>"
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, format=format)
    return buffer.getvalue()
