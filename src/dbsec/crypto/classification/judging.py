"""Compares what a database has with what its classification says: a pure function of the two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dbsec.crypto.classification.document import Class, Classification, ListedColumn
from dbsec.crypto.classification.observed import Observed, ObservedColumn
from dbsec.crypto.classification.personal import by_name
from dbsec.findings import Finding, Severity

PAGE: Final = "docs/envelope_crypto.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be found, in the words of a report."""

    code: str
    name: str
    severity: Severity
    title: str
    effect: str
    instead: str


UNLISTED_PERSONAL = Rule(
    "ENC201",
    "classify-personal-columns",
    Severity.ERROR,
    "a column looks personal or secret and is not classified",
    "nobody has decided how its values are kept: they stand in clear in queries, backups, WAL and logs",
    "enter it with class, mode, reason and owner; where it is personal, encrypt it",
)
UNLISTED = Rule(
    "ENC202",
    "classify-every-column",
    Severity.WARNING,
    "a column is not classified",
    "what nobody has looked at may be personal under a name that does not show it",
    "enter it with class, mode, reason and owner",
)
NOT_ENCRYPTED = Rule(
    "ENC203",
    "encrypt-what-is-listed-as-encrypted",
    Severity.ERROR,
    "a column is listed as encrypted and is not",
    "the classification promises ciphertext, and the database holds something else",
    "encrypt what is there, and let a CHECK or the domain dbsec.encrypted refuse plaintext",
)
IN_CLEAR = Rule(
    "ENC204",
    "encrypt-personal-columns",
    Severity.ERROR,
    "a column that is to be encrypted is in clear, and nothing takes its place yet",
    "whoever reads the database, a backup, WAL or a standby reads its values",
    "dbsec migrate new expand-contract encrypt-column writes the steps: expand, backfill, contract",
)
STILL_IN_CLEAR = Rule(
    "ENC205",
    "end-clear-copies",
    Severity.WARNING,
    "a column in clear stands beside its encrypted one",
    "until contract drops it, encryption protects nothing",
    "run contract once every release reads the encrypted column alone",
)
GONE = Rule(
    "ENC206",
    "unlist-dropped-columns",
    Severity.WARNING,
    "a column is listed and is not there",
    "a list that names what does not exist is not read any more",
    "take it out of the classification, or correct its name",
)
LOOKS_OTHERWISE = Rule(
    "ENC207",
    "classify-by-content",
    Severity.ERROR,
    "a column in clear that is not listed as personal holds values that look personal",
    "values wander into columns that nobody protects: notes, descriptions, JSON",
    "list it as personal and say why it may stay in clear; or encrypt it; or keep such values out",
)
RULES: Final = {
    rule.code: rule
    for rule in (UNLISTED_PERSONAL, UNLISTED, NOT_ENCRYPTED, IN_CLEAR, STILL_IN_CLEAR, GONE, LOOKS_OTHERWISE)
}


def judge(listed: Classification, observed: Observed) -> list[Finding]:
    """Return what differs, by column in the order of the database, then what is gone."""
    there = {one.name: one for one in observed.columns}
    findings = [finding for one in observed.columns for finding in _of_column(one, listed, there)]
    gone = [one for one in _gone(listed, there) if one.table.partition(".")[0] not in observed.missing_schemas]
    return [*findings, *(_finding(GONE, one.name, "it is listed, and it is not there") for one in gone)]


def _of_column(one: ObservedColumn, listed: Classification, there: dict[str, ObservedColumn]) -> Iterator[Finding]:
    entry = listed.of(one.name)
    if entry is None:
        yield _unlisted(one)
        return
    if entry.mode.heads:
        yield from _encrypted(one, entry)
    if entry.until:
        yield _in_clear(entry, there)
    elif one.looks_like and entry.kind in (Class.PUBLIC, Class.INTERNAL):
        yield _finding(
            LOOKS_OTHERWISE, one.name, f"it is listed as {entry.kind}, and values look like {one.looks_like}"
        )


def _unlisted(one: ObservedColumn) -> Finding:
    guess = by_name(one.column, one.type)
    why = f"its name says {guess}" if guess else f"values look like {one.looks_like}" if one.looks_like else ""
    entry = f'[tables."{one.table}".columns]\n{one.column} = {{ class = "…", mode = "…", reason = "…", owner = "…" }}'
    rule = UNLISTED_PERSONAL if why else UNLISTED
    return _finding(rule, one.name, f"it is not classified{'; ' if why else ''}{why}", fix=entry)


def _encrypted(one: ObservedColumn, entry: ListedColumn) -> Iterator[Finding]:
    if one.type != "bytea":
        yield _finding(NOT_ENCRYPTED, one.name, f"it is listed as {entry.mode}, and its type is {one.declared}")
    elif one.not_ours:
        heads = " or ".join(head.hex() for head in entry.mode.heads)
        yield _finding(
            NOT_ENCRYPTED,
            one.name,
            f"it is listed as {entry.mode}, and {one.not_ours:,} of the values looked at do not begin with {heads}",
        )


def _in_clear(entry: ListedColumn, there: dict[str, ObservedColumn]) -> Finding:
    schema, _, table = entry.table.partition(".")
    if f"{schema}.{table}.{entry.until}" in there:
        return _finding(STILL_IN_CLEAR, entry.name, f"'{entry.until}' is there, and so is this column in clear")
    return _finding(IN_CLEAR, entry.name, f"it is {entry.kind} and in clear; '{entry.until}' is to take its place")


def _gone(listed: Classification, there: dict[str, ObservedColumn]) -> Iterator[ListedColumn]:
    """What is not there, but for columns in clear that are done with, and for what comes with the encrypted ones."""
    replacements = {f"{one.table}.{one.until}" for one in listed.columns if one.until and one.name in there}
    for one in listed.columns:
        if one.name in there or one.until or one.name in replacements:
            continue
        if one.along and f"{one.table}.{one.along}" not in there:
            continue
        yield one


def _finding(rule: Rule, target: str, message: str, *, fix: str = "") -> Finding:
    return Finding(rule.code, rule.name, rule.severity, target, message, fix, (PAGE,))
