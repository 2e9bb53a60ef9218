"""ALTER TABLE and its kin: one operation for each clause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.interpret import columns
from dbsec.migrations.interpret.clauses import clauses
from dbsec.migrations.interpret.words import object_kind, role_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Operation
from dbsec.migrations.statement import Node, Statement

Place = dict[str, Any]
"""The keyword arguments that every operation on the relation shares: relation, if_exists, only, clause."""

_Clause = Callable[[Name, Node, Place], Operation]


def alter_table(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterTableStmt: of a table, view, index, sequence, foreign table or composite type."""
    table, commands = tree.name_of(node["relation"]), node.get("cmds", ())
    place: Place = {
        "relation": object_kind(node["objtype"]),
        "if_exists": bool(node.get("missing_ok")),
        "only": not node["relation"].get("inh") and node["objtype"] == "OBJECT_TABLE",
    }
    parts = list(zip(commands, clauses(statement.text, len(commands)), strict=True))
    if len(parts) > 1:
        parts.sort(key=lambda part: part[0]["AlterTableCmd"]["subtype"] not in _FIRST)
    for command, clause in parts:
        inner = command["AlterTableCmd"]
        subtype = inner["subtype"]
        here = {**place, "clause": clause}
        if place["relation"] == "type" and (act := _ATTRIBUTE_ACTS.get(subtype)):
            yield _attribute(table, inner, act, here)
        elif (make := _CLAUSES.get(subtype)) is not None:
            yield make(table, inner, here)
        else:
            yield op.AlterOther(table, subtype, **here)


# What PostgreSQL drops first, wherever it stands: SET NOT NULL finds no CHECK that another clause drops.
_FIRST = {"AT_DropConstraint", "AT_DropNotNull"}
_ATTRIBUTE_ACTS = {"AT_AddColumn": "add", "AT_DropColumn": "drop", "AT_AlterColumnType": "alter"}


def _attribute(table: Name, node: Node, act: str, place: Place) -> Operation:
    name = node.get("name") or node["def"]["ColumnDef"].get("colname", "")
    return op.AlterComposite(table, act, name, _cascades(node), **place)


def _cascades(node: Node) -> bool:
    return bool(node.get("behavior") == "DROP_CASCADE")


def _column(node: Node) -> str:
    """Name the column; ALTER INDEX … ALTER COLUMN names it by number."""
    return str(node.get("name") or node.get("num", ""))


def _add_column(table: Name, node: Node, place: Place) -> Operation:
    column = columns.column_of(node["def"]["ColumnDef"])
    return op.AddColumn(table, column, bool(node.get("missing_ok")), **place)


def _drop_column(table: Name, node: Node, place: Place) -> Operation:
    return op.DropColumn(table, _column(node), _cascades(node), bool(node.get("missing_ok")), **place)


def _column_type(table: Name, node: Node, place: Place) -> Operation:
    new = node["def"]["ColumnDef"]
    kind, collation = columns.type_of(new.get("typeName")), columns.collation_of(new)
    return op.AlterColumnType(table, _column(node), kind, new.get("raw_default"), collation, **place)


def _default(table: Name, node: Node, place: Place) -> Operation:
    if "def" in node:
        return op.SetDefault(table, _column(node), node["def"], **place)
    return op.DropDefault(table, _column(node), **place)


def _set_expression(table: Name, node: Node, place: Place) -> Operation:
    return op.SetExpression(table, _column(node), node["def"], **place)


def _identity(act: str) -> _Clause:
    def make(table: Name, node: Node, place: Place) -> Operation:
        added = node.get("def", {}).get("Constraint", {})
        changed = tree.option(node.get("def", {}).get("List", {}).get("items"), "generated")
        letter = chr(changed["arg"]["Integer"].get("ival", 0)) if changed else added.get("generated_when")
        return op.AlterIdentity(table, _column(node), act, letter == "a" if letter else None, **place)

    return make


def _column_option(option: str) -> _Clause:
    def make(table: Name, node: Node, place: Place) -> Operation:
        return op.SetColumnOption(table, _column(node), option, **place)

    return make


def _on_column(kind: Callable[..., Operation]) -> _Clause:
    def make(table: Name, node: Node, place: Place) -> Operation:
        return kind(table, _column(node), **place)

    return make


def _add_constraint(table: Name, node: Node, place: Place) -> Operation:
    return op.AddConstraint(table, columns.constraint_of(node["def"]["Constraint"]), **place)


def _validate(table: Name, node: Node, place: Place) -> Operation:
    return op.ValidateConstraint(table, node.get("name", ""), **place)


def _alter_constraint(table: Name, node: Node, place: Place) -> Operation:
    change = node["def"]["ATAlterConstraint"]
    enforced = bool(change.get("is_enforced")) if change.get("alterEnforceability") else None
    return op.AlterConstraint(table, change.get("conname", ""), enforced, **place)


def _drop_constraint(table: Name, node: Node, place: Place) -> Operation:
    missing_ok = bool(node.get("missing_ok"))
    return op.DropConstraint(table, node.get("name", ""), _cascades(node), if_constraint_exists=missing_ok, **place)


def _persistence(logged: bool) -> _Clause:
    return lambda table, _, place: op.SetPersistence(table, logged, **place)


def _tablespace(table: Name, node: Node, place: Place) -> Operation:
    return op.SetTablespace(table, node.get("name", ""), **place)


def _access_method(table: Name, node: Node, place: Place) -> Operation:
    return op.SetAccessMethod(table, node.get("name"), **place)


def _parameters(table: Name, node: Node, place: Place) -> Operation:
    items = [item["DefElem"] for item in node.get("def", {}).get("List", {}).get("items", ())]
    names = (".".join(filter(None, (item.get("defnamespace"), item.get("defname", "")))) for item in items)
    return op.SetParameters(table, tuple(names), **place)


def _attach(table: Name, node: Node, place: Place) -> Operation:
    part = node["def"]["PartitionCmd"]
    return op.AttachPartition(table, tree.name_of(part["name"]), columns.bound_of(part.get("bound")), **place)


def _detach(table: Name, node: Node, place: Place) -> Operation:
    part = node["def"]["PartitionCmd"]
    finalize = node["subtype"] == "AT_DetachPartitionFinalize"
    return op.DetachPartition(table, tree.name_of(part["name"]), bool(part.get("concurrent")), finalize, **place)


def _inherit(add: bool) -> _Clause:
    return lambda table, node, place: op.Inherit(table, tree.name_of(node["def"]), add, **place)


def _row_security(act: str) -> _Clause:
    return lambda table, _, place: op.RowSecurity(table, act, **place)


def _trigger(enabled: bool, what: str = "trigger") -> _Clause:
    return lambda table, node, place: op.TriggerState(table, node.get("name"), enabled, what, **place)


def _replica_identity(table: Name, node: Node, place: Place) -> Operation:
    identity = node["def"]["ReplicaIdentityStmt"]
    kind = {"d": "default", "f": "full", "n": "nothing", "i": "index"}[identity["identity_type"]]
    return op.ReplicaIdentity(table, kind, identity.get("name"), **place)


def _owner(table: Name, node: Node, place: Place) -> Operation:
    return op.ChangeOwner(place["relation"], table, role_of(node.get("newowner", {})), clause=place["clause"])


_CLAUSES: dict[str, _Clause] = {
    "AT_AddColumn": _add_column,
    "AT_DropColumn": _drop_column,
    "AT_AlterColumnType": _column_type,
    "AT_ColumnDefault": _default,
    "AT_SetNotNull": _on_column(op.SetNotNull),
    "AT_DropNotNull": _on_column(op.DropNotNull),
    "AT_SetExpression": _set_expression,
    "AT_DropExpression": _on_column(op.DropExpression),
    "AT_AddIdentity": _identity("add"),
    "AT_SetIdentity": _identity("set"),
    "AT_DropIdentity": _identity("drop"),
    "AT_SetStatistics": _column_option("statistics"),
    "AT_SetStorage": _column_option("storage"),
    "AT_SetCompression": _column_option("compression"),
    "AT_SetOptions": _column_option("options"),
    "AT_ResetOptions": _column_option("options"),
    "AT_AddConstraint": _add_constraint,
    "AT_ValidateConstraint": _validate,
    "AT_AlterConstraint": _alter_constraint,
    "AT_DropConstraint": _drop_constraint,
    "AT_SetLogged": _persistence(True),
    "AT_SetUnLogged": _persistence(False),
    "AT_SetTableSpace": _tablespace,
    "AT_SetAccessMethod": _access_method,
    "AT_SetRelOptions": _parameters,
    "AT_ResetRelOptions": _parameters,
    "AT_ReplaceRelOptions": _parameters,
    "AT_AttachPartition": _attach,
    "AT_DetachPartition": _detach,
    "AT_DetachPartitionFinalize": _detach,
    "AT_AddInherit": _inherit(True),
    "AT_DropInherit": _inherit(False),
    "AT_EnableRowSecurity": _row_security("enable"),
    "AT_DisableRowSecurity": _row_security("disable"),
    "AT_ForceRowSecurity": _row_security("force"),
    "AT_NoForceRowSecurity": _row_security("no force"),
    "AT_EnableTrig": _trigger(True),
    "AT_EnableAlwaysTrig": _trigger(True),
    "AT_EnableReplicaTrig": _trigger(True),
    "AT_EnableTrigAll": _trigger(True),
    "AT_EnableTrigUser": _trigger(True),
    "AT_DisableTrig": _trigger(False),
    "AT_DisableTrigAll": _trigger(False),
    "AT_DisableTrigUser": _trigger(False),
    "AT_EnableRule": _trigger(True, "rule"),
    "AT_EnableAlwaysRule": _trigger(True, "rule"),
    "AT_EnableReplicaRule": _trigger(True, "rule"),
    "AT_DisableRule": _trigger(False, "rule"),
    "AT_ReplicaIdentity": _replica_identity,
    "AT_ChangeOwner": _owner,
}
