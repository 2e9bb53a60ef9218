"""The contract of a rule: its words are there, the linter reports ``bad`` and not ``good``, a real server proves both.

For rules of your own: ``words(rule)`` needs nothing, ``verdicts(rule, major)`` the linter, ``proofs(rule, bench)`` a
server. Each returns what does not hold, nothing where all does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import Work
from dbsec.migrations.linter import Options, all_rules, lint
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.rule import Example, Hazard, Rule
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.script import Script
from dbsec.testing.bench import Bench
from dbsec.testing.proofs import blocked_by, prove, seen
from dbsec.testing.scratch import Scratch, Server

__all__ = ["Bench", "Scratch", "Server", "applies_to", "examples", "fixes", "proofs", "verdicts", "words"]

_CODE = re.compile(r"MIG[1-5]\d\d\Z")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
_PAGE = re.compile(r"[a-z0-9-]+\Z")
_SHORT = 100
_BLOCKING = (Hazard.BLOCKS_ALL, Hazard.BLOCKS_WRITES)
_LONG = (Work.REWRITE, Work.SCAN, Work.FK_SCAN, Work.BUILD)


def applies_to(rule: Rule, major: int) -> bool:
    """Tell whether a rule speaks of a major."""
    return rule.since <= major <= (rule.until or major)


def examples(rule: Rule) -> tuple[Example, ...]:
    """Return the examples of a rule: the one that the docs show, and more."""
    return (rule.example, *rule.more)


def words(rule: Rule) -> list[str]:
    """Check what a reader gets: code, name, title, effect, what to do instead, pages of the manual."""
    wrong = []
    if not _CODE.match(rule.code):
        wrong.append(f"'{rule.code}' is no code")
    if not _NAME.match(rule.name):
        wrong.append(f"'{rule.name}' is no name")
    if len(rule.title) > _SHORT or rule.title.endswith(".") or not rule.title[:1].isupper():
        wrong.append(f"title is a short line without a full stop: '{rule.title}'")
    for field in ("effect", "instead"):
        if not getattr(rule, field).endswith("."):
            wrong.append(f"{field} is whole sentences")
    if not rule.source or not all(_PAGE.match(page) for page in rule.source):
        wrong.append(f"source names pages of the manual: {rule.source}")
    if not rule.applies:
        wrong.append("applies names no operation")
    return wrong


def verdicts(rule: Rule, major: int) -> list[str]:
    """Lint each example on its setup: ``bad`` gives the rule's code; ``good`` neither that nor any error."""
    return [wrong for at, example in enumerate(examples(rule)) for wrong in _verdict(rule, example, at, major)]


def _verdict(rule: Rule, example: Example, at: int, major: int) -> Iterator[str]:
    bad, good = (_findings(example, script, major, rule) for script in (example.bad, example.good))
    where = f"example {at}"
    if rule.code not in {code for code, _ in bad}:
        yield f"{where}: bad gives {sorted({code for code, _ in bad}) or 'nothing'}, not {rule.code}"
    if rule.code in {code for code, _ in good}:
        yield f"{where}: good gives {rule.code} too"
    for code, severity in good:
        if severity is Severity.ERROR and code != rule.code:
            yield f"{where}: good gives the error {code}"
    for name in ("setup", "bad", "good"):
        for unread in parse(Script(name, getattr(example, name)))[1]:
            yield f"{where}: {unread}"


def _findings(example: Example, script: str, major: int, rule: Rule) -> list[tuple[str, Severity]]:
    schema, _ = from_dump(example.setup, source="setup")
    schema.major = major
    options = Options(major, rules={**all_rules(), rule.name: rule})
    found = lint([Script("release.sql", script)], schema=schema, options=options)
    return [(finding.code, finding.severity) for finding in found.findings]


def proofs(rule: Rule, bench: Bench) -> list[str]:
    """Run each example on the server: ``bad`` does what the proof says, and ``good`` does not."""
    return [f"example {at}: {wrong}" for at, one in enumerate(examples(rule)) for wrong in prove(one, bench)]


def fixes(rule: Rule, bench: Bench) -> list[str]:
    """Run what the linter offers instead of each ``bad``, statement by statement in autocommit.

    None of it may fail, and where the rule is about blocking, none of it may block in its turn.
    """
    wrong = []
    for at, example in enumerate(examples(rule)):
        for text in _offered(rule, example, bench.scratch.server.major):
            wrong += [f"example {at}: the fix cannot be read: {unread}" for unread in parse(Script("fix", text))[1]]
            ran = bench.run(example.setup, text)
            wrong += [f"example {at}: the fix fails: {sqlstate} {message}\n{text}" for sqlstate, message in ran.errors]
            if rule.hazard in _BLOCKING and any(blocked_by(one, ran.old, *_LONG) for one in ran.done):
                wrong.append(f"example {at}: the fix blocks in its turn: {seen(ran)}\n{text}")
    return wrong


def _offered(rule: Rule, example: Example, major: int) -> list[str]:
    schema, _ = from_dump(example.setup, source="setup")
    schema.major = major
    found = lint([Script("release.sql", example.bad)], schema=schema, options=Options(major, rules={rule.name: rule}))
    return [finding.fix for finding in found.findings if finding.fix]
