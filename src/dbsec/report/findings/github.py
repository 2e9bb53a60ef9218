"""Findings as annotations of a GitHub workflow: they stand beside the line in the pull request."""

from __future__ import annotations

from dbsec.report.findings import Format, Results
from dbsec.report.findings.text import summary


def render(results: Results) -> str:
    """Write ``::error file=...,line=...,title=...::text`` a finding, and a plain line that counts.

    GitHub shows ten annotations of each level for a step; the log holds all of them.
    """
    lines = []
    for finding in results.findings:
        text = f"{finding.message}\n\nInstead:\n{finding.fix}" if finding.fix else finding.message
        title = f"{finding.code} {finding.name}"
        where = finding.where
        lines.append(_command(str(finding.severity), str(where.get("file", "")), where.get("line", 0), title, text))
    for unread in results.unread:
        text = f"{unread.reason}\n{unread.hint}".strip()
        lines.append(_command("error", unread.file, unread.line, "not read", text))
    return "\n".join([*lines, summary(results)]) + "\n"


def _command(level: str, file: str, line: str | int, title: str, text: str) -> str:
    place = {} if file in ("", "-") else {"file": file.removeprefix("./"), **({"line": line} if line else {})}
    named = ",".join(f"{name}={_property(str(value))}" for name, value in {**place, "title": title}.items())
    return f"::{level} {named}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


FORMAT = Format(render)
