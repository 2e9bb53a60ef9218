"""ATTACH, DETACH, PARTITION OF and INHERIT: the bound is proven by a CHECK, or every row is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbsec.migrations.effects import dependents
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.implication import bound_term, implied, known_of, types_of
from dbsec.migrations.effects.indexes import matches
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.effects.terms import OPAQUE, Every, Some, Term, negation
from dbsec.migrations.operations import (
    AttachPartition,
    Bound,
    Constraint,
    ConstraintKind,
    CreateTable,
    DetachPartition,
    Inherit,
    Operation,
)
from dbsec.migrations.schema import places
from dbsec.migrations.schema.model import Index, Table

_TAKES_NOT_VALID = 18  # ATTACH takes a foreign key over that was not validated, and validates it


def attach(operation: AttachPartition, draft: Draft) -> None:
    """Foretell ATTACH PARTITION; of an index it locks no table for what is worth a word."""
    if operation.relation == "index" or operation.bound is None:
        return
    parent, child = draft.table(operation.table), draft.table(operation.partition)
    draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, parent)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(child))
    if not (draft.complete(parent) and draft.complete(child)):
        draft.doubts()
    _fits(parent, child, draft)
    _rows(parent, child, operation.bound, draft)
    beside_default(parent, operation.bound, draft)
    for index in parent.indexes.values():
        _index(index, parent, child, draft)
    for key in parent.of_kind(ConstraintKind.FOREIGN_KEY):
        _foreign_key(key, child, draft)
    for holder, _ in draft.schema.referencing(parent.name):
        draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, holder)


def _fits(parent: Table, child: Table, draft: Draft) -> None:
    if not (draft.complete(parent) and draft.complete(child)):
        return
    for name, column in parent.columns.items():
        own = child.columns.get(name)
        if own is None:
            draft.fails(f'child table is missing column "{name}"')
        elif column.not_null and not own.not_null:
            draft.fails(f'column "{name}" in child table "{child.name.name}" must be marked NOT NULL')
    for check in parent.of_kind(ConstraintKind.CHECK):
        own_check = child.constraint(check.name or "")
        if own_check is None and not check.no_inherit:
            draft.fails(f'child table is missing constraint "{check.name}"')
        elif own_check is not None and check.valid and not own_check.valid:
            draft.fails(f'constraint "{check.name}" conflicts with NOT VALID constraint on child table')


def bound_of(parent: Table, bound: Bound, draft: Draft) -> Term:
    """Write what rows of a partition must be: its own bound, and those of the parents above."""
    if parent.partition_by is None:
        return OPAQUE
    types = types_of(parent, draft.schema, draft.session.zone)
    if bound.strategy != "default":
        own = bound_term(bound, parent.partition_by[1], types)
    else:
        others = [one.bound for one in places.heirs(draft.schema, parent) if one.bound is not None]
        inside = tuple(bound_term(one, parent.partition_by[1], types) for one in others if one.strategy != "default")
        own = OPAQUE if OPAQUE in inside else negation(Some(inside))
    if parent.partition_of is None or parent.bound is None:
        return own
    return Every((own, bound_of(draft.table(parent.partition_of), parent.bound, draft)))


def _rows(parent: Table, child: Table, bound: Bound, draft: Draft) -> None:
    target = bound_of(parent, bound, draft)
    for leaf in draft.leaves(child):
        known = _known(leaf, child, draft)
        if implied(target, known):
            if target != Every(()):
                draft.proves(f"the constraints of {leaf.name} prove that its rows are in the bounds")
        else:
            draft.does(Work.SCAN, [leaf], "each row is read to see that it is in the bounds")


def _known(leaf: Table, above: Table, draft: Draft) -> list[Term]:
    return [term for table in (leaf, above) for term in known_of(table, draft.schema, draft.session.zone)]


def beside_default(parent: Table, bound: Bound, draft: Draft) -> None:
    """A new partition makes the DEFAULT partition prove that it has no row of the new bounds."""
    default = next((t for t in places.heirs(draft.schema, parent) if t.bound and t.bound.strategy == "default"), None)
    if default is None or parent.partition_by is None or bound.strategy == "default":
        return
    draft.lock(LockMode.ACCESS_EXCLUSIVE, default)
    types = types_of(parent, draft.schema, draft.session.zone)
    target = negation(bound_term(bound, parent.partition_by[1], types))
    for leaf in draft.leaves(default):
        draft.lock(LockMode.ACCESS_EXCLUSIVE, leaf)
        if implied(target, _known(leaf, default, draft)):
            draft.proves(f"the constraints of {leaf.name} prove that it has no row of the new partition")
        else:
            draft.does(Work.SCAN, [leaf], "each row of the DEFAULT partition is read: it might belong to the new one")


def _index(index: Index, parent: Table, child: Table, draft: Draft) -> None:
    """Each index of the parent is found on the child, or built there under the lock."""
    for leaf in draft.leaves(child):
        wanted = parent.constraint(index.constraint or "")
        found = (
            matches(index, own, draft, (wanted, leaf.constraint(own.constraint or ""))) for own in leaf.indexes.values()
        )
        if not any(found):
            draft.does(Work.BUILD, [leaf], f"the parent's index '{index.name}' has no match on {leaf.name}")


def _foreign_key(key: Constraint, child: Table, draft: Draft) -> None:
    """A foreign key that the child has already is taken over, and its triggers on the other table are dropped."""
    referenced = draft.family(draft.table(key.references or child.name))
    own = next((one for one in child.of_kind(ConstraintKind.FOREIGN_KEY) if _says_the_same(one, key)), None)
    taken = own is not None and (own.valid or draft.major >= _TAKES_NOT_VALID)
    draft.lock(LockMode.ACCESS_EXCLUSIVE if taken else LockMode.SHARE_ROW_EXCLUSIVE, *referenced)
    if key.valid and key.enforced and not (own is not None and own.valid):
        draft.does(Work.FK_SCAN, [child], "each row is looked up for the parent's foreign key")


def _says_the_same(own: Constraint, key: Constraint) -> bool:
    return (own.columns, own.references, own.referenced_columns) == (
        key.columns,
        key.references,
        key.referenced_columns,
    )


def create_partition(operation: CreateTable, draft: Draft) -> None:
    """Foretell what CREATE TABLE … PARTITION OF does to the tables that are there."""
    if operation.partition_of is None or operation.bound is None:
        return
    parent = draft.table(operation.partition_of)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, parent)
    if not draft.complete(parent):
        draft.doubts()
    beside_default(parent, operation.bound, draft)
    for name in dependents.references_of(parent):
        draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *draft.family(draft.table(name)))
    for holder, _ in draft.schema.referencing(parent.name):
        draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, holder)


def detach(operation: DetachPartition, draft: Draft) -> None:
    """Foretell DETACH PARTITION: metadata only; CONCURRENTLY waits for readers instead of stopping them."""
    parent, child = draft.table(operation.table), draft.table(operation.partition)
    default = [t for t in places.heirs(draft.schema, parent) if t.bound and t.bound.strategy == "default"]
    if operation.concurrently:
        if default:
            draft.fails("cannot detach partitions concurrently when a default partition exists")
        if draft.refused_in_transaction("ALTER TABLE ... DETACH CONCURRENTLY"):
            return
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, parent)
        draft.lock(LockMode.ACCESS_EXCLUSIVE, child)
    elif operation.finalize:
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, parent)
        draft.lock(LockMode.ACCESS_EXCLUSIVE, child)
    else:
        draft.lock(LockMode.ACCESS_EXCLUSIVE, parent, *draft.family(child), *default)
    for name in dependents.references_of(parent):
        draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *draft.family(draft.table(name)))
    for holder, _ in draft.schema.referencing(parent.name):
        draft.lock(LockMode.ACCESS_EXCLUSIVE, holder)
        draft.doubts()  # the planner chooses which of the two is read
        draft.does(Work.SCAN, [child, holder], f"rows of {holder.name} that reference the partition are looked for")


def inherit(operation: Inherit, draft: Draft) -> None:
    """Foretell INHERIT and NO INHERIT."""
    child = draft.target(operation)
    if child is None:
        return
    draft.lock(LockMode.ACCESS_EXCLUSIVE, child)
    if operation.add:
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, draft.table(operation.parent))


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    AttachPartition: attach,
    DetachPartition: detach,
    Inherit: inherit,
}
