"""What hangs on the old column, made again on the new one: indexes, unique keys, checks, foreign keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbsec.migrations.expand_contract import printing
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Act, Bounds
from dbsec.migrations.operations import ConstraintKind
from dbsec.migrations.rules._words import columns, ident, sql

Tree = Any  # a node of pglast.ast
_BUILD = "SHARE UPDATE EXCLUSIVE while it is built: all read and write. What a failed try left goes first"
_NULLS = "one NULL alone may stand in it: it is built once every row is filled"


@dataclass(slots=True)
class Copies:
    """``early``: of expand. ``late``: of contract. ``swap``: in the transaction that drops the old column.
    ``notes``: what was not carried over."""

    early: list[Act] = field(default_factory=list)
    late: list[Act] = field(default_factory=list)
    swap: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Carried:
    """What of the old column holds for the new one. ``names``: old to new. ``values``: it has the same values, so that
    checks, foreign keys, expressions and orders mean the same; otherwise only equality does."""

    names: Mapping[str, str]
    values: bool = True
    same_type: bool = True


def copies(place: Place, carried: Carried) -> Copies:
    """Write the copies for a table."""
    made = Copies()
    for index in place.definitions.indexes:
        if _touches(index, carried):
            _copy_index(place, index, carried, made)
    for constraint in place.definitions.constraints:
        if _touches(constraint, carried):
            _copy_constraint(place, constraint, carried, made)
    return made


def lost(place: Place, names: tuple[str, ...]) -> list[str]:
    """Name what hangs on columns that have no single successor."""
    return [f"not carried over: {told}" for told in _hanging(place, names)]


def _hanging(place: Place, names: tuple[str, ...]) -> Iterator[str]:
    for index in place.definitions.indexes:
        if set(printing.columns_of(index)) & set(names):
            yield f"index '{index.idxname}'"
    for constraint in place.definitions.constraints:
        if set(printing.columns_of(constraint)) & set(names):
            yield f"{printing.kind_of(constraint)} constraint '{constraint.conname}'"


def _touches(tree: Tree, carried: Carried) -> bool:
    return bool(set(printing.columns_of(tree)) & set(carried.names))


def _copy_index(place: Place, index: Tree, carried: Carried, made: Copies) -> None:
    plain = all(item.expr is None for item in index.indexParams) and index.whereClause is None
    if not carried.values and not (plain and index.accessMethod in ("btree", "hash")):
        made.notes.append(f"not carried over: index '{index.idxname}' needs the values themselves")
        return
    tree = printing.renamed(index, carried.names)
    if not carried.same_type:
        for item in tree.indexParams:
            if item.name in carried.names.values() and (item.opclass or item.collation):
                made.notes.append(f"index '{index.idxname}': its operator class or collation is of the old type")
                item.opclass = item.collation = None
    tree.concurrent = tree.if_not_exists = True
    tree.idxname = place.fresh(_successor(index.idxname, carried.names))
    nulls = bool(tree.nulls_not_distinct)
    (made.late if nulls else made.early).extend(_built(place, tree.idxname, printing.printed(tree), nulls=nulls))


def _built(place: Place, name: str, statement: str, *, nulls: bool) -> list[Act]:
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {place.beside(name)};"
    why = f"{_BUILD}; {_NULLS}" if nulls else _BUILD
    return [Act(drop, why, Bounds.CONCURRENT), Act(f"{statement};", "", Bounds.CONCURRENT)]


def _copy_constraint(place: Place, constraint: Tree, carried: Carried, made: Copies) -> None:
    kind = printing.kind_of(constraint)
    if kind is ConstraintKind.UNIQUE:
        _copy_unique(place, constraint, carried, made)
    elif kind in (ConstraintKind.CHECK, ConstraintKind.FOREIGN_KEY) and carried.values:
        _copy_not_valid(place, constraint, carried, made)
    else:
        made.notes.append(f"not carried over: {kind} constraint '{constraint.conname}'")


def _copy_unique(place: Place, constraint: Tree, carried: Carried, made: Copies) -> None:
    """A unique index serves at once; it becomes the constraint when the old one is gone with its column."""
    tree = printing.renamed(constraint, carried.names)
    name = place.fresh(_successor(constraint.conname, carried.names))
    statement = f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {ident(name)} ON {place.name} ({_named(tree.keys)})"
    if tree.including:
        statement += f" INCLUDE ({_named(tree.including)})"
    if tree.nulls_not_distinct:
        statement += " NULLS NOT DISTINCT"
    nulls = bool(tree.nulls_not_distinct)
    (made.late if nulls else made.early).extend(_built(place, name, f"{statement};".rstrip(";"), nulls=nulls))
    deferred = " DEFERRABLE" * bool(tree.deferrable) + " INITIALLY DEFERRED" * bool(tree.initdeferred)
    made.swap.append(
        f"ALTER TABLE {place.name} ADD CONSTRAINT {ident(name)} UNIQUE USING INDEX {ident(name)}{deferred};"
    )


def _copy_not_valid(place: Place, constraint: Tree, carried: Carried, made: Copies) -> None:
    tree = printing.renamed(constraint, carried.names)
    tree.conname = place.fresh(_successor(constraint.conname, carried.names))
    tree.skip_validation, tree.initially_valid = True, False
    name = ident(tree.conname)
    foreign = printing.kind_of(tree) is ConstraintKind.FOREIGN_KEY
    lock = f"SHARE ROW EXCLUSIVE on {place.name} and {_target(tree)}" if foreign else "ACCESS EXCLUSIVE"
    made.early += [
        Act(f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {name};", "what a run that broke off has left"),
        Act(f"ALTER TABLE {place.name} ADD {printing.expression(tree)};", f"{lock} for a moment: no row is read"),
    ]
    why = "SHARE UPDATE EXCLUSIVE while the rows are read: all go on"
    made.late.append(Act(f"ALTER TABLE {place.name} VALIDATE CONSTRAINT {name};", why, Bounds.LONG))


def _target(constraint: Tree) -> str:
    from dbsec.migrations.names import Name

    return sql(Name(constraint.pktable.schemaname, constraint.pktable.relname))


def _named(strings: Tree) -> str:
    return columns(tuple(one.sval for one in strings))


def _successor(name: str, names: Mapping[str, str]) -> str:
    """Name the copy after the new column, as the old one was named after the old."""
    for old, new in names.items():
        if old in name:
            return name.replace(old, new)
    return f"{name}_new"
