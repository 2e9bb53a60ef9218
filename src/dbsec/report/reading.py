"""From evidence lines to the model: groups by control, drill and chapter; what is misshapen is shown, never a crash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any, TypeVar

from dbsec.evidence import Outcome, Phase, worst
from dbsec.report.model import Chapter, ControlResult, DrillResult, Integrity, Origin, Report, Seen, Totals

Line = Mapping[str, Any]
E = TypeVar("E", Phase, Outcome)
_ORDER = (Phase.BASELINE, Phase.BEFORE, Phase.DURING, Phase.AFTER)


def report_of(lines: Sequence[Line], integrity: Integrity) -> Report:
    """Build the model; a value of the wrong type becomes text, a chapter without its line has its name as title."""
    seen = tuple(_seen(number, line) for number, line in enumerate(lines, 1) if line.get("kind") == "observation")
    anchors = _anchors("control", (s.control for s in seen))
    rows = _controls(seen, anchors)
    acted = tuple(row for row in rows if row.hardened)
    slo = {s.control for s in seen if _is_slo(s)}
    chapters = _chapters(lines, seen, anchors, slo)
    emptied = {s.chapter for s in seen} - {s.chapter for s in seen if s.control not in slo}
    return Report(
        _totals(acted),
        acted,
        tuple(row for row in rows if not row.hardened and row.verdict in (Outcome.FAIL, Outcome.ERROR)),
        tuple(row for row in rows if row.id in slo),
        tuple(chapter for chapter in chapters if chapter.name not in emptied),
        {chapter.name: chapter.title for chapter in chapters},
        _origin(lines),
        integrity,
    )


def _seen(number: int, line: Line) -> Seen:
    facts, exhibits, seconds = line.get("facts"), line.get("exhibits"), line.get("seconds")
    refs = line.get("refs")
    return Seen(
        number,
        _text(line, "chapter"),
        _text(line, "control"),
        _text(line, "title") or _text(line, "control"),
        _text(line, "risk"),
        tuple(map(str, refs)) if isinstance(refs, list) else (),
        _text(line, "drill"),
        _member(Phase, line.get("phase"), Phase.DURING),
        _member(Outcome, line.get("outcome"), Outcome.ERROR),
        _text(line, "summary"),
        facts if isinstance(facts, Mapping) else {"facts": facts} if facts else {},
        tuple(e for e in exhibits if isinstance(e, Mapping)) if isinstance(exhibits, list) else (),
        _text(line, "started_at"),
        float(seconds) if isinstance(seconds, int | float) else 0.0,
    )


def _text(line: Line, key: str) -> str:
    value = line.get(key)
    return "" if value is None else str(value)


def _member(kind: type[E], value: object, otherwise: E) -> E:
    try:
        return kind(str(value))
    except ValueError:
        return otherwise


def _is_slo(seen: Seen) -> bool:
    return seen.control.lower().startswith("slo") or any(e.get("type") == "latency" for e in seen.exhibits)


def _controls(seen: Iterable[Seen], anchors: Mapping[str, str]) -> tuple[ControlResult, ...]:
    grouped: dict[str, list[Seen]] = {}
    for one in seen:
        grouped.setdefault(one.control, []).append(one)
    return tuple(_control(lines, anchors[name]) for name, lines in grouped.items())


def _control(seen: Sequence[Seen], anchor: str) -> ControlResult:
    first = next((s for s in seen if s.phase is not Phase.BASELINE), seen[0])
    drills = _drills(seen)
    proofs = [d for d in drills if not d.only_looked] or drills
    before = [s.judged for s in seen if s.phase is Phase.BEFORE]
    before = before or [s.outcome for s in seen if s.phase is Phase.BASELINE]
    after = [s.outcome for s in seen if s.phase in (Phase.DURING, Phase.AFTER)]
    return ControlResult(
        first.control,
        first.title,
        first.risk,
        tuple(dict.fromkeys(ref for s in seen for ref in s.refs)),
        first.chapter,
        anchor,
        drills,
        worst(before) if before else None,
        worst(after) if after else None,
        worst(d.verdict for d in proofs),
    )


def _drills(seen: Iterable[Seen]) -> tuple[DrillResult, ...]:
    grouped: dict[str, list[Seen]] = {}
    for one in seen:
        grouped.setdefault(one.drill, []).append(one)
    return tuple(
        DrillResult(name, tuple(sorted(lines, key=lambda s: _ORDER.index(s.phase)))) for name, lines in grouped.items()
    )


def _totals(rows: Sequence[ControlResult]) -> Totals:
    verdicts = Counter(row.verdict for row in rows)
    drills = [drill for row in rows for drill in row.drills]
    succeeded = [d for d in drills if d.outcome(Phase.BEFORE) is Outcome.FAIL]
    return Totals(
        controls=len(rows) - verdicts[Outcome.SKIP],
        held=verdicts[Outcome.PASS],
        failed=verdicts[Outcome.FAIL],
        unproven=verdicts[Outcome.ERROR],
        skipped=verdicts[Outcome.SKIP],
        attacks_before=len(succeeded),
        attacks_refused=sum(d.outcome(Phase.AFTER) is Outcome.PASS for d in succeeded),
        attacks_after=sum(d.outcome(Phase.AFTER) is Outcome.FAIL for d in drills),
        vacuous=sum(d.vacuous for d in drills),
    )


def _chapters(
    lines: Iterable[Line], seen: Iterable[Seen], anchors: Mapping[str, str], slo: set[str]
) -> tuple[Chapter, ...]:
    opened = {_text(line, "chapter"): line for line in lines if line.get("kind") == "chapter"}
    grouped: dict[str, list[Seen]] = {name: [] for name in opened}
    for one in seen:
        grouped.setdefault(one.chapter, []).append(one)
    names, shown = _anchors("chapter", grouped), set[str]()
    chapters = []
    for name, inside in grouped.items():
        here = [s for s in inside if s.control not in slo]
        # A control that comes back in a later chapter keeps its anchor where it was first shown.
        unique = {c: f"{a}-{names[name]}" if c in shown else a for c, a in anchors.items()}
        shown.update(s.control for s in here)
        head = opened.get(name, {})
        title = _text(head, "title") or name or "Without a chapter"
        chapters.append(Chapter(name, title, _text(head, "summary"), names[name], _controls(here, unique)))
    return tuple(chapters)


def _anchors(kind: str, names: Iterable[str]) -> dict[str, str]:
    anchors: dict[str, str] = {}
    for name in dict.fromkeys(names):
        slug = f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'x'}"
        tries = chain([slug], (f"{slug}-{number}" for number in count(2)))
        anchors[name] = next(t for t in tries if t not in anchors.values())
    return anchors


def _origin(lines: Sequence[Line]) -> Origin:
    def distinct(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for line in lines if (text := _text(line, key))))

    targets = [line["target"] for line in lines if isinstance(line.get("target"), Mapping) and line["target"]]
    moments = [t for line in lines if (t := _text(line, "started_at") or _text(line, "sealed_at"))]
    return Origin(
        actor=distinct("actor"),
        host=distinct("host"),
        dbsec=distinct("dbsec"),
        revision=distinct("revision"),
        config_digest=distinct("config_digest"),
        ticket=distinct("ticket"),
        target=targets[-1] if targets else {},
        started_at=min(moments, default=""),
        ended_at=max(moments, default=""),
        lines=len(lines),
        head=_text(lines[-1], "head") or _text(lines[-1], "hash") if lines else "",
    )
