"""The indexes and constraints of one table with every clause that they were made with, as PostgreSQL's parser has them.

The model of ``schema/`` keeps what locks and work depend on; a copy needs the rest too: operator classes, sort orders,
ON DELETE, INCLUDE, storage parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
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
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                  WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
ORDER BY x.indexrelid::pg_catalog.regclass::text
"""
_CONSTRAINTS: LiteralString = """
SELECT pg_catalog.format('ALTER TABLE x ADD CONSTRAINT %%I %%s', k.conname, pg_catalog.pg_get_constraintdef(k.oid))
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = pg_catalog.to_regclass(%s) AND k.contype IN ('c', 'u', 'x', 'f', 'p') ORDER BY k.conname
"""
_DEFAULTS: LiteralString = """
SELECT a.attname, pg_catalog.pg_get_expr(f.adbin, f.adrelid) FROM pg_catalog.pg_attrdef f
JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
WHERE f.adrelid = pg_catalog.to_regclass(%s) AND a.attgenerated = ''
"""


class Definitions(NamedTuple):
    """``indexes``: IndexStmt of each index without a constraint. ``constraints``: Constraint, each with its name and as
    one of the table. ``defaults``: column to SQL."""

    indexes: tuple[Tree, ...] = ()
    constraints: tuple[Tree, ...] = ()
    defaults: Mapping[str, str] = MappingProxyType({})


def from_catalog(connection: psycopg.Connection[Any], table: Name) -> Definitions:
    """Read them from the connected database. Locks: ACCESS SHARE on the table while its expressions are spelled out."""
    from psycopg.rows import tuple_row

    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET LOCAL search_path = ''")
        cursor.execute("SET LOCAL lock_timeout = '2s'")
        indexes = [printing.parsed(text) for (text,) in cursor.execute(_INDEXES, [str(table)])]
        constraints = [printing.parsed(text).cmds[0].def_ for (text,) in cursor.execute(_CONSTRAINTS, [str(table)])]
        defaults: dict[str, str] = dict(cursor.execute(_DEFAULTS, [str(table)]).fetchall())
    return Definitions(tuple(indexes), tuple(constraints), defaults)


def from_dump(text: str, table: Table, *, source: str) -> Definitions:
    """Read them from a dump, or from CREATE statements by hand; ``table`` tells the names that PostgreSQL gave."""
    from pglast import ast
    from pglast.enums import AlterTableType

    indexes: list[Tree] = []
    constraints: list[Tree] = []
    defaults: dict[str, str] = {}
    for statement in statements_of(text, source=source):
        if statement.kind not in ("IndexStmt", "AlterTableStmt", "CreateStmt"):
            continue
        tree = printing.parsed(statement.text)
        if not _is(tree.relation, table.name):
            continue
        tree.relation.schemaname = table.name.schema
        if isinstance(tree, ast.IndexStmt):
            indexes.append(tree)
        elif isinstance(tree, ast.CreateStmt):
            constraints += _of_create(tree)
            defaults |= _defaults_of(tree)
        else:
            constraints += [cmd.def_ for cmd in tree.cmds if isinstance(cmd.def_, ast.Constraint)]
            for cmd in tree.cmds:
                if cmd.subtype is AlterTableType.AT_ColumnDefault and cmd.def_ is not None:
                    defaults[cmd.name] = printing.expression(cmd.def_)
    kept = [one for one in (_named(constraint, table) for constraint in constraints) if one is not None]
    for index in indexes:
        index.idxname = index.idxname or _name_of(index, table, {other.idxname for other in indexes})
    alive = {index.name for index in table.indexes.values() if index.constraint is None}
    defaults = {name: text for name, text in defaults.items() if name in table.columns and table.columns[name].default}
    return Definitions(tuple(one for one in indexes if one.idxname in alive), tuple(kept), defaults)


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


def _defaults_of(tree: Tree) -> dict[str, str]:
    from pglast.enums import ConstrType

    return {
        element.colname: printing.expression(constraint.raw_expr)
        for element in tree.tableElts or ()
        for constraint in getattr(element, "constraints", None) or ()
        if constraint.contype is ConstrType.CONSTR_DEFAULT
    }


def _name_of(index: Tree, table: Table, taken: set[str]) -> str | None:
    """Find the name that PostgreSQL gave to an index without one."""
    columns = tuple(item.name or "" for item in index.indexParams)
    alike = (one.name for one in table.indexes.values() if one.columns == columns and one.unique == bool(index.unique))
    return next((name for name in alike if name not in taken and table.indexes[name].constraint is None), None)


def _named(constraint: Tree, table: Table) -> Tree | None:
    """Give a constraint the name that it has; None for NOT NULL, a default, and one that is gone again."""
    kind = printing.kind_of(constraint)
    if kind is None:
        return None
    columns = set(printing.columns_of(constraint))
    for known in table.of_kind(kind):
        if constraint.conname == known.name or (constraint.conname is None and set(known.columns) == columns):
            constraint.conname = known.name
            if known.references is not None:
                constraint.pktable.schemaname = known.references.schema
            return constraint
    return None
