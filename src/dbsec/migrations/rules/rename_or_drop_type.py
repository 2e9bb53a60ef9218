"""MIG304: a type, a domain or one of its parts goes or gets another name while the running release says the old one."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AlterComposite, AlterEnum, Drop, Rename
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import contract, made
from dbsec.migrations.rules._words import sql, target

_KINDS = ("type", "domain")
_SETUP = (
    USERS
    + """\
CREATE TYPE app.mood AS ENUM ('sad', 'happy');
ALTER TABLE app.users ADD COLUMN mood app.mood;
"""
)


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    if isinstance(act, AlterEnum):
        yield from _label(step, act)
    elif isinstance(act, AlterComposite):
        yield from _attribute(step, act)
    elif isinstance(act, Rename) and act.kind in _KINDS and not made(step, act.kind, act.name):
        message = f"the running release still says '{act.name}' in casts and parameters: they fail with 42704"
        yield Hit(target(step, act.name), message, severity=contract(step))
    elif isinstance(act, Rename) and act.kind == "attribute" and act.table and not made(step, "type", act.table):
        message = f"the running release still says '{act.name}': it fails with 42703"
        yield Hit(target(step, act.table, act.name.name), message, severity=contract(step))
    elif isinstance(act, Drop) and act.kind in _KINDS and not act.cascade and not made(step, act.kind, act.name):
        message = f"the running release still says '{act.name}' in casts and parameters: they fail with 42704"
        yield Hit(target(step, act.name), message, severity=contract(step))


def _label(step: Step, act: AlterEnum) -> Iterator[Hit]:
    if act.old is None or made(step, "type", act.type):
        return
    quoted = act.value.replace("'", "''")
    yield Hit(
        target(step, act.type, act.old),
        f"the running release still writes and compares '{act.old}': it fails with 22P02, and reads '{act.value}', "
        "which it does not know",
        f"ALTER TYPE {sql(act.type)} ADD VALUE IF NOT EXISTS '{quoted}';\n"
        "-- a release that reads both and writes the new one comes next, then the rows are updated in batches",
        severity=contract(step),
    )


def _attribute(step: Step, act: AlterComposite) -> Iterator[Hit]:
    if made(step, "type", act.table):
        return
    if act.act == "add":
        message = f"ROW(…) of the running release lacks '{act.attribute}': its cast to '{act.table}' fails with 42846"
        yield Hit(target(step, act.table, act.attribute), message, severity=Severity.WARNING)
        return
    what = "loses" if act.act == "drop" else "gets another type for"
    yield Hit(
        target(step, act.table, act.attribute),
        f"'{act.table}' {what} '{act.attribute}', which the running release still reads and writes",
        severity=None if act.cascade else contract(step),
    )


RULE = Rule(
    code="MIG304",
    name="rename-or-drop-type",
    title="A type, domain, enum value or attribute is renamed or dropped that the running release uses",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(AlterComposite, AlterEnum, Drop, Rename),
    match=_match,
    effect="RENAME VALUE changes the label in the catalog, for all rows at once: the running release still sends the "
    "old label (22P02) and cannot map the new one. A type or domain under another name, or none, fails in every cast "
    "and typed parameter (42704). Drivers look types up by name when they connect.",
    instead="Add what is new beside the old: ADD VALUE, CREATE TYPE, ADD ATTRIBUTE. Deploy a release that reads both, "
    "move the rows, and rename or drop in a later release, in a file with '-- dbsec: phase contract'. The label that "
    "people see belongs in the application.",
    example=Example(
        setup=_SETUP,
        bad="ALTER TYPE app.mood RENAME VALUE 'sad' TO 'unhappy';",
        good="ALTER TYPE app.mood ADD VALUE 'unhappy';",
        proof=Breaks("UPDATE app.users SET mood = 'sad' WHERE id = 7", "22P02"),
    ),
    more=(
        Example(
            setup=USERS + "CREATE DOMAIN app.mail AS text CHECK (VALUE LIKE '%@%');\n",
            bad="DROP DOMAIN app.mail;",
            good="CREATE DOMAIN app.address AS text CHECK (VALUE LIKE '%@%');",
            proof=Breaks("SELECT id FROM app.users WHERE email = 'x@example.com'::app.mail", "42704"),
        ),
        Example(
            setup=_SETUP,
            bad="ALTER TYPE app.mood RENAME TO feeling;",
            good="CREATE TYPE app.feeling AS ENUM ('sad', 'happy', 'calm');",
            proof=Breaks("SELECT count(*) FROM app.users WHERE mood = 'sad'::app.mood", "42704"),
        ),
    ),
    source=("sql-altertype", "sql-alterdomain", "sql-droptype"),
    aliases=("ban-drop-type", "ban-drop-domain", "ban-add-composite-attribute", "renaming-object", "rename_enum_value"),
)
