"""The shadow of a table: the same columns, keys, indexes and constraints, empty, and triggers that keep it in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import sql
from psycopg.sql import Composable, Composed, Identifier, Literal

from dbsec.migrations.names import Name
from dbsec.migrations.shadow.facts import Facts, query, short

_TRIED = 10  # rows
_LIKE = "INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS"


def named(name: Name) -> Identifier:
    """Write a name with its schema."""
    return Identifier(name.schema or "public", name.name)


def listed(names: Sequence[str], prefix: str = "") -> Composed:
    """Write a list of columns, each behind a prefix."""
    return sql.SQL(", ").join(Composed([text(prefix), Identifier(name)]) for name in names)


def text(definition: Any) -> sql.SQL:
    """Take what PostgreSQL itself spelled out of its catalog."""
    return sql.SQL(definition)


def table(facts: Facts) -> Iterator[Composable]:
    """Make the shadow with its keys and indexes; nothing of it is known to anybody yet."""
    shadow = named(facts.shadow)
    _, _, _, _, options, toast_options, *_ = facts.table[0]
    yield sql.SQL("CREATE TABLE {} (LIKE {} {})").format(shadow, named(facts.name), text(_LIKE))
    yield sql.SQL("ALTER TABLE {} OWNER TO {}").format(shadow, Identifier(facts.owner))
    # an event trigger may close each new table: its policies come with the swap, and until then its owner writes it
    yield sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY").format(shadow)
    for option in (*options, *(f"toast.{option}" for option in toast_options)):
        yield sql.SQL("ALTER TABLE {} SET ({})").format(shadow, text(option))
    for name, _, _, _, _, target, options, _ in facts.columns:
        column = Identifier(name)
        if target != -1:
            yield sql.SQL("ALTER TABLE {} ALTER {} SET STATISTICS {}").format(shadow, column, Literal(target))
        if options:
            yield sql.SQL("ALTER TABLE {} ALTER {} SET ({})").format(shadow, column, text(", ".join(options)))
    for name, definition in facts.keys:
        temporary = Identifier(facts.temporary(name))
        yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(shadow, temporary, text(definition))
    for name, unique, tail in facts.indexes:
        kind = sql.SQL("UNIQUE INDEX" if unique else "INDEX")
        temporary = Identifier(facts.temporary(name))
        yield sql.SQL("CREATE {} {} ON {} {}").format(kind, temporary, shadow, text(tail))
    yield sql.SQL("COMMENT ON TABLE {} IS {}").format(shadow, Literal(mark(facts)))


def mark(facts: Facts) -> str:
    """Say in the shadow's comment whose it is."""
    return f"dbsec shadow of {facts.name} {facts.digest}"


def foreign_keys(facts: Facts) -> Iterator[Composable]:
    """Add the foreign keys that point away: the shadow is empty, so that no row is looked up."""
    for _, _, name, definition in facts.outgoing:
        yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            named(facts.shadow), Identifier(name), text(definition)
        )


def keeping(facts: Facts) -> Iterator[Composable]:
    """Let every write of the table write the shadow in its own transaction, as the owner: nobody else may."""
    function = Identifier(facts.name.schema or "public", facts.sync)
    rest = [row[0] for row in facts.columns if not row[4] and row[3] != "a" and row[0] not in facts.key_names]
    sets = sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(Identifier(name)) for name in rest)
    yield sql.SQL(query("sync")).format(
        function=function,
        shadow=named(facts.shadow),
        key=listed(facts.key_names),
        new_key=listed(facts.key_names, "NEW."),
        old_key=listed(facts.key_names, "OLD."),
        is_old=_is_old(facts),
        columns=listed(facts.written),
        values=listed(facts.written, "NEW."),
        old_values=listed(facts.written, "OLD."),
        update=Composed([sql.SQL("UPDATE SET "), sets]) if rest else sql.SQL("NOTHING"),
    )
    yield sql.SQL("ALTER FUNCTION {}() OWNER TO {}").format(function, Identifier(facts.owner))
    yield sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(function)
    for name, events in ((facts.sync, "INSERT OR UPDATE OR DELETE"), (_truncating(facts), "TRUNCATE")):
        each = "STATEMENT" if events == "TRUNCATE" else "ROW"
        yield sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH {} EXECUTE FUNCTION {}()").format(
            Identifier(name), text(events), named(facts.name), text(each), function
        )
        # a subscriber's writes count too
        yield sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(named(facts.name), Identifier(name))


def trial(facts: Facts) -> Iterator[Composable]:
    """Let the triggers' function follow a few rows in a table of its own, and undo it.

    What fails here (a CHECK whose function wants another search path, a right that the owner lacks) would fail in the
    service's own statements.
    """
    schema = facts.name.schema or "public"
    tried, function = Identifier(schema, short(f"dbsec_trial_{facts.name.name}")), Identifier(schema, facts.sync)
    names = listed([row[0] for row in facts.columns])
    yield sql.SQL("SAVEPOINT dbsec_trial")
    yield sql.SQL("CREATE TABLE {} (LIKE {})").format(tried, named(facts.name))
    yield sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY").format(tried)
    trigger = "CREATE TRIGGER tried AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}()"
    yield text(trigger).format(tried, function)
    yield sql.SQL("INSERT INTO {} ({}) SELECT {} FROM ONLY {} LIMIT {}").format(
        tried, names, names, named(facts.name), Literal(_TRIED)
    )
    yield sql.SQL("UPDATE {0} SET {1} = {1}").format(tried, Identifier(facts.key_names[0]))
    yield sql.SQL("DELETE FROM {}").format(tried)
    yield sql.SQL("ROLLBACK TO SAVEPOINT dbsec_trial")


def unkeeping(facts: Facts) -> Iterator[Composable]:
    """Take the triggers off."""
    for name in (facts.sync, _truncating(facts)):
        yield sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(Identifier(name), named(facts.name))


def undone(facts: Facts) -> Iterator[Composable]:
    """Take everything away that was made, the triggers apart."""
    yield sql.SQL("DROP TABLE IF EXISTS {}").format(named(facts.shadow))
    yield sql.SQL("DROP FUNCTION IF EXISTS {}()").format(Identifier(facts.name.schema or "public", facts.sync))


def _truncating(facts: Facts) -> str:
    return short(f"{facts.sync}_t")


def _is_old(facts: Facts) -> Composed:
    """Write the condition on the old row's key, by the operators that its index knows."""
    return sql.SQL(" AND ").join(
        sql.SQL("{0} OPERATOR({1}.=) OLD.{0}").format(Identifier(name), Identifier(home)) for name, home, _ in facts.key
    )
