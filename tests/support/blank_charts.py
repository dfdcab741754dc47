"""Charts of nothing: drawing real ones is a fifth of the time of tests that look at other things."""

import contextlib
import io
from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure
from PIL import Image


@contextlib.contextmanager
def blank_charts() -> Iterator[None]:
    """Until it ends, this process draws no chart; files that hold charts are written all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tl_distributed.reporting.drawing._saved", _blank)
        yield


def _blank(figure: Figure, *, format: str, **_: object) -> bytes:
    if format == "svg":
        return b"<svg ></svg>"
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, format=format)
    return buffer.getvalue()
