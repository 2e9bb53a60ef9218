"""CREATE and ALTER of what is no relation: types, domains, functions, schemas, extensions and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dbsec.migrations import operations as op
from dbsec.migrations import tree
from dbsec.migrations.interpret import columns
from dbsec.migrations.interpret.words import object_kind
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Constraint, Operation
from dbsec.migrations.statement import Node, Statement

_DOMAIN_ACTS = {
    "C": "add constraint",
    "V": "validate constraint",
    "X": "drop constraint",
    "O": "set not null",
    "N": "drop not null",
}


def create_function(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateFunctionStmt."""
    options = node.get("options", ())
    language, volatility = tree.option(options, "language"), tree.option(options, "volatility")
    yield op.CreateFunction(
        tree.dotted(tree.texts(node.get("funcname"))),
        tree.text(language["arg"]).lower() if language else "sql",
        tree.text(volatility["arg"]) if volatility else "volatile",
        tree.switched_on(tree.option(options, "security")),
        _settings(options)[0],
        bool(node.get("replace")),
        bool(node.get("is_procedure")),
        clause=statement.text,
    )


def alter_function(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterFunctionStmt."""
    actions = node.get("actions", ())
    security, volatility = tree.option(actions, "security"), tree.option(actions, "volatility")
    settings, reset = _settings(actions)
    yield op.AlterFunction(
        tree.dotted(tree.texts(node["func"].get("objname"))),
        None if security is None else tree.switched_on(security),
        settings,
        reset,
        tree.text(volatility["arg"]) if volatility else None,
        clause=statement.text,
    )


def _settings(options: Iterable[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read SET and RESET clauses: the names set, the names reset ("all" for RESET ALL)."""
    clauses = [item["DefElem"]["arg"]["VariableSetStmt"] for item in options if item["DefElem"].get("defname") == "set"]
    reset = {"VAR_RESET", "VAR_RESET_ALL", "VAR_SET_DEFAULT"}
    return (
        tuple(clause.get("name", "all").lower() for clause in clauses if clause["kind"] not in reset),
        tuple(clause.get("name", "all").lower() for clause in clauses if clause["kind"] in reset),
    )


def create_enum(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateEnumStmt."""
    name = tree.dotted(tree.texts(node.get("typeName")))
    yield op.CreateType(name, "enum", tree.texts(node.get("vals")), clause=statement.text)


def create_composite(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CompositeTypeStmt."""
    yield op.CreateType(tree.name_of(node["typevar"]), "composite", clause=statement.text)


def create_range(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateRangeStmt."""
    yield op.CreateType(tree.dotted(tree.texts(node.get("typeName"))), "range", clause=statement.text)


def define(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read DefineStmt: base types, aggregates, operators, collations, text search objects."""
    name = tree.dotted(tree.texts(node.get("defnames")))
    if node["kind"] == "OBJECT_TYPE":
        yield op.CreateType(name, "base", clause=statement.text)
    else:
        yield op.CreateOther(object_kind(node["kind"]), name, clause=statement.text)


def alter_enum(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterEnumStmt: ADD VALUE and RENAME VALUE."""
    yield op.AlterEnum(
        tree.dotted(tree.texts(node.get("typeName"))),
        node.get("newVal", ""),
        node.get("oldVal"),
        bool(node.get("skipIfNewValExists")),
        clause=statement.text,
    )


def create_domain(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateDomainStmt."""
    inner = [item["Constraint"] for item in node.get("constraints", ())]
    defaults = [item.get("raw_expr") for item in inner if item["contype"] == "CONSTR_DEFAULT"]
    yield op.CreateDomain(
        tree.dotted(tree.texts(node.get("domainname"))),
        columns.type_of(node.get("typeName")),
        tuple(_domain_constraint(item) for item in inner if item["contype"] in ("CONSTR_CHECK", "CONSTR_NOTNULL")),
        defaults[-1] if defaults else None,
        clause=statement.text,
    )


def _domain_constraint(node: Node) -> Constraint:
    return columns.constraint_of({**node, "keys": []})


def alter_domain(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read AlterDomainStmt."""
    written = node.get("def")
    act = _DOMAIN_ACTS.get(node["subtype"]) or ("set default" if written else "drop default")
    constraint = _domain_constraint(written["Constraint"]) if written and act == "add constraint" else None
    yield op.AlterDomain(
        tree.dotted(tree.texts(node.get("typeName"))),
        act,
        constraint,
        node.get("name") or (constraint.name if constraint else None),
        written if act == "set default" else None,
        clause=statement.text,
    )


def _other(kind: str, *keys: str) -> Callable[[Node, Statement], Iterator[Operation]]:
    """Make the reader of a statement whose name stands as text or as a list under one of ``keys``."""

    def read(node: Node, statement: Statement) -> Iterator[Operation]:
        value = next((node[key] for key in keys if node.get(key)), "")
        name = Name(None, value) if isinstance(value, str) else tree.dotted(tree.texts(value))
        yield op.CreateOther(kind, name, _tables(node), clause=statement.text)

    return read


def _tables(node: Node) -> tuple[Name, ...]:
    """Read the tables of CREATE STATISTICS and of a publication."""
    objects = (item["PublicationObjSpec"] for item in node.get("pubobjects", ()))
    published = [item["pubtable"]["relation"] for item in objects if "pubtable" in item]
    return tree.names_of([*published, *(item for item in node.get("relations", ()) if "RangeVar" in item)])


def create_cast(node: Node, statement: Statement) -> Iterator[Operation]:
    """Read CreateCastStmt; its name is ``source AS target``."""
    source, target = (columns.type_of(node[key]) for key in ("sourcetype", "targettype"))
    yield op.CreateOther("cast", Name(None, f"{source} AS {target}"), clause=statement.text)


OTHERS: dict[str, Callable[[Node, Statement], Iterator[Operation]]] = {
    "CreateExtensionStmt": _other("extension", "extname"),
    "CreateRoleStmt": _other("role", "role"),
    "CreatePublicationStmt": _other("publication", "pubname"),
    "AlterPublicationStmt": _other("publication", "pubname"),
    "CreateSubscriptionStmt": _other("subscription", "subname"),
    "CreateStatsStmt": _other("statistics", "defnames"),
    "CreatedbStmt": _other("database", "dbname"),
    "CreateTableSpaceStmt": _other("tablespace", "tablespacename"),
    "CreateEventTrigStmt": _other("event trigger", "trigname"),
    "CreateForeignServerStmt": _other("server", "servername"),
    "CreateFdwStmt": _other("foreign data wrapper", "fdwname"),
    "CreateUserMappingStmt": _other("user mapping", "servername"),
    "CreatePLangStmt": _other("language", "plname"),
    "CreateAmStmt": _other("access method", "amname"),
    "CreateOpClassStmt": _other("operator class", "opclassname"),
    "CreateOpFamilyStmt": _other("operator family", "opfamilyname"),
    "CreateTransformStmt": _other("transform", "lang"),
    "CreateConversionStmt": _other("conversion", "conversion_name"),
    "CreateCastStmt": create_cast,
}
