"""Writes the report of a study: report.html, report.md, results.csv and plots/*.png."""

from collections.abc import Iterator

import tensorflow as tf

from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import UserError
from tl_distributed.files import write_file
from tl_distributed.reporting.page.render import Plot, Table, render
from tl_distributed.reporting.page.section import Section
from tl_distributed.reporting.pictures import read_test_pictures
from tl_distributed.studies.collect import Record, load_records, results_csv
from tl_distributed.studies.content import Report, make_report
from tl_distributed.studies.plan import Plan


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
    report = make_report(
        plan, records, info, data_dir=data_dir, workdir=workdir,
        read=lambda places: read_test_pictures(data_dir, info, places),
    )  # fmt: skip
    tf.io.gfile.makedirs(f"{workdir}/plots")
    for name, content in report.pictures.items():
        write_file(f"{workdir}/plots/{name}.png", content)
    write_file(f"{workdir}/report.md", to_markdown(report).encode(errors="backslashreplace"))
    write_file(f"{workdir}/report.html", to_html(report))
    return records


def to_html(report: Report) -> bytes:
    """Returns one file that needs nothing else."""
    return render("study.html.j2", {
        "title": report.title, "finding": report.finding, "warnings": report.warnings, "ranking": report.ranking,
        "accuracy": report.accuracy, "sections": report.sections, "about": report.about,
    })  # fmt: skip


def to_markdown(report: Report) -> str:
    """Returns the report as Markdown; its pictures are those of `plots/`."""
    lines = [f"# {_plain(report.title)}", "", f"**{_plain(report.finding)}**", ""]
    lines += [f"- {_plain(sentence)}" for sentence in report.warnings] + [""] * bool(report.warnings)
    lines += [*_table_lines(report.ranking), *_plot_lines(report.accuracy)]
    for section in report.sections:
        lines += [f"## {section.title}", "", *_section_lines(section, report)]
    lines += ["## How it was made", "", *(f"- {name}: {_plain(text)}" for name, text in report.about.facts), ""]
    for title, command in report.about.commands:
        lines += [f"{title}:", "", f"    {command}", ""]
    return "\n".join(lines)


def _section_lines(section: Section, report: Report) -> Iterator[str]:
    if section.sentences:
        yield from (f"- {_plain(sentence)}" for sentence in section.sentences)
        yield ""
    if section.matrix:
        rows = [[row.name, *(_bold(cell.text, cell.told) if cell else "" for cell in row.cells)]
                for row in section.matrix.rows]  # fmt: skip
        yield from _rows(["", *section.matrix.columns], rows)
        yield from (section.matrix.note, "")
    for plot in section.plots:
        if plot.name in report.pictures:
            yield from _plot_lines(plot)
    for table in section.tables:
        yield from _table_lines(table)
    for gallery in section.galleries:
        yield from (f"{_plain(gallery.title)}:", "")
        yield from (f"- {_plain(item.id)}: {_plain(item.text)}" for item in gallery.items)
        yield ""


def _bold(text: str, told: bool) -> str:
    return f"**{text}**" if told else text


def _plot_lines(plot: Plot) -> list[str]:
    return [f"![{_plain(plot.caption)}](plots/{plot.name}.png)", "", _plain(plot.caption), ""]


def _table_lines(table: Table) -> list[str]:
    lines = _rows(table.header, [[cell.text for cell in row] for row in table.rows])
    return [*lines, *([_plain(table.note), ""] if table.note else [])]


def _rows(header: list[str] | tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(map(_plain, row)) + " |" for row in [header, ["---"] * len(header), *rows]] + [""]


def _plain(text: str) -> str:
    """Keeps a text in its cell or line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
