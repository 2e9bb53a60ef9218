"""Findings for a person: by file, each with its statement, why it harms, and what to run instead."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from dbsec.findings import Finding, Severity
from dbsec.report.findings import Format, Results

_WIDTH = 116


def render(results: Results) -> str:
    """Write ``file:line: severity CODE name: message`` and what belongs to it; the last line counts."""
    explained: set[str] = set()
    paragraphs = []
    for finding in _by_file(results):
        first = finding.code not in explained
        explained.add(finding.code)
        paragraphs.append("\n".join(_finding(finding, results, explain=first)))
    return "\n\n".join([*paragraphs, *results.notes, summary(results)]) + "\n"


def summary(results: Results) -> str:
    """Write the line that counts: ``2 errors, 1 warning in 3 files, 12 statements; 1 waived``."""
    judged = ", ".join(_counted(number, name.removesuffix("s")) for name, number in results.counts.items())
    told = [_counted(results.number(severity), severity) for severity in Severity if results.number(severity)]
    line = (", ".join(told) or "no findings") + (f" in {judged}" if judged else "")
    aside = (
        (len(results.waived), "waived"),
        (results.baseline, "in the baseline"),
        (len(results.unread), "not read"),
    )
    return "; ".join([line, *(f"{number:,} {what}" for number, what in aside if number)])


def _by_file(results: Results) -> list[Finding]:
    """Order by file as they came, and by line in it."""
    order = {file: at for at, file in enumerate(dict.fromkeys(f.where.get("file", "") for f in results.findings))}
    return sorted(results.findings, key=lambda f: (order[f.where.get("file", "")], f.where.get("line", 0)))


def _finding(finding: Finding, results: Results, *, explain: bool) -> Iterator[str]:
    place = ":".join(str(finding.where[name]) for name in ("file", "line") if finding.where.get(name))
    yield f"{place or finding.target}: {finding.severity} {finding.code} {finding.name}: {_line(finding.message)}"
    if statement := str(finding.where.get("statement", "")).strip():
        first, _, rest = statement.partition("\n")
        yield f"    {first.strip()}{' …' if rest else ''}"
    words = results.words.get(finding.code)
    if explain and words and words.effect:
        yield from textwrap.wrap(f"why: {words.effect}", _WIDTH, initial_indent="    ", subsequent_indent="      ")
    if finding.fix:
        yield "    instead:"
        yield textwrap.indent(finding.fix.strip(), "        ")
    elif explain and words and words.instead:
        yield from textwrap.wrap(f"instead: {words.instead}", _WIDTH, initial_indent="    ", subsequent_indent="      ")


def _line(text: str) -> str:
    return " ".join(text.split())


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


FORMAT = Format(render)
