"""Tables, columns, constraints and the rest, in the words of ``operations``; mutable: a migration changes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from msgspec import Struct, field

from dbsec.migrations.names import Name
from dbsec.migrations.operations import Bound, Column, Constraint, ConstraintKind, Type
from dbsec.migrations.statement import Node

_T = TypeVar("_T")


class Index(Struct):
    """An index; ``columns`` has "" for an expression. ``valid``: False for what a failed CONCURRENTLY left."""

    name: str
    table: Name
    columns: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    expressions: tuple[Node, ...] = ()
    predicate: Node | None = None
    unique: bool = False
    method: str = "btree"
    valid: bool = True
    constraint: str | None = None
    parent: str | None = None
    collations: tuple[str | None, ...] = ()


class Table(Struct):
    """A table, foreign table or materialized view (``kind``); ``name`` always has its schema.

    A partitioned table is a table with ``partition_by``. ``columns`` have no constraints of their own here: all are in
    ``constraints``, each with a name and its columns, and ``Column.not_null`` is what is proven: beside NOT NULL … NOT
    VALID (18) it is False, and ``constraints`` has the constraint. A valid NOT NULL constraint is there only where it
    has a name other than PostgreSQL's own. Foreign keys name the referenced table with its schema.
    ``new``: made by the release that is judged, so that no old client knows it and no row stands in it before.
    ``filled``: such a table got rows in this release (INSERT … SELECT, COPY, CREATE TABLE AS). ``columns`` in order;
    ``new_columns``: added by this release. ``pinned``: columns that policies and triggers (kind, name) read: PostgreSQL
    does not change their type. ``of_type``: the composite type of CREATE TABLE … OF.
    """

    name: Name
    columns: dict[str, Column] = field(default_factory=dict)
    constraints: list[Constraint] = field(default_factory=list)
    indexes: dict[str, Index] = field(default_factory=dict)
    triggers: set[str] = field(default_factory=set)
    policies: set[str] = field(default_factory=set)
    rules: set[str] = field(default_factory=set)
    pinned: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    row_security: bool = False
    kind: str = "table"
    persistence: str = "permanent"
    partition_by: tuple[str, tuple[str, ...]] | None = None
    partition_of: Name | None = None
    bound: Bound | None = None
    inherits: tuple[Name, ...] = ()
    of_type: Name | None = None
    new: bool = False
    filled: bool = False
    new_columns: set[str] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """True where no row can stand in it: made by this release and not filled."""
        return self.new and not self.filled

    def of_kind(self, *kinds: ConstraintKind) -> Iterator[Constraint]:
        """Yield its constraints of some kinds."""
        return (constraint for constraint in self.constraints if constraint.kind in kinds)

    def constraint(self, name: str) -> Constraint | None:
        """Find a constraint by name."""
        return next((constraint for constraint in self.constraints if constraint.name == name), None)


class View(Struct):
    """A view; ``columns_read``: (relation with schema, column), sorted; ("", column) where the relation is not known.

    ``columns``: its own columns, as far as they are known.
    """

    name: Name
    reads: tuple[Name, ...] = ()
    columns_read: tuple[tuple[str, str], ...] = ()
    materialized: bool = False
    new: bool = False
    columns: tuple[str, ...] = ()


class Domain(Struct):
    """A domain with its base type and constraints."""

    name: Name
    base: Type
    constraints: list[Constraint] = field(default_factory=list)
    default: Node | None = None
    new: bool = False


class Named(dict[Name, _T]):
    """Objects by name, with the schemas and the bare names that it has ever held: a bare name is looked up in few
    places, not in all."""

    __slots__ = ("bare", "schemas")

    def __init__(self, items: Iterable[tuple[Name, _T]] = ()) -> None:
        super().__init__(items)
        self.schemas = {name.schema for name in self}
        self.bare = {name.name for name in self}

    def __setitem__(self, name: Name, value: _T) -> None:
        self.schemas.add(name.schema)
        self.bare.add(name.name)
        super().__setitem__(name, value)

    def __reduce__(self) -> tuple[type[Named[_T]], tuple[list[tuple[Name, _T]]]]:
        return Named, (list(self.items()),)


class Schema(Struct):
    """The state between two statements.

    ``known``: it came from a dump or a catalog, so that what is missing does not exist; False: only what the release
    itself made is known, and any other table may exist with any rows. ``major``: the server's, where its source told.
    """

    known: bool = False
    source: str = ""
    major: int | None = None
    search_path: tuple[str, ...] = ("public",)
    tables: Named[Table] = field(default_factory=Named)
    views: Named[View] = field(default_factory=Named)
    domains: Named[Domain] = field(default_factory=Named)
    types: Named[str] = field(default_factory=Named)  # name -> enum, composite, range, base
    new_types: set[Name] = field(default_factory=set)
    functions: Named[str] = field(default_factory=Named)  # name -> volatility
    sequences: set[Name] = field(default_factory=set)
    statistics: dict[Name, Name] = field(default_factory=dict)  # CREATE STATISTICS -> its table
    new_objects: set[tuple[str, Name]] = field(default_factory=set)  # (kind of Drop, name) made by this release
    owners: Named[tuple[Name, str]] = field(default_factory=Named)  # sequence -> the column that it is OWNED BY
    guests: Named[Table] = field(default_factory=Named)  # not described, only what the release has said of them
    # Kept by schema/ alone: who inherits from whom, where an index stands, names that constraints have had, and the
    # search path that comes back when the transaction with SET LOCAL ends.
    children: dict[Name, dict[Name, None]] = field(default_factory=dict)
    index_tables: dict[Name, Name] = field(default_factory=dict)
    constraint_names: set[Name] = field(default_factory=set)
    outer_path: tuple[str, ...] | None = field(default=None)

    def table(self, name: Name) -> Table | None:
        """Find a table, foreign table or materialized view as written; the search path decides where no schema stands.

        Where nothing of the search path has it but exactly one other schema does, that one is meant.
        """
        return self._found(self.tables, name) if name.name in self.tables.bare else None

    def view(self, name: Name) -> View | None:
        """Find a view as written."""
        return self._found(self.views, name) if name.name in self.views.bare else None

    def domain(self, of: Type) -> Domain | None:
        """Find the domain that a type names."""
        return self._found(self.domains, Name(of.schema, of.name)) if of.name in self.domains.bare else None

    def index(self, name: Name) -> Index | None:
        """Find an index as written, on whatever table it stands: by the search path, else in any schema."""
        places = (name.schema,) if name.schema else (*self.search_path, *sorted(filter(None, self.tables.schemas)))
        for schema in places:
            if (on := self.index_tables.get(Name(schema, name.name))) is not None:
                return self.tables[on].indexes[name.name]
        return None

    def qualified(self, name: Name) -> Name:
        """Give a new object its schema: the one written, else the first of the search path."""
        return name if name.schema else Name(self.search_path[0] if self.search_path else "public", name.name)

    def partitions(self, parent: Name) -> Iterator[Table]:
        """Yield the partitions of a table, one level down."""
        children = (self.tables.get(name) for name in self.children.get(parent, ()))
        return (child for child in children if child is not None and child.partition_of == parent)

    def referencing(self, name: Name) -> Iterator[tuple[Table, Constraint]]:
        """Yield the foreign keys of other tables that point to a table."""
        for table in self.tables.values():
            for constraint in table.of_kind(ConstraintKind.FOREIGN_KEY):
                if constraint.references is not None and constraint.references == name:
                    yield table, constraint

    def views_on(self, name: Name) -> Iterator[View]:
        """Yield the views and materialized views that read a relation directly."""
        return (view for view in self.views.values() if name in view.reads)

    def _found(self, of: Named[_T], name: Name) -> _T | None:
        if name.schema is not None:
            return of.get(name)
        bare = name.name
        for schema in ("pg_temp", *self.search_path):
            if (found := of.get(Name(schema, bare))) is not None:
                return found
        elsewhere = [of[key] for schema in of.schemas if (key := Name(schema, bare)) in of]
        return elsewhere[0] if len(elsewhere) == 1 else None
