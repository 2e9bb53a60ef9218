"""The schema of a running server, read from its catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dbsec.errors import GaveUp, reason
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AddConstraint, Column, Constraint, ConstraintKind, CreateIndex, CreateTable
from dbsec.migrations.schema import catalog_queries, constraining, naming, places, spelled
from dbsec.migrations.schema.model import Domain, Schema, Table, View

if TYPE_CHECKING:
    import psycopg

Row = tuple[Any, ...]
_KINDS = {"r": "table", "p": "table", "f": "foreign table", "m": "materialized view"}
_PERSISTENCE = {"p": "permanent", "u": "unlogged", "t": "temporary"}
_TYPES = {"e": "enum", "c": "composite", "r": "range", "b": "base"}
_VOLATILITY = ("immutable", "stable", "volatile")
_IDENTITY = {"a": "always", "d": "by default"}
_GENERATED = {"s": "stored", "v": "virtual"}


def from_catalog(connection: psycopg.Connection[Any]) -> Schema:
    """Read the schema of the connected database into one that is ``known``.

    Locks: one read-only transaction of its own (none may be open) with lock_timeout; it locks catalogs in ACCESS SHARE,
    and tables too while PostgreSQL spells out their expressions.

    Errors: ``GaveUp`` where another session holds ACCESS EXCLUSIVE on a table, or the catalog is too large to be read.
    """
    from psycopg import errors

    try:
        with connection.transaction():
            return _read(connection)
    except (errors.LockNotAvailable, errors.QueryCanceled) as exc:
        who = "SELECT relation::regclass, pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
        raise GaveUp(f"the schema of '{connection.info.dbname}' cannot be read: {reason(exc)}", hint=who) from exc


def _read(connection: psycopg.Connection[Any]) -> Schema:
    from psycopg.rows import tuple_row

    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL lock_timeout = '2s'")
        cursor.execute("SET LOCAL statement_timeout = '60s'")
        major, path = cursor.execute(catalog_queries.SETTINGS).fetchall()[0]
        cursor.execute("SET LOCAL search_path = ''")
        schema = Schema(known=True, source=connection.info.dbname, major=major, search_path=tuple(path))
        _Reader(cursor, schema).read()
    return schema


class _Reader:
    """Reads one kind of object after the other into a schema; ``_tables`` and ``_names`` are by oid."""

    def __init__(self, cursor: psycopg.Cursor[Row], schema: Schema) -> None:
        self._cursor = cursor
        self._schema = schema
        self._tables: dict[int, Table] = {}
        self._names: dict[int, Name] = {}

    def read(self) -> None:
        """Read all."""
        self._objects()
        self._domains()
        self._relations()
        self._columns()
        self._indexes()
        self._constraints()
        self._views()
        for query, held in (
            (catalog_queries.TRIGGERS, "triggers"),
            (catalog_queries.POLICIES, "policies"),
            (catalog_queries.RULES, "rules"),
        ):
            for oid, name in self._rows(query, self._tables):
                getattr(self._tables[oid], held).add(name)
        for oid, kind, name, columns in self._rows(catalog_queries.PINNED, self._tables):
            self._tables[oid].pinned[kind, name] = tuple(columns)
        for place, name, oid in self._rows(catalog_queries.STATISTICS, self._tables):
            self._schema.statistics[Name(place, name)] = self._tables[oid].name
        for table in self._tables.values():
            places.place(self._schema, table)

    def _rows(self, query: Any, oids: Any = None) -> list[Row]:
        return self._cursor.execute(query, None if oids is None else (list(oids),)).fetchall()

    def _objects(self) -> None:
        schema = self._schema
        for place, name, letter in self._rows(catalog_queries.TYPES):
            schema.types[Name(place, name)] = _TYPES[letter]
        for place, name, volatility in self._rows(catalog_queries.FUNCTIONS):
            schema.functions[Name(place, name)] = _VOLATILITY[volatility]
        for place, name, table_place, table, column in self._rows(catalog_queries.SEQUENCES):
            schema.sequences.add(Name(place, name))
            if table is not None:
                schema.owners[Name(place, name)] = (Name(table_place, table), column)

    def _domains(self) -> None:
        rows = self._rows(catalog_queries.DOMAINS)
        types, defaults = spelled.types(row[3] for row in rows), spelled.expressions(row[4] for row in rows)
        domains: dict[int, Domain] = {}
        for oid, place, name, base, default, not_null in rows:
            domains[oid] = Domain(Name(place, name), types[base], default=defaults.get(default))
            self._schema.domains[domains[oid].name] = domains[oid]
            if not_null:
                domains[oid].constraints.append(Constraint(ConstraintKind.NOT_NULL))
        checks = [
            (oid, _adding(name, text)) for oid, name, text in self._rows(catalog_queries.DOMAIN_CONSTRAINTS, domains)
        ]
        read = spelled.operations(text for _, text in checks)
        for oid, text in checks:
            if isinstance(operation := read.get(text), AddConstraint):
                self._schema.constraint_names.add(Name(domains[oid].name.schema, operation.constraint.name or ""))
                domains[oid].constraints.append(operation.constraint)

    def _relations(self) -> None:
        rows = self._rows(catalog_queries.RELATIONS)
        self._names = {oid: Name(place, name) for oid, place, name, *_ in rows}
        read = spelled.operations(_partition(key, bound) for *_, key, bound, _, _ in rows)
        for oid, place, name, kind, persistence, row_security, key, bound, parents, of in rows:
            if kind not in _KINDS:
                continue
            table = Table(Name(place, name), kind=_KINDS[kind], persistence=_PERSISTENCE[persistence])
            table.row_security = row_security
            table.of_type = Name(*of) if of else None
            above = tuple(self._names[parent] for parent in parents if parent in self._names)
            if isinstance(operation := read.get(_partition(key, bound) or ""), CreateTable):
                table.partition_by, table.bound = operation.partition_by, operation.bound
            if bound and above:
                table.partition_of = above[0]
            else:
                table.inherits = above
            self._tables[oid] = self._schema.tables[table.name] = table

    def _columns(self) -> None:
        rows = self._rows(catalog_queries.COLUMNS, self._tables)
        types, expressions = spelled.types(row[2] for row in rows), spelled.expressions(row[4] for row in rows)
        for oid, name, kind, not_null, text, identity, generated, collation in rows:
            expression = expressions.get(text)
            self._tables[oid].columns[name] = Column(
                name,
                types[kind],
                not_null,
                None if generated else expression,
                _GENERATED.get(generated),
                expression if generated else None,
                _IDENTITY.get(identity),
                collation,
            )

    def _indexes(self) -> None:
        rows = self._rows(catalog_queries.INDEXES, self._tables)
        read = spelled.operations(row[2] for row in rows)
        for oid, name, text, valid, constraint, parent in rows:
            if isinstance(operation := read.get(text), CreateIndex):
                table = self._tables[oid]
                index = constraining.index_of(operation, table, name)
                table.indexes[name] = replace(index, valid=valid, constraint=constraint, parent=parent)

    def _constraints(self) -> None:
        rows = self._rows(catalog_queries.CONSTRAINTS, self._tables)
        read = spelled.operations(_adding(name, text) for _, name, text in rows)
        for oid, name, text in rows:
            if isinstance(operation := read.get(_adding(name, text)), AddConstraint):
                _put(self._tables[oid], operation.constraint)

    def _views(self) -> None:
        views = {
            oid: name for oid, name in self._names.items() if name not in self._schema.tables or self._is_matview(oid)
        }
        columns: dict[int, list[str]] = {oid: [] for oid in views}
        for oid, name, *_ in self._rows(catalog_queries.COLUMNS, views):
            columns[oid].append(name)
        reads: dict[int, set[tuple[Name, str | None]]] = {oid: set() for oid in views}
        for oid, place, relation, column in self._rows(catalog_queries.VIEW_COLUMNS, views):
            reads[oid].add((Name(place, relation), column))
        for oid, name in views.items():
            relations = tuple(sorted({relation for relation, _ in reads[oid]}))
            pairs = sorted((str(relation), column) for relation, column in reads[oid] if column)
            self._schema.views[name] = View(
                name, relations, tuple(pairs), self._is_matview(oid), columns=tuple(columns[oid])
            )

    def _is_matview(self, oid: int) -> bool:
        return oid in self._tables and self._tables[oid].kind == "materialized view"


def _adding(name: str, definition: str) -> str:
    return f'ALTER TABLE x ADD CONSTRAINT "{name.replace(chr(34), chr(34) * 2)}" {definition}'


def _partition(key: str | None, bound: str | None) -> str | None:
    """Spell the statement that says how a table is cut, and which part of another it is."""
    if not key and not bound:
        return None
    head = f"CREATE TABLE x PARTITION OF y {bound}" if bound else "CREATE TABLE x (y int)"
    return f"{head} PARTITION BY {key}" if key else head


def _put(table: Table, constraint: Constraint) -> None:
    """Put a constraint as ``Table`` wants it: a valid NOT NULL under PostgreSQL's own name is told by the column."""
    name, columns = constraint.name or "", constraint.columns
    if constraint.kind is ConstraintKind.NOT_NULL:
        if not constraint.valid:
            table.columns[columns[0]] = replace(table.columns[columns[0]], not_null=False)
        elif name == naming.joined(table.name.name, columns[0], "not_null"):
            return
    table.constraints.append(constraining.with_columns(table, constraint))
