"""Turns what a page says into one HTML file that needs nothing else: styles, scripts, charts and pictures are inside.

Templates are Jinja's, and escape every text. Charts are Vega-Lite's, which is inlined (`vendor/`); the page's policy
names the hashes of its scripts, so that nothing else runs, and forbids whatever could reach for the network. Without
scripts, and in print, each chart is the static SVG of the same numbers.
"""

import base64
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from tl_distributed.files import to_json_values

_FOLDER = pathlib.Path(__file__).parent
_SCRIPTS = ("vendor/vega.min.js", "vendor/vega-lite.min.js", "vendor/vega-embed.min.js", "page.js")


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure of the page.

    Attributes:
      name: Of the figure in the page, a word.
      caption: What it shows.
      specs: Vega-Lite, one for each panel; `data.columns` may hold `{name: [values]}` in place of rows.
      svg: The static figure of the same numbers.
      choices: What the horizontal axis may be, by the words to choose it with: its encoding.
      legend: Swatches of the series, by name.
    """

    name: str
    caption: str
    specs: tuple[dict[str, Any], ...]
    svg: str
    choices: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    legend: dict[str, Markup] = dataclasses.field(default_factory=dict)

    @property
    def json(self) -> Markup:
        """Specifications and choices, safe inside a script element."""
        content = {"specs": self.specs, "choices": self.choices}
        text = json.dumps(to_json_values(content), separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("<", "\\u003c"))

    @property
    def static(self) -> Markup:
        return Markup(self.svg)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it sorts by (the text where `None`), and whether it is a number."""

    text: str
    value: float | None = None
    numeric: bool = True
    swatch: Markup = Markup()  # noqa: RUF009 - immutable


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells by row; `header` has a text for each column, `note` is said below."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    title: str = ""


def words(text: str) -> Cell:
    """Returns the cell of a text, which stands left."""
    return Cell(text, numeric=False)


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """Returns the page as the bytes of an HTML file.

    Args:
      template: Name of a file of `templates/`.
      context: What the template names.
    """
    page = _environment().get_template(template).render(**context, **_inlined())
    return page.encode(errors="backslashreplace")  # names of files may hold what is no UTF-8


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _inlined() -> dict[str, Any]:
    """Returns styles, scripts and the policy that lets these scripts run and no others."""
    scripts = [(_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'"
    styles = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return {"policy": policy, "scripts": [Markup(script) for script in scripts], "styles": Markup(styles)}


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
