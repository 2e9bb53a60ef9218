"""What a query reads and gives: its relations and columns resolved against a schema, and its own columns with types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from dbsec.migrations import tree
from dbsec.migrations.interpret.columns import type_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Type
from dbsec.migrations.schema import naming
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.statement import Node

UNKNOWN = Type("")
_EXPRESSIONS = (
    "valuesLists",
    "distinctClause",
    "whereClause",
    "groupClause",
    "havingClause",
    "windowClause",
    "limitCount",
    "limitOffset",
)
_Columns = dict[str, Type]
_Ctes = Mapping[str, "_Columns | None"]


class Source(Struct, frozen=True):
    """One item of FROM; ``relation`` is None for a subquery, ``columns`` where they are not known."""

    alias: str
    relation: Name | None
    columns: Mapping[str, Type] | None


_Scope = tuple[list[Source], ...]
"""The sources in sight, the innermost SELECT's first."""


class Reading(Struct):
    """The result: relations in order, (relation, column) pairs, and the columns that come out."""

    relations: dict[Name, None] = field(default_factory=dict)
    columns: set[tuple[str, str]] = field(default_factory=set)
    output: tuple[tuple[str, Type], ...] = ()


def read(schema: Schema, query: Node | None, names: Iterable[str] = ()) -> Reading:
    """Read a query (wrapped SelectStmt); ``names`` replace those of its first columns."""
    reader = _Reader(schema)
    output = list((reader.query(query, (), {}) or {}).items()) if query else []
    for number, name in enumerate(names):
        output[number : number + 1] = [(name, output[number][1] if number < len(output) else UNKNOWN)]
    return Reading(reader.relations, reader.columns, tuple(output))


class _Reader:
    """Walks a query with the sources in sight, and the columns of WITH names."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.relations: dict[Name, None] = {}
        self.columns: set[tuple[str, str]] = set()

    def query(self, node: Node, outer: _Scope, ctes: _Ctes) -> _Columns | None:
        """Read a query node of any kind; None where its columns are not known."""
        select = node.get("SelectStmt")
        return None if select is None else self._select(select, outer, ctes)

    def _select(self, node: Node, outer: _Scope, ctes: _Ctes) -> _Columns | None:
        if "withClause" in node:
            ctes = self._with(node["withClause"], outer, ctes)
        if "larg" in node:
            left = self._select(node["larg"], outer, ctes)
            self._select(node["rarg"], outer, ctes)
            return left
        sources: list[Source] = []
        scope = (sources, *outer)
        for item in node.get("fromClause", ()):
            sources += self._sources(item, scope, ctes)
        for key in _EXPRESSIONS:
            self._expression(node.get(key), scope, ctes)
        output: list[tuple[str, Type]] = []
        for target in node.get("targetList", ()):
            output += self._target(target["ResTarget"], scope, ctes)
        names = {name for name, _ in output}
        for item in node.get("sortClause", ()):
            sorted_by = item["SortBy"].get("node", {})
            fields = tree.texts(sorted_by.get("ColumnRef", {}).get("fields"))
            if len(fields) != 1 or fields[0] not in names:
                self._expression(sorted_by, scope, ctes)
        return dict(output)

    def _with(self, clause: Node, outer: _Scope, ctes: _Ctes) -> _Ctes:
        seen = dict(ctes)
        for item in clause.get("ctes", ()):
            cte = item["CommonTableExpr"]
            name, aliases = cte.get("ctename", ""), tree.texts(cte.get("aliascolnames"))
            if clause.get("recursive"):
                seen[name] = dict.fromkeys(aliases, UNKNOWN) or None
            seen[name] = _aliased(self.query(cte.get("ctequery", {}), outer, seen), aliases)
        return seen

    def _sources(self, item: Node, scope: _Scope, ctes: _Ctes) -> Iterator[Source]:
        for kind, inner in item.items():
            alias = inner.get("alias", {})
            renamed = tree.texts(alias.get("colnames"))
            match kind:
                case "RangeVar":
                    yield self._relation(inner, alias.get("aliasname"), renamed, ctes)
                case "JoinExpr":
                    yield from self._join(inner, scope, ctes)
                case "RangeSubselect":
                    columns = self.query(inner.get("subquery", {}), scope, ctes)
                    yield Source(alias.get("aliasname", ""), None, _aliased(columns, renamed))
                case "RangeTableSample":
                    yield from self._sources(inner["relation"], scope, ctes)
                case _:
                    self._expression(inner, scope, ctes)
                    yield Source(alias.get("aliasname", ""), None, dict.fromkeys(renamed, UNKNOWN) or None)

    def _relation(self, node: Node, alias: str | None, renamed: tuple[str, ...], ctes: _Ctes) -> Source:
        written = tree.name_of(node)
        if written.schema is None and written.name in ctes:
            return Source(alias or written.name, None, _aliased(ctes[written.name], renamed))
        table, view = self._schema.table(written), self._schema.view(written)
        columns: _Columns | None = None
        if table is not None:
            written, columns = table.name, {name: column.type for name, column in table.columns.items()}
        elif view is not None:
            written, columns = view.name, dict.fromkeys(view.columns, UNKNOWN) or None
        else:
            written = self._schema.qualified(written)
        self.relations[written] = None
        return Source(alias or written.name, written, columns)

    def _join(self, node: Node, scope: _Scope, ctes: _Ctes) -> Iterator[Source]:
        left = list(self._sources(node["larg"], scope, ctes))
        scope[0].extend(left)  # LATERAL sees what stands before it
        right = list(self._sources(node["rarg"], scope, ctes))
        del scope[0][len(scope[0]) - len(left) :]
        both = left + right
        for name in self._shared(node, left, right):
            for source in both:
                if source.relation is not None and (source.columns is None or name in source.columns):
                    self.columns.add((str(source.relation), name))
        self._expression(node.get("quals"), (both, *scope), ctes)
        yield from both

    def _shared(self, node: Node, left: list[Source], right: list[Source]) -> tuple[str, ...]:
        if not node.get("isNatural"):
            return tree.texts(node.get("usingClause"))
        of_left = {name for source in left for name in source.columns or ()}
        return tuple(name for source in right for name in source.columns or () if name in of_left)

    def _target(self, node: Node, scope: _Scope, ctes: _Ctes) -> list[tuple[str, Type]]:
        value = node.get("val", {})
        parts = tree.texts(value["ColumnRef"].get("fields")) if "ColumnRef" in value else ()
        if parts and parts[-1] == "*":
            return list(self._star(parts[:-1], scope))
        name = node.get("name") or naming.figured(value) or "?column?"
        if parts:
            return [(name, self._column(parts, scope))]
        self._expression(value, scope, ctes)
        return [(name, type_of(value["TypeCast"]["typeName"]) if "TypeCast" in value else UNKNOWN)]

    def _star(self, qualifier: tuple[str, ...], scope: _Scope) -> Iterator[tuple[str, Type]]:
        for source in scope[0]:
            if qualifier and not _means(source, qualifier):
                continue
            if source.columns is None and source.relation is not None:
                self.columns.add((str(source.relation), "*"))
            for name, kind in (source.columns or {}).items():
                if source.relation is not None:
                    self.columns.add((str(source.relation), name))
                yield name, kind

    def _expression(self, node: Any, scope: _Scope, ctes: _Ctes) -> None:
        if isinstance(node, list):
            for item in node:
                self._expression(item, scope, ctes)
        elif isinstance(node, dict):
            for kind, inner in node.items():
                if kind == "ColumnRef":
                    self._column(tree.texts(inner.get("fields")), scope)
                elif kind == "SelectStmt":
                    self._select(inner, scope, ctes)
                elif isinstance(inner, (dict, list)):
                    self._expression(inner, scope, ctes)

    def _column(self, parts: tuple[str, ...], scope: _Scope) -> Type:
        """Note a column that an expression reads and tell its type; a whole row is no column."""
        *qualifier, name = parts
        if name == "*":
            return UNKNOWN
        for sources in scope:
            found = _holders(sources, tuple(qualifier), name)
            for source in found:
                if source.relation is not None:
                    self.columns.add((str(source.relation), name))
            if found:
                return (found[0].columns or {}).get(name, UNKNOWN)
        if not qualifier and any(source.alias == name for sources in scope for source in sources):
            return UNKNOWN
        self.columns.add((str(tree.dotted(qualifier)) if qualifier else "", name))
        return UNKNOWN


def _holders(sources: list[Source], qualifier: tuple[str, ...], name: str) -> list[Source]:
    """Find the source that a column is of; where none surely has it, the only one that may have it."""
    fit = [source for source in sources if not qualifier or _means(source, qualifier)]
    sure = [source for source in fit if source.columns is not None and name in source.columns]
    if sure:
        return sure[:1]
    maybe = [source for source in fit if source.columns is None]
    return maybe if len(maybe) == 1 and (qualifier or not any(source.alias == name for source in sources)) else []


def _means(source: Source, qualifier: tuple[str, ...]) -> bool:
    if len(qualifier) == 1:
        return source.alias == qualifier[0]
    return source.relation is not None and source.relation == tree.dotted(qualifier)


def _aliased(columns: _Columns | None, names: tuple[str, ...]) -> _Columns | None:
    """Give the first columns other names; where the columns are not known, the names are."""
    if columns is None or not names:
        return columns if columns is not None else dict.fromkeys(names, UNKNOWN) or None
    rest = list(columns.items())
    return {**{name: kind for name, (_, kind) in zip(names, rest, strict=False)}, **dict(rest[len(names) :])}
