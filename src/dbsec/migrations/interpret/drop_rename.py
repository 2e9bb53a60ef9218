"""DROP, RENAME, SET SCHEMA, OWNER TO, COMMENT, GRANT: what names an object of any kind."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.interpret.words import object_kind, role_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Operation
from dbsec.migrations.statement import Node, Statement

_OF_A_TABLE = ("OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE")
_DROPS = {
    "DropdbStmt": ("database", "dbname"),
    "DropTableSpaceStmt": ("tablespace", "tablespacename"),
    "DropSubscriptionStmt": ("subscription", "subname"),
    "DropUserMappingStmt": ("user mapping", "servername"),
}


def drop(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read DropStmt: one operation for each object that it names."""
    enum = node["removeType"]
    for item in node.get("objects", ()):
        name, table = _of_table(item) if enum in _OF_A_TABLE else (_object(item, enum), None)
        yield op.Drop(
            object_kind(enum),
            name,
            table,
            node.get("behavior") == "DROP_CASCADE",
            bool(node.get("concurrent")),
            bool(node.get("missing_ok")),
            clause=statement.text,
        )


def _of_table(item: Node) -> tuple[Name, Name]:
    parts = tree.texts(item["List"]["items"])
    return Name(None, parts[-1]), tree.dotted(parts[:-1])


def _object(item: Node, enum: str) -> Name:
    if enum in ("OBJECT_CAST", "OBJECT_TRANSFORM"):
        parts = [str(tree.object_name(part)) for part in item["List"]["items"]]
        return Name(None, (" AS " if enum == "OBJECT_CAST" else " LANGUAGE ").join(parts))
    if enum in ("OBJECT_OPCLASS", "OBJECT_OPFAMILY"):  # the access method stands first
        return tree.dotted(tree.texts(item["List"]["items"])[1:])
    return tree.object_name(item)


def drop_one(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read the DROP statements that have a node of their own."""
    kind, key = _DROPS[statement.kind]
    cascade, if_exists = node.get("behavior") == "DROP_CASCADE", bool(node.get("missing_ok"))
    name = Name(None, node.get(key, ""))
    yield op.Drop(kind, name, cascade=cascade, if_exists=if_exists, clause=statement.text)


def drop_role(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read DropRoleStmt."""
    for role in node.get("roles", ()):
        name = Name(None, role_of(role))
        yield op.Drop("role", name, if_exists=bool(node.get("missing_ok")), clause=statement.text)


def rename(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read RenameStmt; what has a table or a domain around it names it in ``table``."""
    table = tree.name_of(node["relation"]) if "relation" in node else None
    if table is None and "object" in node and "subname" in node:
        table = tree.object_name(node["object"])
    if "subname" in node:
        name = Name(None, node["subname"])
    else:
        name, table = table or _object(node["object"], node["renameType"]), None
    yield op.Rename(
        object_kind(node["renameType"]),
        name,
        node.get("newname", ""),
        table,
        bool(node.get("missing_ok")),
        clause=statement.text,
    )


def set_schema(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterObjectSchemaStmt."""
    enum = node["objectType"]
    name = tree.name_of(node["relation"]) if "relation" in node else _object(node["object"], enum)
    yield op.SetSchema(object_kind(enum), name, node.get("newschema", ""), clause=statement.text)


def change_owner(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterOwnerStmt."""
    enum = node["objectType"]
    name = tree.name_of(node["relation"]) if "relation" in node else _object(node["object"], enum)
    yield op.ChangeOwner(object_kind(enum), name, role_of(node.get("newowner", {})), clause=statement.text)


def comment(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CommentStmt and SecLabelStmt; what belongs to a table or domain bears its name."""
    enum, item = node["objtype"], node["object"]
    if enum == "OBJECT_DOMCONSTRAINT":
        name = tree.object_name(item["List"]["items"][0])
    elif enum in (*_OF_A_TABLE, "OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"):
        name = _of_table(item)[1]
    else:
        name = _object(item, enum)
    yield op.Comment(object_kind(enum), name, clause=statement.text)


def grant(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read GrantStmt; ON ALL … IN SCHEMA has the kind ``all tables`` and the schema's name."""
    kind = object_kind(node["objtype"])
    if node.get("targtype") == "ACL_TARGET_ALL_IN_SCHEMA":
        kind = f"all {kind}s"
    yield op.Grant(
        bool(node.get("is_grant")),
        kind,
        tuple(tree.object_name(item) for item in node.get("objects", ())),
        tuple(item["AccessPriv"].get("priv_name", "all") for item in node.get("privileges", ())),
        tuple(role_of(role) for role in node.get("grantees", ())),
        clause=statement.text,
    )


def grant_role(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read GrantRoleStmt: roles are the names, members the roles."""
    yield op.Grant(
        bool(node.get("is_grant")),
        "role",
        tuple(Name(None, item["AccessPriv"].get("priv_name", "")) for item in node.get("granted_roles", ())),
        (),
        tuple(role_of(role) for role in node.get("grantee_roles", ())),
        clause=statement.text,
    )


def default_privileges(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterDefaultPrivilegesStmt: rights on what is made later, so that no object is named."""
    yield from grant({**node["action"], "objects": []}, statement)
