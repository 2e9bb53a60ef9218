"""The indexes and constraints of one table with every clause that they were made with, as PostgreSQL's parser has them.

The model of ``schema/`` keeps what locks and work depend on; a copy needs the rest too: operator classes, sort orders,
ON DELETE, INCLUDE, storage parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from dbsec.migrations.expand_contract import printing
from dbsec.migrations.names import Name
from dbsec.migrations.schema.dump import statements_of

if TYPE_CHECKING:
    import psycopg

    from dbsec.migrations.schema.model import Table

Tree = Any  # a node of pglast.ast

_INDEXES: LiteralString = """
SELECT pg_catalog.pg_get_indexdef(x.indexrelid) FROM pg_catalog.pg_index x
WHERE x.indrelid = pg_catalog.to_regclass(%s) AND x.indislive
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
ORDER BY x.indexrelid::pg_catalog.regclass::text
"""
_CONSTRAINTS: LiteralString = """
SELECT pg_catalog.format('ALTER TABLE x ADD CONSTRAINT %%I %%s', k.conname, pg_catalog.pg_get_constraintdef(k.oid))
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = pg_catalog.to_regclass(%s) AND k.contype IN ('c', 'u', 'x', 'f', 'p') ORDER BY k.conname
"""


class Definitions(NamedTuple):
    """``indexes``: IndexStmt of each index without a constraint. ``constraints``: Constraint, each with its name and as
    one of the table."""

    indexes: tuple[Tree, ...] = ()
    constraints: tuple[Tree, ...] = ()


def from_catalog(connection: psycopg.Connection[Any], table: Name) -> Definitions:
    """Read them from the connected database. Locks: ACCESS SHARE on the table while its expressions are spelled out."""
    from psycopg.rows import tuple_row

    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET LOCAL search_path = ''")
        cursor.execute("SET LOCAL lock_timeout = '2s'")
        indexes = [printing.parsed(text) for (text,) in cursor.execute(_INDEXES, [str(table)])]
        constraints = [printing.parsed(text).cmds[0].def_ for (text,) in cursor.execute(_CONSTRAINTS, [str(table)])]
    return Definitions(tuple(indexes), tuple(constraints))


def from_dump(text: str, table: Table, *, source: str) -> Definitions:
    """Read them from a dump, or from CREATE statements by hand; ``table`` tells the names that PostgreSQL gave."""
    from pglast import ast

    indexes: list[Tree] = []
    constraints: list[Tree] = []
    for statement in statements_of(text, source=source):
        if statement.kind not in ("IndexStmt", "AlterTableStmt", "CreateStmt"):
            continue
        tree = printing.parsed(statement.text)
        if not _is(tree.relation, table.name):
            continue
        if isinstance(tree, ast.IndexStmt):
            indexes.append(tree)
        elif isinstance(tree, ast.CreateStmt):
            constraints += _of_create(tree)
        else:
            constraints += [cmd.def_ for cmd in tree.cmds if isinstance(cmd.def_, ast.Constraint)]
    kept = [one for one in (_named(constraint, table) for constraint in constraints) if one is not None]
    alive = {index.name for index in table.indexes.values() if index.constraint is None}
    return Definitions(tuple(one for one in indexes if one.idxname in alive), tuple(kept))


def _is(relation: Tree, name: Name) -> bool:
    return relation is not None and relation.relname == name.name and relation.schemaname in (None, name.schema)


def _of_create(tree: Tree) -> list[Tree]:
    """List the constraints of CREATE TABLE; one beside a column becomes one of the table."""
    from pglast import ast, enums

    found: list[Tree] = []
    for element in tree.tableElts or ():
        if isinstance(element, ast.Constraint):
            found.append(element)
            continue
        for constraint in getattr(element, "constraints", None) or ():
            column = (ast.String(element.colname),)
            if constraint.contype in (enums.ConstrType.CONSTR_UNIQUE, enums.ConstrType.CONSTR_PRIMARY):
                constraint.keys = column
            elif constraint.contype is enums.ConstrType.CONSTR_FOREIGN:
                constraint.fk_attrs = column
            found.append(constraint)
    return found


def _named(constraint: Tree, table: Table) -> Tree | None:
    """Give a constraint the name that it has; None for NOT NULL, a default, and one that is gone again."""
    kind = printing.kind_of(constraint)
    if kind is None:
        return None
    if constraint.conname is not None:
        return constraint if table.constraint(constraint.conname) else None
    columns = printing.columns_of(constraint)
    for known in table.of_kind(kind):
        if tuple(known.columns) == columns or set(known.columns) == set(columns):
            constraint.conname = known.name
            return constraint
    return None
