"""Findings, and the two forms of the report: aligned plain text, and JSON."""

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

FACT, OK, WARNING, FAILED, NOT_RUN = "", "ok", "warning", "FAILED", "not run"
_STATUS_WIDTH = max(map(len, (OK, WARNING, FAILED, NOT_RUN)))
_TEXT_WIDTH = 120
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of https://user:password@host


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
      topic: Heading under which it stands.
      name: What was looked at.
      value: What was found, in one line.
      status: Empty for a plain fact, else `OK`, `WARNING`, `FAILED` (training would fail) or `NOT_RUN`.
      remedy: What to do about it, in one line; empty where there is nothing to do.
      data: The numbers behind `value`, JSON values.
      detail: Further lines, such as a traceback.
    """

    topic: str
    name: str
    value: str
    status: str = FACT
    remedy: str = ""
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    detail: tuple[str, ...] = ()


def training_would_fail(findings: Iterable[Finding]) -> bool:
    return any(finding.status == FAILED for finding in findings)


def as_text(findings: Sequence[Finding], title: str) -> str:
    """Returns the report as lines of printable characters, grouped by topic in order of appearance."""
    topics: dict[str, list[Finding]] = {}
    for finding in findings:
        topics.setdefault(finding.topic, []).append(finding)
    name_width = max((len(finding.name) for finding in findings), default=0)
    lines = [printable(title)]
    for topic, group in topics.items():
        lines += ["", topic]
        for finding in group:
            lines += _lines_of(finding, name_width)
    return "\n".join([*lines, "", verdict(findings)])


def _lines_of(finding: Finding, name_width: int) -> list[str]:
    head = f"  {finding.status:{_STATUS_WIDTH}}  {printable(finding.name):{name_width}}  "
    indent = " " * len(head)

    def wrapped(text: str, first: str) -> list[str]:
        return textwrap.wrap(
            printable(text), _TEXT_WIDTH, initial_indent=first, subsequent_indent=indent,
            break_on_hyphens=False, break_long_words=False,  # a path can be copied
        ) or [first.rstrip()]  # fmt: skip

    lines = wrapped(finding.value, head)
    if finding.remedy:
        lines += wrapped(finding.remedy, f"{indent}do: ")
    return lines + [f"{indent}| {printable(line)}" for line in finding.detail]


def verdict(findings: Iterable[Finding]) -> str:
    """Returns the last line: how many checks went wrong, and what that means."""
    statuses = [finding.status for finding in findings]
    failed, warnings = statuses.count(FAILED), statuses.count(WARNING)
    counted = f"{failed} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}"
    return f"{counted}: training would {'fail' if failed else 'run'}."


def as_json(findings: Sequence[Finding], title: str) -> dict[str, Any]:
    """Returns the report in JSON types."""
    return _without_credentials({
        "title": title,
        "training_would_fail": training_would_fail(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    })  # fmt: skip


def _without_credentials(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_credentials(item) for item in value]
    return _CREDENTIALS.sub("...", value) if isinstance(value, str) else value


def printable(text: str) -> str:
    """Returns one line without control characters, and without the credentials of addresses."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return _CREDENTIALS.sub("...", text).rstrip()
