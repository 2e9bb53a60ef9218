"""The moment in which the shadow takes the table's place: catalog changes alone, under locks that are all held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import sql
from psycopg.sql import Composable, Composed, Identifier, Literal

from dbsec.migrations.names import Name
from dbsec.migrations.shadow.facts import Facts, short
from dbsec.migrations.shadow.making import named, text, unkeeping

_STATES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
_REPLICA = {"f": "FULL", "n": "NOTHING"}


def locked(facts: Facts) -> list[Name]:
    """Name every table whose lock the swap needs: foreign keys lock both of theirs."""
    others = [Name(row[0], row[1]) for row in (*facts.incoming, *facts.outgoing)]
    return list(dict.fromkeys([facts.name, facts.shadow, *others]))


def swap(facts: Facts, sequences: dict[str, str]) -> Iterator[Composable]:
    """Exchange both. ``sequences``: of each identity column, the one of the shadow (schema and name as SQL)."""
    yield from unkeeping(facts)
    yield from _let_go(facts)
    yield from _moved_sequences(facts, sequences)
    yield from _renamed(facts)
    yield from _rights(facts)
    yield from _row_security(facts)
    yield from _triggers(facts)
    yield from _comments(facts)
    for schema, name, constraint, definition in facts.incoming:
        yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(
            Identifier(schema, name), Identifier(constraint), text(definition)
        )


def validated(facts: Facts) -> Iterator[Composable]:
    """Prove the foreign keys that point here: they hold for every write since the swap."""
    for schema, name, constraint, _ in facts.incoming:
        yield sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(Identifier(schema, name), Identifier(constraint))


def dropped(facts: Facts) -> Iterator[Composable]:
    """Drop the old table and what kept the two in step."""
    yield sql.SQL("DROP TABLE IF EXISTS {}").format(named(facts.gone))
    yield sql.SQL("DROP FUNCTION IF EXISTS {}()").format(Identifier(facts.name.schema or "public", facts.sync))


def _let_go(facts: Facts) -> Iterator[Composable]:
    for schema, name, constraint, _ in facts.incoming:
        yield sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(Identifier(schema, name), Identifier(constraint))
    for _, _, constraint, _ in facts.outgoing:
        yield sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(named(facts.name), Identifier(constraint))
    for schema, name, _ in facts.statistics:
        yield sql.SQL("DROP STATISTICS {}").format(Identifier(schema, name))


def _moved_sequences(facts: Facts, sequences: dict[str, str]) -> Iterator[Composable]:
    """Let identity go on where it was, and hand over sequences that are owned."""
    for column, _, _, identity, _, _, _, sequence in facts.columns:
        if sequence is None:
            continue
        if not identity:
            yield sql.SQL("ALTER SEQUENCE {} OWNED BY {}.{}").format(
                text(sequence), named(facts.shadow), Identifier(column)
            )
            continue
        yield sql.SQL("SELECT pg_catalog.setval({}, last_value, is_called) FROM {}").format(
            Literal(sequences[column]), text(sequence)
        )


def _renamed(facts: Facts) -> Iterator[Composable]:
    schema = facts.name.schema or "public"
    yield sql.SQL("ALTER TABLE {} RENAME TO {}").format(named(facts.name), Identifier(facts.gone.name))
    yield sql.SQL("ALTER TABLE {} RENAME TO {}").format(named(facts.shadow), Identifier(facts.name.name))
    for name in [row[0] for row in (*facts.keys, *facts.indexes)]:
        old, new = Identifier(schema, name), Identifier(schema, facts.temporary(name))
        yield sql.SQL("ALTER INDEX {} RENAME TO {}").format(old, Identifier(short(f"dbsec_gone_{name}")))
        yield sql.SQL("ALTER INDEX {} RENAME TO {}").format(new, Identifier(name))
    *_, index = facts.table[0]
    if (kind := facts.table[0][3]) in _REPLICA:
        yield sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(named(facts.name), text(_REPLICA[kind]))
    elif index is not None:
        yield sql.SQL("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}").format(named(facts.name), Identifier(index))


def renamed_sequences(facts: Facts, sequences: dict[str, str], bare: dict[str, str]) -> Iterator[Composable]:
    """Give the identity sequences their names. ``bare``: of each column, the old sequence's name without schema."""
    for column, name in bare.items():
        old = next(row[7] for row in facts.columns if row[0] == column)
        yield sql.SQL("ALTER SEQUENCE {} RENAME TO {}").format(text(old), Identifier(short(f"dbsec_gone_{name}")))
        yield sql.SQL("ALTER SEQUENCE {} RENAME TO {}").format(text(sequences[column]), Identifier(name))
    for column, privilege, role, grantable in facts.sequence_grants:
        sequence = next(row[7] for row in facts.columns if row[0] == column)
        yield _granted(privilege, sql.SQL("SEQUENCE {}").format(text(sequence)), role, grantable=grantable)


def _rights(facts: Facts) -> Iterator[Composable]:
    """Give exactly the rights that the table had: default privileges may have given the shadow others."""
    yield sql.SQL(
        "DO $dbsec$ DECLARE r record; BEGIN FOR r IN SELECT DISTINCT grantee FROM pg_catalog.pg_class c,"
        " pg_catalog.aclexplode(c.relacl) WHERE c.oid = {} ::pg_catalog.regclass LOOP"
        " EXECUTE pg_catalog.format('REVOKE ALL ON TABLE %s FROM %s', {},"
        " CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE r.grantee::pg_catalog.regrole::text END); END LOOP; END $dbsec$"
    ).format(Literal(str(facts.name)), Literal(str(facts.name)))
    for column, privilege, role, grantable in facts.grants:
        on = sql.SQL("TABLE {}").format(named(facts.name))
        what = Composed([text(privilege), sql.SQL(" ({})").format(Identifier(column))]) if column else privilege
        yield _granted(what, on, role, grantable=grantable)


def _granted(what: str | Composable, on: Composable, role: str, *, grantable: bool) -> Composable:
    who = Identifier(role) if role else sql.SQL("PUBLIC")
    option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
    return sql.SQL("GRANT {} ON {} TO {}{}").format(text(what) if isinstance(what, str) else what, on, who, option)


def _row_security(facts: Facts) -> Iterator[Composable]:
    table, (_, secured, forced, *_) = named(facts.name), facts.table[0]
    for row in facts.policies:
        yield _policy(table, row)
    if secured:
        yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table)
    if forced:
        yield sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(table)


def _policy(table: Composable, row: tuple[Any, ...]) -> Composable:
    name, permissive, command, using, check, roles = row
    who = sql.SQL(", ").join(Identifier(role) if role else sql.SQL("PUBLIC") for role in roles)
    kind = sql.SQL("PERMISSIVE" if permissive else "RESTRICTIVE")
    parts = [
        sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
            Identifier(name), table, kind, text(_COMMANDS[command]), who
        )
    ]
    if using is not None:
        parts.append(sql.SQL(" USING ({})").format(text(using)))
    if check is not None:
        parts.append(sql.SQL(" WITH CHECK ({})").format(text(check)))
    return Composed(parts)


def _triggers(facts: Facts) -> Iterator[Composable]:
    for name, definition, state in facts.triggers:
        yield text(definition)
        if state in _STATES:
            yield sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(
                named(facts.name), text(_STATES[state]), Identifier(name)
            )


def _comments(facts: Facts) -> Iterator[Composable]:
    table = named(facts.name)
    yield sql.SQL("COMMENT ON TABLE {} IS {}").format(table, Literal(facts.table[0][6]))
    for kind, name, comment in facts.comments:
        on = sql.SQL("{} ON {}").format(Identifier(name), table)
        if kind == "INDEX":
            on = Composed([Identifier(facts.name.schema or "public", name)])
        yield sql.SQL("COMMENT ON {} {} IS {}").format(text(kind), on, Literal(comment))
    for _, _, definition in facts.statistics:
        yield text(definition)
