"""The SQL of expand → backfill → contract for one column: a fix that the running release does not notice."""

from __future__ import annotations

from dbsec.migrations.names import Name
from dbsec.migrations.operations import ConstraintKind, Type
from dbsec.migrations.rule import Step
from dbsec.migrations.rules._types import free_type
from dbsec.migrations.rules._words import ident, sql

BATCH = 10_000
WITHOUT_EQUALITY = frozenset(("json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"))
_NAME_BYTES = 63
_COUNTING = {"smallserial": "int2", "serial": "int4", "bigserial": "int8"}


def instead_of_change(step: Step, table: Name, old: str, new: str, kinds: tuple[Type, Type]) -> str:
    """Write the SQL that adds ``new`` beside ``old`` and keeps both alike; what comes later stands in comments.

    ``kinds``: of ``old`` and of ``new``. Locks: ACCESS EXCLUSIVE and SHARE ROW EXCLUSIVE for a moment each.
    """
    types = (_written(kinds[0]), _written(kinds[1]))
    free = _written(free_type(step.schema, kinds[1]))
    trigger = short(f"{table.name}_{new}_sync")
    value = _cast(ident(old), types)
    batch = backfill(step, table, f"{ident(new)} = {value}", _differ(ident(new), value, types[1]))
    function = sql(Name(table.schema, trigger))
    return "\n".join(
        [
            f"ALTER TABLE {sql(table)} ADD COLUMN {ident(new)} {free};",
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$${_body(ident(old), ident(new), types)}$$;",
            f"CREATE TRIGGER {ident(trigger)} BEFORE INSERT OR UPDATE ON {sql(table)} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}();",
            f"-- backfill, a transaction each, until no row is left: {batch}",
            *(_as_domain(table, new, types[1]) if free != types[1] else ()),
            "-- contract, in a file with '-- dbsec: phase contract', once no client of the old release is left:",
            f"-- DROP TRIGGER {ident(trigger)} ON {sql(table)}; DROP FUNCTION {function}(); "
            f"ALTER TABLE {sql(table)} DROP COLUMN {ident(old)};",
        ]
    )


def _as_domain(table: Name, column: str, domain: str) -> list[str]:
    """Hold what the domain holds, once the rows are filled: NULL may be none of its values."""
    name, value = ident(short(f"{table.name}_{column}_check")), ident(column)
    check = f"ADD CONSTRAINT {name} CHECK ({value}::{domain} IS NOT DISTINCT FROM {value}) NOT VALID;"
    return [f"-- then: ALTER TABLE {sql(table)} {check}", f"-- ALTER TABLE {sql(table)} VALIDATE CONSTRAINT {name};"]


def _written(kind: Type) -> str:
    return _COUNTING.get(str(kind), str(kind))


def backfill(step: Step, table: Name, assignment: str, condition: str) -> str:
    """Write one batch of a backfill: by primary key where it is known, else by the place of the row."""
    key = key_of(step, table)
    picked = ident(key) if key else "ctid"
    return (
        f"UPDATE {sql(table)} SET {assignment} WHERE {picked} IN (SELECT {picked} FROM {sql(table)} "
        f"WHERE {condition} LIMIT {BATCH} FOR UPDATE SKIP LOCKED);"
    )


def key_of(step: Step, table: Name) -> str | None:
    """Name the column that is the primary key alone."""
    known = step.schema.table(table)
    if known is None:
        return None
    keys = [constraint.columns for constraint in known.of_kind(ConstraintKind.PRIMARY_KEY)]
    return keys[0][0] if keys and len(keys[0]) == 1 else None


def short(name: str) -> str:
    """Cut a name to what PostgreSQL keeps: 63 bytes."""
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _cast(value: str, types: tuple[str, str]) -> str:
    return value if types[0] == types[1] else f"{value}::{types[1]}"


def _body(old: str, new: str, types: tuple[str, str]) -> str:
    """On INSERT the new column wins: it has no default, so that a value in it was meant."""
    forth = f"NEW.{new} := {_cast(f'NEW.{old}', types)};"
    back = f"NEW.{old} := {_cast(f'NEW.{new}', (types[1], types[0]))};"
    return (
        f" BEGIN IF TG_OP = 'INSERT' THEN IF NEW.{new} IS NULL THEN {forth} ELSE {back} END IF;"
        f" ELSIF {_differ(f'NEW.{new}', f'OLD.{new}', types[1])} THEN {back}"
        f" ELSIF {_differ(f'NEW.{old}', f'OLD.{old}', types[0])} THEN {forth} END IF; RETURN NEW; END "
    )


def _differ(one: str, other: str, type_: str) -> str:
    """Compare as text what has no equality operator."""
    cast = "::text" if type_ in WITHOUT_EQUALITY else ""
    return f"{one}{cast} IS DISTINCT FROM {other}{cast}"
