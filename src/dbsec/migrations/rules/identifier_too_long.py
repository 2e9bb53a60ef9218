"""MIG516: PostgreSQL keeps 63 bytes of a name and drops the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import (
    AddColumn,
    AddConstraint,
    CreateDomain,
    CreateFunction,
    CreateIndex,
    CreateOther,
    CreatePolicy,
    CreateSequence,
    CreateTable,
    CreateTableAs,
    CreateTrigger,
    CreateType,
    CreateView,
    Rename,
)
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Step, Warned
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._expand import short

_LIMIT = 63
_LONG = re.compile(r'(?<![\w$])[\w$]{64}|"[^"]{64}')
_LONG_IN_BYTES = re.compile(r'[\w$]{17,}|"[^"]{17,}')


def _match(step: Step) -> Iterator[Hit]:
    text = step.statement.text
    if not step.first or not (_LONG if text.isascii() else _LONG_IN_BYTES).search(text):
        return
    seen = set[str]()
    for word in _source.words(text):
        name = text[word.start : word.end].strip('"').replace('""', '"')
        if word.name == "IDENT" and len(name.encode()) > _LIMIT and name not in seen:
            seen.add(name)
            yield Hit(
                short(name),
                f"the name '{name}' has {len(name.encode())} bytes: PostgreSQL keeps '{short(name)}', and two long "
                "names that differ at their ends become one",
            )


RULE = Rule(
    code="MIG516",
    name="identifier-too-long",
    title="A name has more than 63 bytes",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(
        AddColumn,
        AddConstraint,
        CreateDomain,
        CreateFunction,
        CreateIndex,
        CreateOther,
        CreatePolicy,
        CreateSequence,
        CreateTable,
        CreateTableAs,
        CreateTrigger,
        CreateType,
        CreateView,
        Rename,
    ),
    match=_match,
    effect="A longer name is cut at 63 bytes, with NOTICE 42622 and no error. What looks the full name up in a catalog "
    "(an ORM, IF NOT EXISTS in a script) does not find it, and a second name that begins alike is taken already "
    "(42P07).",
    instead="A shorter name, written out. Letters outside of ASCII count two bytes and more.",
    example=Example(
        setup=USERS,
        bad="CREATE INDEX CONCURRENTLY "
        "users_phone_idx_for_the_search_by_number_in_the_customer_service_screens ON app.users (phone);",
        good="CREATE INDEX CONCURRENTLY users_phone_search_idx ON app.users (phone);",
        proof=Warned("42622"),
    ),
    source=("sql-syntax-lexical", "limits"),
    aliases=("identifier-too-long",),
)
