"""What a statement asks of the database, one record per act: ALTER TABLE with three clauses is three operations.

Names are as written; ``Schema.resolve`` finds what they mean. Expressions and queries stay nodes of the parse tree.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from dbsec.migrations.names import Name
from dbsec.migrations.statement import Node


class Type(Struct, frozen=True):
    """A type as written, in PostgreSQL's internal name: ``int4``, ``varchar``, ``bpchar``, ``timestamptz``.

    ``schema`` is None for ``pg_catalog`` and for what the search path decides. ``modifiers`` are the numbers in
    parentheses. ``serial``, ``bigserial`` and ``smallserial`` keep these names. ``array``: number of dimensions.
    """

    name: str
    schema: str | None = None
    modifiers: tuple[int, ...] = ()
    array: int = 0

    def __str__(self) -> str:
        base = str(Name(self.schema, self.name))
        return base + (f"({','.join(map(str, self.modifiers))})" if self.modifiers else "") + "[]" * self.array


class ConstraintKind(StrEnum):
    """pg_constraint.contype, spelled out."""

    CHECK = "check"
    NOT_NULL = "not null"
    UNIQUE = "unique"
    PRIMARY_KEY = "primary key"
    FOREIGN_KEY = "foreign key"
    EXCLUDE = "exclude"


class Constraint(Struct, frozen=True):
    """A constraint as written. ``valid`` is False for NOT VALID and NOT ENFORCED, ``enforced`` for NOT ENFORCED (18).

    ``expression``: of CHECK; of EXCLUDE the predicate. ``include``, ``method``, ``expressions`` (with "" in
    ``columns``): of the index behind it. ``no_inherit``: of CHECK and NOT NULL.
    """

    kind: ConstraintKind
    name: str | None = None
    columns: tuple[str, ...] = ()
    expression: Node | None = None
    references: Name | None = None
    referenced_columns: tuple[str, ...] = ()
    valid: bool = True
    enforced: bool = True
    using_index: str | None = None
    deferrable: bool = False
    include: tuple[str, ...] = ()
    method: str = "btree"
    expressions: tuple[Node, ...] = ()
    no_inherit: bool = False


class Column(Struct, frozen=True):
    """A column as written, with the constraints that stand beside it (UNIQUE, CHECK, REFERENCES, PRIMARY KEY).

    ``not_null`` is true for NOT NULL and for PRIMARY KEY; ``generated`` is "stored" or "virtual", ``identity`` "always"
    or "by default".
    """

    name: str
    type: Type
    not_null: bool = False
    default: Node | None = None
    generated: str | None = None
    expression: Node | None = None
    identity: str | None = None
    collation: str | None = None
    constraints: tuple[Constraint, ...] = ()


class Bound(Struct, frozen=True):
    """FOR VALUES of a partition; ``strategy``: range (lower, upper), list (values), hash, default."""

    strategy: str
    lower: tuple[Node, ...] = ()
    upper: tuple[Node, ...] = ()
    values: tuple[Node, ...] = ()
    modulus: int = 0
    remainder: int = 0


class Operation(Struct, frozen=True, kw_only=True, tag=True, tag_field="operation"):
    """The root; ``clause`` is the source text of this act alone: one clause of ALTER TABLE, else the statement.

    The tag tells the kinds apart where operations go to another process (``relay``).
    """

    clause: str = ""


class _Altering(Operation, frozen=True, kw_only=True):
    relation: str = "table"
    if_exists: bool = False
    only: bool = False


class OnTable(_Altering, frozen=True):
    """An act on one relation. ``relation`` tells what the statement calls it: table, view, materialized view, index,
    foreign table, sequence, type."""

    table: Name


# --- columns


class AddColumn(OnTable, frozen=True):
    column: Column
    if_not_exists: bool = False


class DropColumn(OnTable, frozen=True):
    column: str
    cascade: bool = False
    if_column_exists: bool = False


class AlterColumnType(OnTable, frozen=True):
    column: str
    type: Type
    using: Node | None = None
    collation: str | None = None


class SetDefault(OnTable, frozen=True):
    column: str
    default: Node


class DropDefault(OnTable, frozen=True):
    column: str


class SetNotNull(OnTable, frozen=True):
    column: str


class DropNotNull(OnTable, frozen=True):
    column: str


class SetExpression(OnTable, frozen=True):
    column: str
    expression: Node


class DropExpression(OnTable, frozen=True):
    column: str


class AlterIdentity(OnTable, frozen=True):
    """``act``: add, set, drop. ``always`` is None where the statement does not speak of it (RESTART)."""

    column: str
    act: str
    always: bool | None = None


class SetColumnOption(OnTable, frozen=True):
    """``option``: statistics, storage, compression, options."""

    column: str
    option: str


# --- constraints


class AddConstraint(OnTable, frozen=True):
    constraint: Constraint


class ValidateConstraint(OnTable, frozen=True):
    name: str


class AlterConstraint(OnTable, frozen=True):
    """``enforced`` is None where the statement does not speak of it."""

    name: str
    enforced: bool | None = None


class DropConstraint(OnTable, frozen=True):
    name: str
    cascade: bool = False
    if_constraint_exists: bool = False


# --- the table itself


class SetPersistence(OnTable, frozen=True):
    logged: bool


class SetTablespace(OnTable, frozen=True):
    tablespace: str


class SetAccessMethod(OnTable, frozen=True):
    method: str | None


class SetParameters(OnTable, frozen=True):
    """Storage parameters: SET (fillfactor = 70), RESET (…)."""

    names: tuple[str, ...]


class AttachPartition(OnTable, frozen=True):
    """``relation`` is "index" for ALTER INDEX … ATTACH PARTITION."""

    partition: Name
    bound: Bound | None


class DetachPartition(OnTable, frozen=True):
    partition: Name
    concurrently: bool = False
    finalize: bool = False


class Inherit(OnTable, frozen=True):
    parent: Name
    add: bool


class RowSecurity(OnTable, frozen=True):
    """``act``: enable, disable, force, no force."""

    act: str


class TriggerState(OnTable, frozen=True):
    """``name`` is None for ALL and USER; ``what`` is trigger or rule."""

    name: str | None
    enabled: bool
    what: str = "trigger"


class ReplicaIdentity(OnTable, frozen=True):
    kind: str  # default, full, nothing, index
    index: str | None = None


class ChangeOwner(Operation, frozen=True):
    """``kind`` in lower case: table, view, function, schema, type …"""

    kind: str
    name: Name
    owner: str


class AlterOther(OnTable, frozen=True):
    """A clause of ALTER TABLE that has no record of its own; ``act`` is the tree's ``AT_…``."""

    act: str


# --- create


class CreateTable(Operation, frozen=True):
    """``like``: tables of LIKE. ``partition_by``: strategy and key columns (an expression is "").

    ``including``: what INCLUDING names for each of ``like``: defaults, constraints, identity, generated, indexes.
    A column of PARTITION OF or OF that only adds to an inherited one has ``Type("")``. ``of_type``: CREATE TABLE … OF.
    """

    table: Name
    columns: tuple[Column, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    partition_of: Name | None = None
    bound: Bound | None = None
    partition_by: tuple[str, tuple[str, ...]] | None = None
    inherits: tuple[Name, ...] = ()
    like: tuple[Name, ...] = ()
    persistence: str = "permanent"  # temporary, unlogged
    if_not_exists: bool = False
    including: tuple[frozenset[str], ...] = ()
    foreign: bool = False
    of_type: Name | None = None


class CreateTableAs(Operation, frozen=True):
    """CREATE TABLE AS, SELECT INTO, CREATE MATERIALIZED VIEW; ``reads``: relations of the query.

    ``columns``: the names that stand after the table's.
    """

    table: Name
    materialized: bool
    reads: tuple[Name, ...] = ()
    with_data: bool = True
    if_not_exists: bool = False
    temporary: bool = False
    columns: tuple[str, ...] = ()
    query: Node | None = None


class CreateView(Operation, frozen=True):
    view: Name
    reads: tuple[Name, ...] = ()
    columns_read: tuple[tuple[str, str], ...] = ()  # (qualifier as written or "", column); ("", "*") for a star
    replace: bool = False
    query: Node | None = None
    columns: tuple[str, ...] = ()  # the names that stand after the view's


class CreateIndex(Operation, frozen=True):
    """``columns``: the key, "" for an expression; ``expressions`` and ``predicate`` stay nodes.

    ``collations``: what COLLATE says of each column of the key, None where it stands not; empty: nowhere.
    """

    name: str | None
    table: Name
    columns: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    expressions: tuple[Node, ...] = ()
    predicate: Node | None = None
    unique: bool = False
    method: str = "btree"
    concurrently: bool = False
    only: bool = False
    if_not_exists: bool = False
    collations: tuple[str | None, ...] = ()


class CreateTrigger(Operation, frozen=True):
    """``columns``: those of UPDATE OF and of WHEN."""

    name: str
    table: Name
    timing: str  # before, after, instead of
    events: tuple[str, ...] = ()  # insert, update, delete, truncate
    row: bool = False
    constraint: bool = False
    columns: tuple[str, ...] = ()


class CreateRule(Operation, frozen=True):
    """``event``: select, insert, update, delete. ``discards``: DO INSTEAD NOTHING, ``filtered``: only WHERE …."""

    name: str
    table: Name
    event: str = ""
    discards: bool = False
    filtered: bool = False


class CreatePolicy(Operation, frozen=True):
    """``alter``: ALTER POLICY. ``columns``: those of its own table that USING and WITH CHECK read."""

    name: str
    table: Name
    permissive: bool = True
    alter: bool = False
    columns: tuple[str, ...] = ()


class CreateFunction(Operation, frozen=True):
    """``volatility``: volatile (the default), stable, immutable; ``settings``: names of SET clauses."""

    name: Name
    language: str = ""
    volatility: str = "volatile"
    security_definer: bool = False
    settings: tuple[str, ...] = ()
    replace: bool = False
    procedure: bool = False


class AlterFunction(Operation, frozen=True):
    name: Name
    security_definer: bool | None = None
    settings: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    volatility: str | None = None


class CreateType(Operation, frozen=True):
    """``kind``: enum, composite, range, base; ``values``: labels of an enum."""

    name: Name
    kind: str
    values: tuple[str, ...] = ()


class AlterEnum(Operation, frozen=True):
    """``old`` is None for ADD VALUE."""

    type: Name
    value: str
    old: str | None = None
    if_not_exists: bool = False


class AlterComposite(OnTable, frozen=True):
    """ALTER TYPE … ADD, DROP, ALTER ATTRIBUTE; ``act``: add, drop, alter."""

    act: str
    attribute: str
    cascade: bool = False


class CreateDomain(Operation, frozen=True):
    name: Name
    base: Type
    constraints: tuple[Constraint, ...] = ()
    default: Node | None = None


class AlterDomain(Operation, frozen=True):
    """``act``: add constraint, validate constraint, drop constraint, set not null, drop not null, set default, drop
    default."""

    domain: Name
    act: str
    constraint: Constraint | None = None
    name: str | None = None
    default: Node | None = None


class CreateSequence(Operation, frozen=True):
    """``owned_by``: table and column."""

    name: Name
    type: Type | None = None
    owned_by: tuple[Name, str] | None = None


class AlterSequence(Operation, frozen=True):
    """``owned_by`` is None for OWNED BY NONE too; ``options`` tells."""

    name: Name
    options: tuple[str, ...] = ()
    owned_by: tuple[Name, str] | None = None


class CreateOther(Operation, frozen=True):
    """An object that locks no table: ``kind`` is schema, extension, role, publication, statistics, cast …"""

    kind: str
    name: Name
    tables: tuple[Name, ...] = ()


# --- drop, rename, move


class Drop(Operation, frozen=True):
    """One dropped object.

    ``kind`` in lower case: table, view, materialized view, index, sequence, type, domain, schema, function, procedure,
    extension, trigger, policy, rule, database, statistics … ``table`` for trigger, policy, rule.
    """

    kind: str
    name: Name
    table: Name | None = None
    cascade: bool = False
    concurrently: bool = False
    if_exists: bool = False


class Rename(Operation, frozen=True):
    """``kind``: table, view, materialized view, index, sequence, column, constraint, schema, type, domain, function,
    procedure, trigger, policy, attribute, role, database … ``table`` holds column, constraint, trigger and policy."""

    kind: str
    name: Name
    new: str
    table: Name | None = None
    if_exists: bool = False


class SetSchema(Operation, frozen=True):
    kind: str
    name: Name
    schema: str


# --- maintenance


class Reindex(Operation, frozen=True):
    """``kind``: index, table, schema, database, system."""

    kind: str
    name: Name | None
    concurrently: bool = False


class Cluster(Operation, frozen=True):
    table: Name | None
    index: str | None = None


class Vacuum(Operation, frozen=True):
    """``analyze_only``: ANALYZE. No tables: all of them."""

    tables: tuple[Name, ...] = ()
    full: bool = False
    analyze_only: bool = False


class Refresh(Operation, frozen=True):
    view: Name
    concurrently: bool = False
    with_data: bool = True


class LockTable(Operation, frozen=True):
    """``mode`` as in pg_locks: 1 ACCESS SHARE … 8 ACCESS EXCLUSIVE. ``only``: those of ``tables`` behind ONLY."""

    tables: tuple[Name, ...]
    mode: int
    nowait: bool = False
    only: tuple[Name, ...] = ()


class Truncate(Operation, frozen=True):
    """``only``: those of ``tables`` behind ONLY."""

    tables: tuple[Name, ...]
    cascade: bool = False
    only: tuple[Name, ...] = ()


# --- rows


class Write(Operation, frozen=True):
    """UPDATE, DELETE, INSERT, MERGE, COPY FROM (``kind`` in lower case: update, delete, insert, merge, copy).

    ``where`` None: every row. ``bounded``: the WHERE pins a key to constants or to a range of them, or the rows
    come from VALUES. ``pins``: the columns that do so; the schema tells whether they are a key. ``reads``: the other
    relations that it names.
    """

    kind: str
    table: Name
    columns: tuple[str, ...] = ()
    where: Node | None = None
    bounded: bool = False
    reads: tuple[Name, ...] = ()
    pins: tuple[str, ...] = ()


class Query(Operation, frozen=True):
    """SELECT and what else only reads, or calls a function; ``reads``: relations."""

    reads: tuple[Name, ...] = ()
    functions: tuple[str, ...] = ()


# --- session


class TransactionControl(Operation, frozen=True):
    """``act``: begin, commit, rollback, savepoint, release, rollback to, prepare."""

    act: str


class SetVariable(Operation, frozen=True):
    """``value`` is None for RESET and SET … TO DEFAULT; numbers keep their unit as written ("2s", "0")."""

    name: str
    value: str | None
    local: bool = False


class Block(Operation, frozen=True):
    """A DO block; its statements follow as statements of their own. ``dynamic``: EXECUTE of text that is not known."""

    dynamic: bool = False


class Grant(Operation, frozen=True):
    """``grant`` False: REVOKE. ``privileges`` in lower case; empty: ALL."""

    grant: bool
    kind: str
    names: tuple[Name, ...]
    privileges: tuple[str, ...]
    roles: tuple[str, ...]


class Comment(Operation, frozen=True):
    kind: str
    name: Name


class Other(Operation, frozen=True):
    """A statement that locks no table as far as known; ``kind`` is the tree's (``"AlterSystemStmt"``)."""

    kind: str
