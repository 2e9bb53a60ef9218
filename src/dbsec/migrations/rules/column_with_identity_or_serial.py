"""ADD COLUMN that numbers the rows: serial, identity."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._columns import Cause, in_steps, rewrite_cause
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, AddColumn)
    if rewrite_cause(step) is Cause.NUMBERED:
        kind = "AS IDENTITY" if operation.column.identity else operation.column.type.name
        act = f"ADD COLUMN {ident(operation.column.name)} {kind}"
        where = target(step, operation.table, operation.column.name)
        yield Hit(where, told(step, act, blocked(step)), in_steps(step))


RULE = Rule(
    code="MIG203",
    name="column-with-identity-or-serial",
    title="A new serial or identity column numbers every row under ACCESS EXCLUSIVE",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddColumn,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="serial and GENERATED … AS IDENTITY draw a number for each row that stands, so that ADD COLUMN writes the "
    "table and its indexes anew while nobody may read it.",
    instead="Add a plain integer column, create a sequence that it owns, SET DEFAULT nextval(…), number the old rows "
    "in batches, then NOT NULL and, where it shall be the key, a unique index built concurrently. It behaves as "
    "serial does; identity can be added to it later, without a scan.",
    example=Example(
        setup="CREATE TABLE events (at timestamptz PRIMARY KEY);\n"
        "INSERT INTO events SELECT to_timestamp(n) FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE events ADD COLUMN id bigserial;",
        good="ALTER TABLE events ADD COLUMN id bigint;\n"
        "CREATE SEQUENCE events_id_seq OWNED BY events.id;\n"
        "ALTER TABLE events ALTER COLUMN id SET DEFAULT nextval('events_id_seq');\n"
        "UPDATE events SET id = DEFAULT WHERE at BETWEEN to_timestamp(1) AND to_timestamp(1000) AND id IS NULL;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "events", Work.REWRITE),
    ),
    source=("sql-altertable", "datatype-numeric", "ddl-identity-columns"),
    aliases=("adding-serial-primary-key-field", "add_column_auto_incrementing", "E11"),
)
