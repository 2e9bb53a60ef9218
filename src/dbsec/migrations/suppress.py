"""Comments that accept a finding: ``-- dbsec: allow …`` with a reason and a last day, and squawk's ``squawk-ignore``.

An allow belongs to the statement that it stands in or beside, else to the next one. Before the first statement of a
file it counts for the whole file where it names an object, and for the first statement where it names none.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from msgspec import Struct
from msgspec.structs import replace

from dbsec import waivers
from dbsec.findings import Finding
from dbsec.migrations.linter import Located, Result
from dbsec.migrations.reading import lexer, marks
from dbsec.migrations.reading.lexer import Part
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.rule import Rule
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Origin, Statement
from dbsec.waivers import MalformedWaiver, Waiver

_SQUAWK = re.compile(r"\s*squawk-ignore(?P<file>-file)?(?:\s+(?P<names>\S.*))?\s*\Z", re.DOTALL)


class Suppressed(Struct, frozen=True):
    """``result`` without what was accepted; ``own``: findings on the waivers themselves."""

    result: Result
    waived: list[tuple[Finding, Waiver]]
    own: list[Finding]


class _Allow(Struct):
    """One comment, and the statements that it counts for (None: the whole file). ``aliases``: squawk's names."""

    waiver: Waiver
    statement: Statement | None = None
    whole_file: bool = False
    aliases: frozenset[str] | None = None
    used: bool = False

    def covers(self, located: Located) -> bool:
        """Tell whether it accepts a finding of its file."""
        if not self.whole_file and not (self.statement is not None and _inside(located.statement, self.statement)):
            return False
        if self.aliases is None:
            return self.waiver.covers(located.finding)
        return bool(self.aliases & {*located.rule.aliases, "*"}) and bool(located.rule.aliases)


def suppress(
    result: Result,
    scripts: Sequence[Script],
    *,
    rules: Mapping[str, Rule],
    chosen: Mapping[str, Rule],
    entries: Sequence[Waiver] = (),
    today: date,
) -> Suppressed:
    """Take out what comments and the waiver file (``entries``) accept.

    ``rules`` are all that there are, ``chosen`` those that ran: an allow of another one is not called unused.
    """
    allows: dict[str, list[_Allow]] = {}  # by file, as ``own``
    own: dict[str, list[Finding]] = {}
    for script in scripts:
        if not script.deployed and (script.comments or marks.MARKED.search(script.text)):
            of_file = _allows(script, rules, own.setdefault(script.path, []))
            allows.setdefault(script.path, []).extend(of_file)
    kept, waived = [], []
    for located in result.located:
        covering = [allow for allow in allows.get(located.statement.script.path, ()) if allow.covers(located)]
        for allow in covering:
            allow.used = True
        holding = next((allow.waiver for allow in covering if allow.waiver.holds(today)), None)
        if holding is None:
            kept.append(located)
        else:
            waived.append((located.finding, holding))
    ran = {name for rule in chosen.values() for name in (rule.code, rule.name)}
    for path, of_this in allows.items():
        for allow in of_this:
            if allow.aliases is None and (allow.used or allow.waiver.code in ran):
                own[path] += waivers.about(allow.waiver, used=allow.used, today=today)
    told = [finding for of_this in own.values() for finding in of_this]
    if not entries:
        return Suppressed(replace(result, located=kept), waived, told)
    applied = waivers.apply((located.finding for located in kept), entries, today=today)
    left = set(map(id, applied.kept))
    rest = replace(result, located=[located for located in kept if id(located.finding) in left])
    return Suppressed(rest, waived + applied.waived, told + applied.own)


def _allows(script: Script, rules: Mapping[str, Rule], own: list[Finding]) -> Iterator[_Allow]:
    statements = parse(script)[0]
    for line, text in _comments(script, statements):
        where: dict[str, str | int] = {"file": script.path, "line": line, "statement": f"-- {text}"}
        if (squawk := _SQUAWK.match(text)) is not None:
            names = frozenset(name.split()[0] for name in (squawk["names"] or "").split(",") if name.strip())
            waiver = Waiver("squawk-ignore", "", "squawk-ignore", date.max, where=where)
            if squawk["file"]:
                yield _Allow(waiver, whole_file=True, aliases=names or frozenset("*"))
            elif names:
                yield _Allow(waiver, _beside(line, statements), aliases=names)
            continue
        try:
            allowed = waivers.inline(text, where)
            if allowed is not None:
                _check_rule(allowed.code, rules)
                yield _scoped(allowed, line, statements)
        except MalformedWaiver as exc:
            own.append(waivers.malformed(exc, where))


def _scoped(waiver: Waiver, line: int, statements: Sequence[Statement]) -> _Allow:
    if waiver.target and statements and line < statements[0].line:
        return _Allow(waiver, whole_file=True)
    return _Allow(waiver, _beside(line, statements))


def _check_rule(code: str, rules: Mapping[str, Rule]) -> None:
    known = [name for rule in rules.values() for name in (rule.code, rule.name)]
    if code not in known:
        close = difflib.get_close_matches(code, known, n=1)
        raise MalformedWaiver(f"there is no rule '{code}'" + (f"; did you mean '{close[0]}'?" if close else ""))


def _beside(line: int, statements: Sequence[Statement]) -> Statement | None:
    """Find the statement on this line, else the next one; in a DO block its inner statements come first."""
    on_it = [one for one in statements if one.line <= line <= _last_line(one)]
    inner = [one for one in on_it if one.kind != "DoStmt"]
    if inner:
        return inner[-1]
    following = next((one for one in statements if one.line > line), None)
    if on_it and not (following is not None and _inside(following, on_it[-1])):
        return on_it[-1]
    return following


def _inside(statement: Statement, outer: Statement) -> bool:
    if (statement.line, statement.text) == (outer.line, outer.text):
        return True
    return (
        outer.kind == "DoStmt"
        and statement.origin is not Origin.DIRECT
        and outer.line <= statement.line <= _last_line(outer)
    )


def _last_line(statement: Statement) -> int:
    return statement.line + statement.text.count("\n")


def _comments(script: Script, statements: Sequence[Statement]) -> list[tuple[int, str]]:
    """List the comments that speak to dbsec or squawk with their lines in the file; those in DO blocks too."""
    own = ((script.line_in_file(line), text) for line, text in marks.comments_of(script.text))
    found = [*(script.comments or own)]
    for block in statements:
        if block.kind == "DoStmt" and marks.MARKED.search(block.text):
            found += _in_body(block)
    return sorted(set(found))


def _in_body(block: Statement) -> Iterator[tuple[int, str]]:
    text = block.text
    for piece in lexer.pieces(text):
        if piece.part is Part.QUOTED and text[piece.start] == "$":
            tag = text.index("$", piece.start + 1) + 1
            before = text.count("\n", 0, tag)
            inner = text[tag : piece.end - (tag - piece.start)]
            yield from ((block.line + before + line - 1, said) for line, said in marks.comments_of(inner))
