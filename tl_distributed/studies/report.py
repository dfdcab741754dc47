"""Writes the report of a study: report.html, report.md, results.csv and plots/*.png."""

import base64
import html
from collections.abc import Sequence

import tensorflow as tf

from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.files import write_file
from tl_distributed.reporting.drawing import Style, figure_png, series_styles
from tl_distributed.studies.collect import Record, load_records, results_csv
from tl_distributed.studies.content import Section, Table, make_sections
from tl_distributed.studies.figures import DARK, LIGHT, Figures
from tl_distributed.studies.plan import Plan

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #5b6570; --line: #d8dde3; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181d; --ink: #e6e9ec; --soft: #a3adb8; --line: #343c46; }
}
body { background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  max-width: 68rem; margin: 0 auto; padding: 1.5rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.2rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.35rem 0.8rem 0.35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; } td:not(:last-child) { white-space: nowrap; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 0.15em; margin-right: 0.45em; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: var(--soft); }
"""


def write_report(plan: Plan, info: DatasetInfo, *, data_dir: str, workdir: str) -> list[Record]:
    """Reads the runs that are there and writes the report; returns their records.

    Raises:
      UserError: No run is done.
    """
    records = load_records(plan, workdir)
    write_file(f"{workdir}/results.csv", results_csv(records).encode())
    if not any(record.status == "done" for record in records):
        failures = [f"{record.run}: {record.reason}" for record in records if record.reason]
        reason = f"all failed, the first: {failures[0]}" if failures else "nothing has been run"
        raise UserError(f"{workdir}: no run to report on ({reason})")
    sections = make_sections(plan, records, info, data_dir)
    styles = series_styles([arm.name for arm in plan.arms])
    pictures = {
        theme.name: _draw(sections, Figures(styles, info.class_names, theme)) for theme in (LIGHT, DARK)
    }  # fmt: skip
    tf.io.gfile.makedirs(f"{workdir}/plots")
    for name, content in pictures[LIGHT.name].items():
        write_file(f"{workdir}/plots/{name}.png", content)
    title = f"Study of {len(plan.arms)} ways of training"
    write_file(f"{workdir}/report.md", to_markdown(title, sections).encode())
    write_file(f"{workdir}/report.html", to_html(title, sections, styles, pictures).encode())
    return records


def _draw(sections: Sequence[Section], figures: Figures) -> dict[str, bytes]:
    return {picture.name: figure_png(picture.draw(figures)) for section in sections for picture in section.pictures}


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Returns the report as Markdown; its pictures are those of `plots/`."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [f"- {_plain(sentence)}" for sentence in section.sentences] + [""] * bool(section.sentences)
        if section.table:
            rows = [section.table.header, ("---",) * len(section.table.header), *section.table.rows]
            lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows] + [""]
        for picture in section.pictures:
            lines += [f"![{_plain(picture.caption)}](plots/{picture.name}.png)", "", _plain(picture.caption), ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Keeps a text in its cell or line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def to_html(
    title: str, sections: Sequence[Section], styles: dict[str, Style], pictures: dict[str, dict[str, bytes]]
) -> str:
    """Returns one file that needs nothing else: styles and pictures, for light and dark, are inside.

    Args:
      title: Heading.
      sections: The report.
      styles: Of the arms, by name.
      pictures: PNG files by name of the theme, then by name of the picture.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<section><h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(sentence)}</p>" for sentence in section.sentences]
        if section.table:
            body.append(_html_table(section.table, styles))
        for picture in section.pictures:
            dark, light = (_data_url(pictures[theme.name][picture.name]) for theme in (DARK, LIGHT))
            caption = html.escape(picture.caption)
            body.append(
                f'<figure id="{html.escape(picture.name)}"><picture>'
                f'<source media="(prefers-color-scheme: dark)" srcset="{dark}"><img src="{light}" alt="{caption}">'
                f"</picture><figcaption>{caption}</figcaption></figure>"
            )
        body.append("</section>")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_table(table: Table, styles: dict[str, Style]) -> str:
    rows = [
        "<tr>" + "".join(f"<td>{_swatch(cell, styles) if not index else ''}{html.escape(cell)}</td>"
                         for index, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    ]  # fmt: skip
    header = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    return f'<div class="table"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _swatch(name: str, styles: dict[str, Style]) -> str:
    return f'<span class="swatch" style="background: {styles[name].color}"></span>' if name in styles else ""


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
