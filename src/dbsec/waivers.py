"""Waivers: a finding that is accepted for a reason until a day, in ``dbsec-waivers.toml`` or in a comment beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from dbsec.errors import ConfigError, reason
from dbsec.findings import Finding, Severity

FILE = "dbsec-waivers.toml"
EXAMPLE = "dbsec: allow MIG101 app.users until 2027-01-31 because the table has 200 rows"
_FIELDS = ("code", "object", "owner", "reason", "expiry")
_INLINE = re.compile(
    r"""dbsec:\s*allow\b \s*
        (?P<code>(?!until\b|because\b)\S+)? \s*
        (?P<object>.*?) \s*
        (?:\buntil\b\s*(?P<expiry>\S*))? \s*
        (?:\bbecause\b\s*(?P<reason>.*))? \s*\Z""",
    re.VERBOSE | re.DOTALL,
)


class MalformedWaiver(ValueError):
    """What a waiver lacks, or what it says that cannot be meant."""


@dataclass(frozen=True, slots=True)
class Waiver:
    """``code`` is a rule's code or name. ``target`` covers what stands in it: ``app.users`` covers ``app.users.phone``;
    "" covers every object. ``expiry`` is the last day on which it holds. ``where`` tells where it is written."""

    code: str
    target: str
    reason: str
    expiry: date
    owner: str = ""
    where: Mapping[str, str | int] = field(default_factory=dict)

    def covers(self, finding: Finding) -> bool:
        """Tell whether code and object are the finding's; the day is not looked at."""
        return self.code in (finding.code, finding.name) and (not self.target or _within(finding.target, self.target))

    def holds(self, today: date) -> bool:
        """Tell whether its last day has not passed."""
        return today <= self.expiry


@dataclass(frozen=True, slots=True)
class Applied:
    """``kept``: not waived. ``waived``: each with its waiver. ``own``: findings on the waivers themselves."""

    kept: list[Finding]
    waived: list[tuple[Finding, Waiver]]
    own: list[Finding]


def inline(comment: str, where: Mapping[str, str | int]) -> Waiver | None:
    """Read ``dbsec: allow CODE [OBJECT] until YYYY-MM-DD because REASON`` from a comment without its marks.

    None where the comment is no such thing. Errors: ``MalformedWaiver``.
    """
    text = comment.strip()
    if (match := _INLINE.match(text)) is None:
        return None
    return _waiver({**match.groupdict(default=""), "object": match["object"]}, where)


def load(path: Path) -> list[Waiver]:
    """Read a waiver file: ``[[waiver]]`` tables with code, object, owner, reason, expiry (a TOML date).

    Errors: ``ConfigError`` with the file, the number of the table and what it lacks.
    """
    import tomllib

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint=f"ls -l {path}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"'{path}' is not TOML: {reason(exc)}", hint=f"see line and column in {path}") from exc
    entries = tables.pop("waiver", [])
    if tables or not isinstance(entries, list):
        name = next(iter(tables), "waiver")
        raise ConfigError(f"{path}: '{name}' is not known", hint="write each waiver as a table [[waiver]]")
    return [_entry(entry, number, path) for number, entry in enumerate(entries, start=1)]


def apply(findings: Iterable[Finding], waivers: Iterable[Waiver], *, today: date) -> Applied:
    """Take out what is waived.

    A waiver that has expired covers nothing, and says so. A comment that covers nothing says so too; an entry of the
    file does not, since a run may look at a part only.
    """
    ordered = list(waivers)
    used = [False] * len(ordered)
    kept: list[Finding] = []
    waived: list[tuple[Finding, Waiver]] = []
    for finding in findings:
        covering = [index for index, waiver in enumerate(ordered) if waiver.covers(finding)]
        for index in covering:
            used[index] = True
        holding = next((ordered[index] for index in covering if ordered[index].holds(today)), None)
        if holding is None:
            kept.append(finding)
        else:
            waived.append((finding, holding))
    own = [told for waiver, was in zip(ordered, used, strict=True) for told in about(waiver, used=was, today=today)]
    return Applied(kept, waived, own)


def about(waiver: Waiver, *, used: bool, today: date) -> Iterator[Finding]:
    """Yield what is wrong with a waiver that can be read: it has expired, or it is a comment that covers nothing."""
    of = f"{waiver.code} {waiver.target}".strip()
    is_comment = "line" in waiver.where
    if not waiver.holds(today) and (used or is_comment):
        fix = "mend what it covers, or give it a new day and reason" if used else "delete it"
        yield _own("WVR002", "waiver-expired", of, f"the waiver of {of} ended on {waiver.expiry}: {fix}", waiver.where)
    elif not used and is_comment:
        yield _own("WVR003", "waiver-unused", of, f"the waiver of {of} covers no finding: delete it", waiver.where)


def malformed(why: MalformedWaiver, where: Mapping[str, str | int]) -> Finding:
    """Make the finding for a waiver that cannot be read."""
    return _own("WVR001", "waiver-malformed", "", f"this waiver covers nothing: {why}", where, fix=f"-- {EXAMPLE}")


def _own(code: str, name: str, target: str, message: str, where: Mapping[str, str | int], *, fix: str = "") -> Finding:
    place = {"file": "", "line": 0, "statement": "", "hazard": "unsafe environment", **where}
    return Finding(code, name, Severity.WARNING, target, message, fix, where=place)


def _entry(entry: Any, number: int, path: Path) -> Waiver:
    where = f"{path}: waiver {number}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is no table", hint="write [[waiver]]")
    if unknown := sorted(set(entry) - set(_FIELDS)):
        raise ConfigError(f"{where}: '{unknown[0]}' is not known", hint=f"write {', '.join(_FIELDS)}")
    try:
        for name in ("object", "owner"):
            if not entry.get(name):
                raise MalformedWaiver(f"it names no {name}")
        return _waiver(entry, {"file": str(path)})
    except MalformedWaiver as exc:
        raise ConfigError(f"{where}: {exc}", hint=f"write {', '.join(_FIELDS)}") from exc


def _waiver(said: Mapping[str, Any], where: Mapping[str, str | int]) -> Waiver:
    """The one place that judges what a waiver must say."""
    texts = {name: said.get(name) or "" for name in ("code", "object", "owner", "reason")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise MalformedWaiver(f"its {name} is no text")
    if not texts["code"]:
        raise MalformedWaiver("it names no rule (a code as MIG101, or a rule's name)")
    expiry = _day(said.get("expiry"))
    if not texts["reason"].strip():
        raise MalformedWaiver("it gives no reason ('because ...')" if "owner" not in said else "it gives no reason")
    return Waiver(texts["code"], texts["object"], texts["reason"].strip(), expiry, texts["owner"], where)


def _day(value: Any) -> date:
    if not value:
        raise MalformedWaiver("it has no last day ('until 2027-01-31')")
    if type(value) is date:
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise MalformedWaiver(f"'{value}' is no day (write 2027-01-31)") from None


def _within(target: str, named: str) -> bool:
    """Tell whether an object is the named one or stands in it; ``public.`` may be left out."""
    target, named = target.removeprefix("public."), named.removeprefix("public.")
    return target == named or target.startswith(f"{named}.")
