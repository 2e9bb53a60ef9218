"""What the running release knows: objects and columns that this release did not make itself, and what still holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dbsec.findings import Severity
from dbsec.migrations import tree
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    AddColumn,
    Column,
    Constraint,
    ConstraintKind,
    CreateTable,
    CreateTableAs,
    CreateTrigger,
    CreateView,
    Drop,
    Operation,
    Rename,
    Write,
)
from dbsec.migrations.rule import Step
from dbsec.migrations.script import Phase
from dbsec.migrations.statement import Node, Statement

RELATIONS = ("table", "view", "materialized view", "foreign table")
ROUTINES = ("function", "procedure", "routine", "aggregate")


def contract(step: Step) -> Severity | None:
    """Tell the severity of a drop or rename that is the purpose of phase contract: no old release is left to break."""
    return Severity.WARNING if step.statement.script.phase is Phase.CONTRACT else None


def knows(step: Step, name: Name) -> bool:
    """Tell whether the running release may use a relation: this release did not make it. Unknown ones count as old."""
    table = step.schema.table(name)
    if table is not None:
        return not table.new
    view = step.schema.view(name)
    return view is None or not view.new


def is_foreign(step: Step, name: Name) -> bool:
    """Tell whether a table is foreign: PostgreSQL enforces no constraint on it."""
    table = step.schema.table(name)
    return table is not None and table.kind == "foreign table"


def absent(step: Step, name: Name) -> bool:
    """Tell whether a relation is proven not to exist: IF EXISTS skips it."""
    return step.schema.known and step.schema.table(name) is None and step.schema.view(name) is None


def made(step: Step, kind: str, name: Name) -> bool:
    """Tell whether this release made an object that is no relation."""
    kinds = ROUTINES if kind in ROUTINES else (kind,)
    names = {name, step.schema.qualified(name)}
    if kind in ("type", "domain") and names & step.schema.new_types:
        return True
    return any((one, spelled) in step.schema.new_objects for one in kinds for spelled in names)


def column(step: Step, table: Name, name: str) -> Column | None:
    """Find a column as it stands before the operation."""
    known = step.schema.table(table)
    if known is not None and name in known.columns:
        return known.columns[name]
    added = _added(step, table, name)
    return added.column if added is not None else None


def is_new_column(step: Step, table: Name, name: str) -> bool:
    """Tell whether this release added the column: the running release never writes nor reads it by name."""
    known = step.schema.table(table)
    if known is not None and (known.new or name in known.columns or name in known.new_columns):
        return known.new or name in known.new_columns
    return _added(step, table, name) is not None


def _added(step: Step, table: Name, name: str) -> AddColumn | None:
    """Find the ADD COLUMN of a table that no schema describes, in the script itself."""
    for _, earlier in step.preceding:
        if isinstance(earlier, AddColumn) and earlier.table == table and earlier.column.name == name:
            return None if earlier.if_not_exists else earlier
    return None


def fills_itself(of: Column) -> bool:
    """Tell whether an INSERT that does not name the column still puts a value into it."""
    serial = of.type.name in ("serial", "bigserial", "smallserial") and not of.type.array
    has_default = of.default is not None and not tree.is_null(of.default)
    return has_default or serial or bool(of.generated) or bool(of.identity)


def filling_trigger(step: Step, table: Name) -> str | None:
    """Name a BEFORE INSERT row trigger that the script gave the table: it may fill what the old release leaves out."""
    for _, earlier in step.preceding:
        if isinstance(earlier, CreateTrigger) and earlier.table == table and earlier.row and earlier.timing == "before":
            return earlier.name
    return None


def not_null_columns(constraint: Constraint) -> tuple[str, ...]:
    """List the columns that a constraint keeps from NULL: NOT NULL, and CHECK (a IS NOT NULL AND …)."""
    if constraint.kind is ConstraintKind.NOT_NULL:
        return constraint.columns
    if constraint.kind is ConstraintKind.CHECK and constraint.expression is not None:
        return tuple(_never_null(constraint.expression))
    return ()


def _never_null(node: Node) -> Iterator[str]:
    if "NullTest" in node and node["NullTest"].get("nulltesttype") == "IS_NOT_NULL":
        argument = node["NullTest"].get("arg", {})
        if "ColumnRef" in argument:
            yield tree.texts(argument["ColumnRef"].get("fields"))[-1]
    elif node.get("BoolExpr", {}).get("boolop") == "AND_EXPR":
        for part in node["BoolExpr"]["args"]:
            yield from _never_null(part)


def earlier_in_transaction(step: Step) -> Iterator[tuple[Statement, Operation]]:
    """Yield what ran before in the open transaction, the latest first."""
    if step.statement.in_transaction:
        for at in range(len(step.preceding) - 1, -1, -1):
            statement, operation = step.preceding[at]
            if statement.block != step.statement.block:
                return
            yield statement, operation


def later_in_transaction(step: Step, wanted: Callable[[Operation], bool]) -> bool:
    """Tell whether the same transaction still does something: nobody sees the state between."""
    block = step.statement.block
    return bool(block) and any(statement.block == block and wanted(later) for statement, later in step.following)


def comes_back(step: Step, name: Name) -> bool:
    """Tell whether the same transaction makes a table or view of this name again, or renames another to it."""

    def makes(later: Operation) -> bool:
        if isinstance(later, CreateView):
            return _same(later.view, name)
        if isinstance(later, Rename):
            return later.kind in RELATIONS and _same(Name(later.name.schema, later.new), name)
        return isinstance(later, (CreateTable, CreateTableAs)) and _same(later.table, name)

    return later_in_transaction(step, makes)


def dropped_in_transaction(step: Step, kind: str, name: str) -> bool:
    """Tell whether the open transaction dropped an object of this name before."""
    return any(
        isinstance(earlier, Drop) and earlier.kind == kind and earlier.name.name == name
        for _, earlier in earlier_in_transaction(step)
    )


def _same(one: Name, other: Name) -> bool:
    return (one.name == other.name and None in (one.schema, other.schema)) or one == other


def held(step: Step, least: LockMode) -> tuple[Name, LockMode] | None:
    """Find the strongest lock that the open transaction holds on a relation of the running release."""
    strong = [(mode, name) for name, mode in step.session.held.items() if mode >= least and knows(step, name)]
    if not strong:
        return None
    mode, name = max(strong, key=lambda one: (one[0], str(one[1])))
    return name, mode


def is_off(value: str | None) -> bool:
    """Tell whether a time limit is none: not set, or 0 in any unit."""
    return value is None or value.strip().rstrip("muinshd ").strip("0") in ("", ".")


def few_rows(step: Step, write: Write) -> bool:
    """Tell whether a write is held to a batch: VALUES, a LIMIT, or a key pinned to constants or a range of them."""
    if not write.bounded:
        return False
    table = step.schema.table(write.table)
    if table is None or not write.pins or "ctid" in write.pins:
        return True
    kinds = (ConstraintKind.PRIMARY_KEY, ConstraintKind.UNIQUE)
    keys = [one.columns for one in table.of_kind(*kinds)]
    keys += [one.columns for one in table.indexes.values() if one.unique and one.predicate is None]
    return any(key and set(key) <= set(write.pins) for key in keys)
