"""MIG321: a schema, function or sequence gets another name while the running release says the old one."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Rename
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import ROUTINES, contract, made
from dbsec.migrations.rules._words import target

_KINDS = (*ROUTINES, "schema", "sequence", "collation", "operator class", "operator family", "server")


def _match(step: Step) -> Iterator[Hit]:
    rename = step.operation
    assert isinstance(rename, Rename)
    if rename.kind not in _KINDS or made(step, rename.kind, rename.name):
        return
    where = rename.name.name if rename.kind == "schema" else target(step, rename.name)
    yield Hit(
        where,
        f"the running release still says '{rename.name}': its statements fail, and those in function bodies too",
        severity=contract(step),
    )


RULE = Rule(
    code="MIG321",
    name="rename-schema-or-routine",
    title="A schema, function or sequence is renamed that the running release uses",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Rename,),
    match=_match,
    effect="RENAME changes the catalog at once. Views, defaults and triggers hold the object itself and go on working; "
    "what holds its name does not: statements of the application, bodies of functions, search_path settings, "
    "nextval('…') in text. They fail with 42P01, 42883 or 3F000.",
    instead="Create the new name beside the old: a function that calls the other, a schema with views. Move the "
    "application, then drop the old name in a later release. A sequence has no second name: keep it.",
    example=Example(
        setup=USERS,
        bad="ALTER SCHEMA app RENAME TO shop;",
        good="CREATE SCHEMA shop;\nCREATE VIEW shop.users AS SELECT * FROM app.users;",
        proof=Breaks("SELECT count(*) FROM app.users", "42P01"),
    ),
    source=("sql-alterschema", "sql-alterfunction", "sql-altersequence"),
    aliases=("renaming-object", "rename_schema"),
)
