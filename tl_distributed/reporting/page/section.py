"""The parts of a page, whatever the page is of."""

import dataclasses

from markupsafe import Markup

from tl_distributed.reporting.page.render import Plot, Table


@dataclasses.dataclass(frozen=True)
class MatrixCell:
    """A cell: `strength` in [0, 1] of its colour, whose side is the sign of `value`; `told`: shown as significant."""

    text: str
    value: float
    strength: float
    told: bool
    hover: str


@dataclasses.dataclass(frozen=True)
class MatrixRow:
    """A row; `None` is an empty cell."""

    name: str
    swatch: Markup
    cells: tuple[MatrixCell | None, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A coloured table with names on both sides."""

    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    note: str


@dataclasses.dataclass(frozen=True)
class Item:
    """A picture of a gallery: data URL (empty where there is none), what is said of it, its name in the source."""

    image: str
    text: str
    id: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures under a title; `small`: of few pixels, shown as squares."""

    title: str
    items: tuple[Item, ...]
    note: str = ""
    small: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A folded part of a page; what it lacks is left out.

    Attributes:
      name: A word, by which the page's contents reach it.
      summary: Said beside the title while it is folded.
      commands: (title, text to copy).
      open: Whether it is unfolded from the start.
    """

    name: str
    title: str
    summary: str = ""
    sentences: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    matrix: Matrix | None = None
    commands: tuple[tuple[str, str], ...] = ()
    open: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.sentences or self.plots or self.tables or self.galleries or self.matrix or self.commands)


@dataclasses.dataclass(frozen=True)
class About:
    """How what is shown was made: (name, text) facts, (title, text) commands, and (name, target) links."""

    facts: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    links_title: str = ""
