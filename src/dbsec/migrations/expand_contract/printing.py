"""Trees of indexes and constraints back to SQL, over other columns; what is printed is parsed again and compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from dbsec.errors import UsageError
from dbsec.migrations.operations import ConstraintKind

Tree = Any  # a node of pglast.ast


def parsed(text: str) -> Tree:
    """Parse one statement."""
    from pglast import parse_sql

    return parse_sql(text)[0].stmt


def kind_of(constraint: Tree) -> ConstraintKind | None:
    """Class a constraint; None for NOT NULL, a default and what else stands beside a column."""
    from pglast.enums import ConstrType

    kinds = {
        ConstrType.CONSTR_CHECK: ConstraintKind.CHECK,
        ConstrType.CONSTR_UNIQUE: ConstraintKind.UNIQUE,
        ConstrType.CONSTR_PRIMARY: ConstraintKind.PRIMARY_KEY,
        ConstrType.CONSTR_FOREIGN: ConstraintKind.FOREIGN_KEY,
        ConstrType.CONSTR_EXCLUSION: ConstraintKind.EXCLUDE,
    }
    return kinds.get(constraint.contype)


def columns_of(tree: Tree) -> tuple[str, ...]:
    """Return the columns of its own table that an index or a constraint names, each once."""
    found: dict[str, None] = {}

    def note(name: str) -> str:
        found[name] = None
        return name

    _visit(tree, note)
    return tuple(found)


def renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    """Copy an index or a constraint, with other names for columns of its own table."""
    made = copy.deepcopy(tree)
    _visit(made, lambda name: names.get(name, name))
    return made


def printed(tree: Tree) -> str:
    """Write a statement as SQL. Errors: ``UsageError`` for one that the printer does not write as it was."""
    from pglast.stream import RawStream

    text = RawStream()(tree)
    try:
        same = parsed(text) == tree
    except ValueError:  # pglast's ParseError is none of its own
        same = False
    if not same:
        what = getattr(tree, "idxname", None) or "a constraint"
        raise UsageError(f"'{what}' has a clause that dbsec cannot write again", hint="drop it, or copy it by hand")
    return str(text)


def expression(tree: Tree) -> str:
    """Write an expression as SQL."""
    from pglast.stream import RawStream

    return str(RawStream()(tree))


def _visit(tree: Tree, rename: Callable[[str], str]) -> None:
    """Pass each name of a column of the table through ``rename``."""
    from pglast import ast

    if isinstance(tree, ast.Constraint):
        for field in ("keys", "including", "fk_attrs", "fk_del_set_cols"):
            strings = getattr(tree, field, None)
            if strings:
                setattr(tree, field, tuple(ast.String(rename(one.sval)) for one in strings))
        _below(tree.raw_expr, rename)
        _below(tree.exclusions, rename)
        _below(tree.where_clause, rename)
    else:
        _below(tree.indexParams, rename)
        _below(tree.indexIncludingParams, rename)
        _below(tree.whereClause, rename)


def _below(node: Tree, rename: Callable[[str], str]) -> None:
    from pglast import ast

    if isinstance(node, (list, tuple)):
        for item in node:
            _below(item, rename)
    elif isinstance(node, ast.IndexElem):
        node.name = rename(node.name) if node.name else node.name
        _below(node.expr, rename)
    elif isinstance(node, ast.ColumnRef):
        *before, last = node.fields or ()
        if isinstance(last, ast.String):
            node.fields = (*before, ast.String(rename(str(last.sval))))
    elif isinstance(node, ast.Node):
        for name in node:
            _below(getattr(node, name), rename)
