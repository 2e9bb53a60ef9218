"""``report.md``: the whole report as GitHub-flavoured Markdown, for a repository or a ticket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dbsec.evidence import Outcome
from dbsec.report import exhibits, gfm, verdict
from dbsec.report.formats import Format
from dbsec.report.model import Chapter, ControlResult, DrillResult, Report, Seen


def render(report: Report) -> str:
    """Write headline, table, SLO impact, chapters and provenance, in the order of the page."""
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(report: Report) -> Iterator[str]:
    yield f"# {_badge(verdict.overall(report), word=False)} {gfm.text(verdict.headline(report))}"
    yield gfm.text(verdict.lead(report))
    if not report.integrity.intact:
        yield f"**This evidence does not verify.** {gfm.text(report.integrity.text)}."
    yield "## Risks and controls"
    yield "Each control was attacked before it was applied and again after. *Fail* means that the attack succeeded."
    yield _overview(report)
    if report.as_found:
        yield "Found, and not hardened in this run:"
        yield "\n".join(f"- {_badge(c.verdict)} {_sentence(c.title)}: {_sentence(c.risk)}" for c in report.as_found)
    if report.slo:
        yield "## SLO impact"
        for control in report.slo:
            yield from _control(control)
    for chapter in report.chapters:
        yield from _chapter(chapter)
    yield "## Provenance"
    yield gfm.table(("what", "value"), verdict.provenance(report))
    yield gfm.fence(verdict.HOW_TO_VERIFY, "sh")


def _overview(report: Report) -> str:
    columns = ("Control", "Risk", "Attack", "Before", "After", "References")
    head = gfm.table(columns, []).splitlines()
    rows = []
    for control in report.controls:
        attacks = "; ".join(_sentence(d.name) for d in control.attacks)
        note = " (not proven)" if control.verdict is Outcome.ERROR and control.after is Outcome.PASS else ""
        after = (_badge(control.after) if control.after else "not run") + note
        before = _badge(control.before) if control.before else "not attacked"
        refs = ", ".join(map(gfm.text, control.refs))
        rows.append(
            f"| {_sentence(control.title)} | {_sentence(control.risk)} | {attacks} | {before} | {after} | {refs} |"
        )
    return "\n".join([*head, *rows])


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield f"## {_sentence(chapter.title)}"
    yield gfm.text(". ".join(part for part in (chapter.summary.rstrip("."), verdict.tally(chapter)) if part) + ".")
    for control in chapter.controls:
        yield from _control(control)


def _control(control: ControlResult) -> Iterator[str]:
    yield f"### {_sentence(control.title)}"
    yield _sentence(control.risk)
    for drill in control.drills:
        yield from _drill(drill)


def _drill(drill: DrillResult) -> Iterator[str]:
    yield f"#### {_sentence(drill.name)}"
    yield "\n".join(f"- {verdict.WHEN[s.phase]}: **{_badge(s.judged)}** {_summary(s)}" for s in drill.seen)
    for seen in drill.seen:
        if seen.facts:
            facts = gfm.table(("fact", "value"), [(key, _fact(value)) for key, value in seen.facts.items()])
            yield f"<details><summary>{verdict.WHEN[seen.phase]}: what was seen</summary>\n\n{facts}\n\n</details>"
    for seen in drill.seen:
        for shape in seen.exhibits:
            yield f"**{_sentence(exhibits.title(shape))}** ({verdict.WHEN[seen.phase].lower()})"
            yield exhibits.markdown(shape)


def _summary(seen: Seen) -> str:
    return _sentence(f"{seen.summary}. {verdict.VACUOUS}" if seen.vacuous else seen.summary)


def _sentence(text: str) -> str:
    return gfm.text(verdict.sentence(text))


def _fact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _badge(outcome: Outcome, *, word: bool = True) -> str:
    return f"{verdict.SYMBOL[outcome]} {verdict.WORD[outcome]}" if word else verdict.SYMBOL[outcome]


FORMAT = Format("report.md", render)
