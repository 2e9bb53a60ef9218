"""``index.html``: one page that needs no network and no script; all text of the evidence is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import dbsec.report
from dbsec.evidence import Outcome
from dbsec.report import exhibits, markup, verdict
from dbsec.report.formats import Format
from dbsec.report.model import ControlResult, Report

_TEMPLATES = Path(dbsec.report.__path__[0]) / "templates"


def render(report: Report) -> str:
    """Fill ``templates/page.html.j2``; the style sheet beside it goes into the page."""
    page = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"day": day, "hour": hour, "fact": fact, "by_chapter": by_chapter, "sentence": verdict.sentence}
    page.filters |= {"exhibit": exhibits.html, "exhibit_title": exhibits.title}
    page.globals |= {"verdict": verdict, "Outcome": Outcome}
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of ours
    return page.get_template("page.html.j2").render(report=report, style=style)


def day(moment: str) -> str:
    """Write the day of an RFC 3339 moment: ``23 November 2026``; other text as it is."""
    parsed = _parsed(moment)
    return f"{parsed.day} {parsed:%B %Y}" if parsed else moment


def hour(moment: str) -> str:
    """Write the time of day of an RFC 3339 moment; other text as it is."""
    parsed = _parsed(moment)
    return f"{parsed:%H:%M:%S}" if parsed else moment


def fact(value: Any) -> str:
    """Write a fact: scalars bare, the rest as indented JSON."""
    nested = isinstance(value, Mapping | list)
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if nested else markup.shown(value)


def by_chapter(rows: Iterable[ControlResult]) -> Mapping[str, list[ControlResult]]:
    """Group the rows of the table by chapter, in the order of the run."""
    grouped: dict[str, list[ControlResult]] = {}
    for row in rows:
        grouped.setdefault(row.chapter, []).append(row)
    return grouped


def _parsed(moment: str) -> datetime | None:
    try:
        return datetime.fromisoformat(moment)
    except ValueError:
        return None


FORMAT = Format("index.html", render)
