"""MIG404: CASCADE drops what the statement does not name."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Column, ConstraintKind, Drop, DropConstraint
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import ORDERS, USERS
from dbsec.migrations.rules._release import knows, made
from dbsec.migrations.rules._words import ident, sql, target
from dbsec.migrations.rules.drop_function_or_sequence import KINDS

_REACHES = {
    "type": "columns of this type go with their values",
    "domain": "columns of this type go with their values",
    "extension": "columns of its types go with their values, and indexes and defaults that use its functions",
    "server": "its foreign tables go",
    "sequence": "the defaults that call it go, and inserts that rely on them fail",
    "function": "triggers, defaults, policies, views and indexes that use it go",
}


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    if isinstance(act, DropConstraint):
        yield from _constraint(step, act)
    elif isinstance(act, Drop) and act.cascade and not made(step, act.kind, act.name):
        if act.kind not in _REACHES and act.kind not in KINDS and not _index(step, act):
            return
        yield Hit(
            target(step, act.name),
            "CASCADE drops objects that nobody named here: "
            f"{_columns(step, act) or _REACHES.get(act.kind, 'what depends on it goes')}",
            "-- without CASCADE it is refused with a list of what depends on it; drop that by name first, then:\n"
            f"-- DROP {act.kind.upper()} {sql(act.name)};",
            hazard=Hazard.LOSES_DATA if act.kind in ("type", "domain", "extension") else Hazard.BREAKS_RELEASE,
        )


def _constraint(step: Step, act: DropConstraint) -> Iterator[Hit]:
    if not act.cascade or not knows(step, act.table):
        return
    table = step.table()
    keys = [] if table is None else list(step.schema.referencing(table.name))
    if table is not None and (not keys or act.name not in _unique(step)):
        return
    whose = ", ".join(str(other.name) for other, _ in keys) or "other tables"
    first = [f"ALTER TABLE {sql(other.name)} DROP CONSTRAINT {ident(key.name)};" for other, key in keys if key.name]
    yield Hit(
        target(step, act.table, act.name),
        f"CASCADE drops objects that nobody named here: foreign keys of {whose} that lean on '{act.name}'",
        "\n".join([*first, f"ALTER TABLE {sql(act.table)} DROP CONSTRAINT {ident(act.name)};"]),
    )


def _unique(step: Step) -> set[str]:
    table = step.table()
    if table is None:
        return set()
    return {
        one.name or "" for one in table.constraints if one.kind in (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY)
    }


def _index(step: Step, drop: Drop) -> bool:
    """A unique index may carry a foreign key; other indexes carry nothing."""
    index = step.schema.index(drop.name) if drop.kind == "index" else None
    return index is not None and index.unique and any(True for _ in step.schema.referencing(index.table))


def _columns(step: Step, drop: Drop) -> str:
    if drop.kind not in ("type", "domain"):
        return ""
    found = [
        f"{table.name}.{column.name}"
        for table in step.schema.tables.values()
        for column in table.columns.values()
        if _is_of(column, drop.name)
    ]
    return f"{', '.join(found)} with the values" if found else ""


def _is_of(column: Column, type_: Name) -> bool:
    return column.type.name == type_.name and (
        None in (column.type.schema, type_.schema) or column.type.schema == type_.schema
    )


RULE = Rule(
    code="MIG404",
    name="drop-cascade",
    title="CASCADE drops objects that the statement does not name",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Drop, DropConstraint),
    match=_match,
    effect="CASCADE drops whatever depends on the object, and what depends on that: columns of a type with their "
    "values, triggers of a function, foreign keys of a unique key. What goes is told in a NOTICE, after it has gone, "
    "and may differ between the test database and production.",
    instead="Leave CASCADE out: PostgreSQL then refuses with 2BP01 and lists what depends on the object. Drop each of "
    "these by name, with its own judgement.",
    example=Example(
        setup=USERS + "CREATE TYPE app.mood AS ENUM ('sad', 'happy');\n"
        "ALTER TABLE app.users ADD COLUMN mood app.mood DEFAULT 'happy';\n",
        bad="DROP TYPE app.mood CASCADE;",
        good="CREATE TYPE app.feeling AS ENUM ('calm');\nDROP TYPE app.feeling;",
        proof=Loses("SELECT id, mood FROM app.users ORDER BY id"),
    ),
    more=(
        Example(
            setup=ORDERS,
            bad="ALTER TABLE app.users DROP CONSTRAINT users_pkey CASCADE;",
            good="ALTER TABLE app.orders DROP CONSTRAINT orders_user_id_fkey;",
            proof=Breaks(
                "INSERT INTO app.users (id, email) VALUES (7, 'x@example.com') ON CONFLICT (id) DO NOTHING", "42P10"
            ),
        ),
    ),
    source=("ddl-depend", "sql-droptype"),
    aliases=("ban-drop-constraint", "ban-drop-type", "ban-drop-extension"),
)
