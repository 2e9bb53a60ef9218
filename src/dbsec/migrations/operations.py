"""What a statement asks of the database, one record per act: ALTER TABLE with three clauses is three operations.

Names are as written; ``Schema.resolve`` finds what they mean. Expressions and queries stay nodes of the parse tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dbsec.migrations.names import Name
from dbsec.migrations.statement import Node


@dataclass(frozen=True, slots=True)
class Type:
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


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint as written. ``valid`` is False for NOT VALID and NOT ENFORCED, ``enforced`` for NOT ENFORCED (18).

    ``expression``: of CHECK; of EXCLUDE the predicate. ``include``, ``method``, ``expressions`` (with "" in ``columns``):
    of the index behind it. ``no_inherit``: of CHECK and NOT NULL.
    """

    kind: ConstraintKind
    name: str | None = None
    columns: tuple[str, ...] = ()
    expression: Node | None = field(default=None, repr=False)
    references: Name | None = None
    referenced_columns: tuple[str, ...] = ()
    valid: bool = True
    enforced: bool = True
    using_index: str | None = None
    deferrable: bool = False
    include: tuple[str, ...] = ()
    method: str = "btree"
    expressions: tuple[Node, ...] = field(default=(), repr=False)
    no_inherit: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column as written, with the constraints that stand beside it (UNIQUE, CHECK, REFERENCES, PRIMARY KEY).

    ``not_null`` is true for NOT NULL and for PRIMARY KEY; ``generated`` is "stored" or "virtual", ``identity`` "always"
    or "by default".
    """

    name: str
    type: Type
    not_null: bool = False
    default: Node | None = field(default=None, repr=False)
    generated: str | None = None
    expression: Node | None = field(default=None, repr=False)
    identity: str | None = None
    collation: str | None = None
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """FOR VALUES of a partition; ``strategy``: range (lower, upper), list (values), hash, default."""

    strategy: str
    lower: tuple[Node, ...] = field(default=(), repr=False)
    upper: tuple[Node, ...] = field(default=(), repr=False)
    values: tuple[Node, ...] = field(default=(), repr=False)
    modulus: int = 0
    remainder: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """The root; ``clause`` is the source text of this act alone: one clause of ALTER TABLE, else the statement."""

    clause: str = field(repr=False, kw_only=True, default="")


@dataclass(frozen=True, slots=True)
class OnTable(Operation):
    """An act on one relation. ``relation`` tells what the statement calls it: table, view, materialized view, index,
    foreign table, sequence, type."""

    table: Name
    relation: str = field(default="table", kw_only=True)
    if_exists: bool = field(default=False, kw_only=True)
    only: bool = field(default=False, kw_only=True)


# --- columns


@dataclass(frozen=True, slots=True)
class AddColumn(OnTable):
    column: Column
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropColumn(OnTable):
    column: str
    cascade: bool = False
    if_column_exists: bool = False


@dataclass(frozen=True, slots=True)
class AlterColumnType(OnTable):
    column: str
    type: Type
    using: Node | None = field(default=None, repr=False)
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class SetDefault(OnTable):
    column: str
    default: Node = field(repr=False)


@dataclass(frozen=True, slots=True)
class DropDefault(OnTable):
    column: str


@dataclass(frozen=True, slots=True)
class SetNotNull(OnTable):
    column: str


@dataclass(frozen=True, slots=True)
class DropNotNull(OnTable):
    column: str


@dataclass(frozen=True, slots=True)
class SetExpression(OnTable):
    column: str
    expression: Node = field(repr=False)


@dataclass(frozen=True, slots=True)
class DropExpression(OnTable):
    column: str


@dataclass(frozen=True, slots=True)
class AlterIdentity(OnTable):
    """``act``: add, set, drop. ``always`` is None where the statement does not speak of it (RESTART)."""

    column: str
    act: str
    always: bool | None = None


@dataclass(frozen=True, slots=True)
class SetColumnOption(OnTable):
    """``option``: statistics, storage, compression, options."""

    column: str
    option: str


# --- constraints


@dataclass(frozen=True, slots=True)
class AddConstraint(OnTable):
    constraint: Constraint


@dataclass(frozen=True, slots=True)
class ValidateConstraint(OnTable):
    name: str


@dataclass(frozen=True, slots=True)
class AlterConstraint(OnTable):
    """``enforced`` is None where the statement does not speak of it."""

    name: str
    enforced: bool | None = None


@dataclass(frozen=True, slots=True)
class DropConstraint(OnTable):
    name: str
    cascade: bool = False
    if_constraint_exists: bool = False


# --- the table itself


@dataclass(frozen=True, slots=True)
class SetPersistence(OnTable):
    logged: bool


@dataclass(frozen=True, slots=True)
class SetTablespace(OnTable):
    tablespace: str


@dataclass(frozen=True, slots=True)
class SetAccessMethod(OnTable):
    method: str | None


@dataclass(frozen=True, slots=True)
class SetParameters(OnTable):
    """Storage parameters: SET (fillfactor = 70), RESET (…)."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttachPartition(OnTable):
    """``relation`` is "index" for ALTER INDEX … ATTACH PARTITION."""

    partition: Name
    bound: Bound | None


@dataclass(frozen=True, slots=True)
class DetachPartition(OnTable):
    partition: Name
    concurrently: bool = False
    finalize: bool = False


@dataclass(frozen=True, slots=True)
class Inherit(OnTable):
    parent: Name
    add: bool


@dataclass(frozen=True, slots=True)
class RowSecurity(OnTable):
    """``act``: enable, disable, force, no force."""

    act: str


@dataclass(frozen=True, slots=True)
class TriggerState(OnTable):
    """``name`` is None for ALL and USER; ``what`` is trigger or rule."""

    name: str | None
    enabled: bool
    what: str = "trigger"


@dataclass(frozen=True, slots=True)
class ReplicaIdentity(OnTable):
    kind: str  # default, full, nothing, index
    index: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeOwner(Operation):
    """``kind`` in lower case: table, view, function, schema, type …"""

    kind: str
    name: Name
    owner: str


@dataclass(frozen=True, slots=True)
class AlterOther(OnTable):
    """A clause of ALTER TABLE that has no record of its own; ``act`` is the tree's ``AT_…``."""

    act: str


# --- create


@dataclass(frozen=True, slots=True)
class CreateTable(Operation):
    """``like``: tables of LIKE. ``partition_by``: strategy and key columns (an expression is "").

    ``including``: what INCLUDING names for each of ``like``: defaults, constraints, identity, generated, indexes.
    A column of PARTITION OF or OF that only adds to an inherited one has ``Type("")``. ``of_type``: of CREATE TABLE … OF.
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


@dataclass(frozen=True, slots=True)
class CreateTableAs(Operation):
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
    query: Node | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CreateView(Operation):
    view: Name
    reads: tuple[Name, ...] = ()
    columns_read: tuple[tuple[str, str], ...] = ()  # (qualifier as written or "", column); ("", "*") for a star
    replace: bool = False
    query: Node | None = field(default=None, repr=False)
    columns: tuple[str, ...] = ()  # the names that stand after the view's


@dataclass(frozen=True, slots=True)
class CreateIndex(Operation):
    """``columns``: the key, "" for an expression; ``expressions`` and ``predicate`` stay nodes."""

    name: str | None
    table: Name
    columns: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    expressions: tuple[Node, ...] = field(default=(), repr=False)
    predicate: Node | None = field(default=None, repr=False)
    unique: bool = False
    method: str = "btree"
    concurrently: bool = False
    only: bool = False
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class CreateTrigger(Operation):
    """``columns``: those of UPDATE OF and of WHEN."""

    name: str
    table: Name
    timing: str  # before, after, instead of
    events: tuple[str, ...] = ()  # insert, update, delete, truncate
    row: bool = False
    constraint: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateRule(Operation):
    name: str
    table: Name


@dataclass(frozen=True, slots=True)
class CreatePolicy(Operation):
    """``alter``: ALTER POLICY. ``columns``: those of its own table that USING and WITH CHECK read."""

    name: str
    table: Name
    permissive: bool = True
    alter: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateFunction(Operation):
    """``volatility``: volatile (the default), stable, immutable; ``settings``: names of SET clauses."""

    name: Name
    language: str = ""
    volatility: str = "volatile"
    security_definer: bool = False
    settings: tuple[str, ...] = ()
    replace: bool = False
    procedure: bool = False


@dataclass(frozen=True, slots=True)
class AlterFunction(Operation):
    name: Name
    security_definer: bool | None = None
    settings: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    volatility: str | None = None


@dataclass(frozen=True, slots=True)
class CreateType(Operation):
    """``kind``: enum, composite, range, base; ``values``: labels of an enum."""

    name: Name
    kind: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlterEnum(Operation):
    """``old`` is None for ADD VALUE."""

    type: Name
    value: str
    old: str | None = None
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class AlterComposite(OnTable):
    """ALTER TYPE … ADD, DROP, ALTER ATTRIBUTE; ``act``: add, drop, alter."""

    act: str
    attribute: str
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class CreateDomain(Operation):
    name: Name
    base: Type
    constraints: tuple[Constraint, ...] = ()
    default: Node | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AlterDomain(Operation):
    """``act``: add constraint, validate constraint, drop constraint, set not null, drop not null, set default, drop
    default."""

    domain: Name
    act: str
    constraint: Constraint | None = None
    name: str | None = None
    default: Node | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CreateSequence(Operation):
    """``owned_by``: table and column."""

    name: Name
    type: Type | None = None
    owned_by: tuple[Name, str] | None = None


@dataclass(frozen=True, slots=True)
class AlterSequence(Operation):
    """``owned_by`` is None for OWNED BY NONE too; ``options`` tells."""

    name: Name
    options: tuple[str, ...] = ()
    owned_by: tuple[Name, str] | None = None


@dataclass(frozen=True, slots=True)
class CreateOther(Operation):
    """An object that locks no table: ``kind`` is schema, extension, role, publication, statistics, cast …"""

    kind: str
    name: Name
    tables: tuple[Name, ...] = ()


# --- drop, rename, move


@dataclass(frozen=True, slots=True)
class Drop(Operation):
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


@dataclass(frozen=True, slots=True)
class Rename(Operation):
    """``kind``: table, view, materialized view, index, sequence, column, constraint, schema, type, domain, function,
    procedure, trigger, policy, attribute, role, database … ``table`` holds column, constraint, trigger and policy."""

    kind: str
    name: Name
    new: str
    table: Name | None = None
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class SetSchema(Operation):
    kind: str
    name: Name
    schema: str


# --- maintenance


@dataclass(frozen=True, slots=True)
class Reindex(Operation):
    """``kind``: index, table, schema, database, system."""

    kind: str
    name: Name | None
    concurrently: bool = False


@dataclass(frozen=True, slots=True)
class Cluster(Operation):
    table: Name | None
    index: str | None = None


@dataclass(frozen=True, slots=True)
class Vacuum(Operation):
    """``analyze_only``: ANALYZE. No tables: all of them."""

    tables: tuple[Name, ...] = ()
    full: bool = False
    analyze_only: bool = False


@dataclass(frozen=True, slots=True)
class Refresh(Operation):
    view: Name
    concurrently: bool = False
    with_data: bool = True


@dataclass(frozen=True, slots=True)
class LockTable(Operation):
    """``mode`` as in pg_locks: 1 ACCESS SHARE … 8 ACCESS EXCLUSIVE."""

    tables: tuple[Name, ...]
    mode: int
    nowait: bool = False


@dataclass(frozen=True, slots=True)
class Truncate(Operation):
    tables: tuple[Name, ...]
    cascade: bool = False


# --- rows


@dataclass(frozen=True, slots=True)
class Write(Operation):
    """UPDATE, DELETE, INSERT, MERGE, COPY FROM (``kind`` in lower case: update, delete, insert, merge, copy).

    ``where`` None: every row. ``bounded``: the WHERE pins a key to constants or to a range of them, or the rows
    come from VALUES. ``pins``: the columns that do so; the schema tells whether they are a key. ``reads``: the other
    relations that it names.
    """

    kind: str
    table: Name
    columns: tuple[str, ...] = ()
    where: Node | None = field(default=None, repr=False)
    bounded: bool = False
    reads: tuple[Name, ...] = ()
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query(Operation):
    """SELECT and what else only reads, or calls a function; ``reads``: relations."""

    reads: tuple[Name, ...] = ()
    functions: tuple[str, ...] = ()


# --- session


@dataclass(frozen=True, slots=True)
class TransactionControl(Operation):
    """``act``: begin, commit, rollback, savepoint, release, rollback to, prepare."""

    act: str


@dataclass(frozen=True, slots=True)
class SetVariable(Operation):
    """``value`` is None for RESET and SET … TO DEFAULT; numbers keep their unit as written ("2s", "0")."""

    name: str
    value: str | None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Block(Operation):
    """A DO block; its statements follow as statements of their own. ``dynamic``: EXECUTE of text that is not known."""

    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Grant(Operation):
    """``grant`` False: REVOKE. ``privileges`` in lower case; empty: ALL."""

    grant: bool
    kind: str
    names: tuple[Name, ...]
    privileges: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comment(Operation):
    kind: str
    name: Name


@dataclass(frozen=True, slots=True)
class Other(Operation):
    """A statement that locks no table as far as known; ``kind`` is the tree's (``"AlterSystemStmt"``)."""

    kind: str
