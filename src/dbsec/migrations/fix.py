"""``--fix``: puts the safe statements where the harmful one stood, shows the difference, and lints what it made."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import files
from dbsec.errors import UsageError
from dbsec.findings import Severity
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.linter import Located, Options, Result, lint
from dbsec.migrations.operations import TransactionControl
from dbsec.migrations.reading import source
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Wrap
from dbsec.migrations.statement import Origin, Statement
from dbsec.migrations.whole import replacement


@dataclass(frozen=True, slots=True)
class Change:
    """One file before and after; ``fixed`` counts the findings that it ends."""

    path: Path
    before: str = field(repr=False)
    after: str = field(repr=False)
    fixed: int

    @property
    def diff(self) -> str:
        """The unified diff, as ``git apply`` takes it."""
        name = self.path.as_posix()
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Left:
    """A finding that ``--fix`` does not mend, and why."""

    located: Located
    reason: str


@dataclass(frozen=True, slots=True)
class _Edit:
    statement: Statement
    start: int
    end: int
    text: str


def plan(
    result: Result, scripts: Sequence[Script], *, schema: Schema | None = None, options: Options | None = None
) -> tuple[list[Change], list[Left]]:
    """Plan the mechanical fixes of a result; nothing is written.

    ``schema`` is the state before the release, untouched. What a change makes is linted again: it is kept only where
    no error is left but those that are told as left.
    """
    changes: list[Change] = []
    left: list[Left] = []
    for script in scripts:
        errors = [found for found in _errors(result) if found.statement.script is script]
        if not errors:
            continue
        edits, rest = _edits(errors, script)
        left += rest
        if edits:
            changes.append(_changed(script, edits, len(errors) - len(rest)))
    return _proven(changes, left, result, scripts, schema, options or Options())


def apply(changes: Iterable[Change]) -> None:
    """Write the files, each whole or not at all. Errors: ``UsageError`` where a file is not what was linted."""
    for change in changes:
        if _read(change.path) != change.before:
            raise UsageError(f"'{change.path}' has changed since it was linted", hint="dbsec migrate lint --fix, again")
        mode = change.path.stat().st_mode & 0o777
        files.write_atomic(change.path, change.after.encode(), mode=mode)


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def _edits(errors: Sequence[Located], script: Script) -> tuple[list[_Edit], list[Left]]:
    edits, left = [], []
    if reason := _untouchable(script):
        return [], [Left(found, reason) for found in errors]
    text = _read(Path(script.path))
    for statement in {id(found.statement): found.statement for found in errors}.values():
        of_it = [found for found in errors if found.statement is statement]
        start = _offset(text, statement)
        if reason := _unfit(statement, of_it, start, script):
            left += [Left(found, reason) for found in of_it]
            continue
        made = _statements(statement, of_it)
        if statement.in_transaction:
            made = _outside(made)
        end = _past_semicolon(text, start + len(statement.text))
        edits.append(_Edit(statement, start, end, _indented(made, text, start)))
    return edits, left


def _untouchable(script: Script) -> str:
    if script.path == "-":
        return "it came from stdin"
    if script.lines:
        return f"{script.tool} makes the SQL: change the operation in the file by hand"
    return ""


def _unfit(statement: Statement, errors: Sequence[Located], start: int, script: Script) -> str:
    if not all(found.rule.mechanical for found in errors):
        return "no mechanical fix: it takes more than one release, or a decision"
    if statement.origin is not Origin.DIRECT:
        return "it stands in a DO block"
    if start < 0:
        return "the file holds it in another form (a variable of psql?)"
    if statement.in_transaction and script.wrap is Wrap.FILE:
        return f"{script.tool} wraps the file in a transaction: move the statement to a file of its own without one"
    return ""


def _offset(text: str, statement: Statement) -> int:
    """Find the statement in the file: on its line, by its text; -1 where it is not there."""
    line_start = 0
    for _ in range(statement.line - 1):
        line_start = text.find("\n", line_start) + 1
    return text.find(statement.text, line_start)


def _past_semicolon(text: str, at: int) -> int:
    rest = text[at:]
    blank = len(rest) - len(rest.lstrip())
    return at + blank + 1 if rest[blank : blank + 1] == ";" else at


def _statements(statement: Statement, errors: Sequence[Located]) -> list[str]:
    """Give the safe statements, with the clauses of the same ALTER TABLE that are harmless."""
    mended = {id(found.operation): found.hit.fix for found in errors}
    broken = [found.operation for found in errors]
    return replacement(statement, operations_of(statement), broken, list(mended.values()))


def _outside(made: list[str]) -> list[str]:
    return ["COMMIT;", *made, "BEGIN;"]


def _indented(made: Sequence[str], text: str, start: int) -> str:
    margin = text[text.rfind("\n", 0, start) + 1 : start]
    indent = margin if not margin.strip() else ""
    newline = "\r\n" if "\r\n" in text else "\n"
    return (newline + indent).join(line for statement in made for line in statement.splitlines())


def _changed(script: Script, edits: Sequence[_Edit], fixed: int) -> Change:
    path = Path(script.path)
    before = after = _read(path)
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        after = after[: edit.start] + edit.text + after[edit.end :]
    return Change(path, before, _without_empty_blocks(script, after), fixed)


def _without_empty_blocks(script: Script, text: str) -> str:
    """Take out BEGIN; COMMIT; with nothing between them, which moving a statement out of its transaction leaves."""
    while True:
        statements = parse(source.remade(script, text))[0]
        for first, second in itertools.pairwise(statements):
            if _act(first) == "begin" and _act(second) == "commit":
                start, end = _offset(text, first), _offset(text, second)
                if start < 0 or text[start:end].replace(first.text, "", 1).strip() != ";":
                    continue  # a comment stands between them
                stop = _past_semicolon(text, end + len(second.text))
                stop += len(text[stop:]) - len(text[stop:].lstrip(" \r\n"))
                text = text[:start] + text[stop:]
                break
        else:
            return text


def _act(statement: Statement) -> str:
    operations = operations_of(statement)
    return operations[0].act if operations and isinstance(operations[0], TransactionControl) else ""


def _proven(
    changes: Sequence[Change],
    left: Sequence[Left],
    result: Result,
    scripts: Sequence[Script],
    schema: Schema | None,
    options: Options,
) -> tuple[list[Change], list[Left]]:
    """Lint the changed files in their places; a change that leaves a new error or text that is none is dropped."""
    made = {str(change.path): change.after for change in changes}
    again = [source.remade(script, made[script.path]) if script.path in made else script for script in scripts]
    after = lint(again, schema=copy.deepcopy(schema), options=options)
    known = {_place(one.located) for one in left}
    bad = {found.statement.script.path for found in _errors(after) if _place(found) not in known}
    bad |= {unread.path for unread in after.unread} - {unread.path for unread in result.unread}
    dropped = [
        Left(found, "the statements that would replace it are not free of errors here: change it by hand")
        for found in _errors(result)
        if found.statement.script.path in bad and found.statement.script.path in made and _place(found) not in known
    ]
    return [change for change in changes if str(change.path) not in bad], [*left, *dropped]


def _errors(result: Result) -> list[Located]:
    return [found for found in result.located if found.finding.severity is Severity.ERROR]


def _place(found: Located) -> tuple[str, str, str]:
    return found.statement.script.path, found.rule.code, found.hit.target
