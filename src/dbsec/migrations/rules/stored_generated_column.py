"""A stored generated column that is added, or whose expression is changed."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn, SetExpression
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _columns
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    if isinstance(operation, AddColumn) and _columns.rewrite_cause(step) is _columns.Cause.GENERATED:
        where = target(step, operation.table, operation.column.name)
        act = f"ADD COLUMN {ident(operation.column.name)} … STORED"
        virtual = "; VIRTUAL, which 18 has, would change the catalog only" if step.major >= 18 else ""
        yield Hit(where, told(step, act, blocked(step)) + virtual, _columns.in_steps(step))
    elif isinstance(operation, SetExpression) and (found := blocked(step)):
        act = f"ALTER COLUMN {ident(operation.column)} SET EXPRESSION"
        where = target(step, operation.table, operation.column)
        yield Hit(where, told(step, act, found), _columns.generated_beside(step))


RULE = Rule(
    code="MIG204",
    name="stored-generated-column",
    title="A stored generated column is computed for every row under ACCESS EXCLUSIVE",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddColumn, SetExpression),
    needs=Needs.BLOCKING,
    match=_match,
    effect="ADD COLUMN … GENERATED ALWAYS AS (…) STORED, and SET EXPRESSION of such a column (17 and later), compute "
    "the value of every row, and write the table and its indexes anew while nobody may read it.",
    instead="A plain column that a BEFORE trigger fills, and batches for the rows that stand. From 18 on GENERATED … "
    "VIRTUAL is another way: computed when it is read, and added without touching a row; it can have no index.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY, email text);\n"
        "INSERT INTO users SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE users ADD COLUMN email_key text GENERATED ALWAYS AS (lower(email)) STORED;",
        good="ALTER TABLE users ADD COLUMN email_key text;\n"
        "CREATE FUNCTION users_email_key_sync() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.email_key := lower(NEW.email); RETURN NEW; END $$;\n"
        "CREATE TRIGGER users_email_key_sync BEFORE INSERT OR UPDATE ON users"
        " FOR EACH ROW EXECUTE FUNCTION users_email_key_sync();\n"
        "UPDATE users SET email_key = lower(email) WHERE id BETWEEN 1 AND 1000;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.REWRITE),
    ),
    source=("sql-altertable", "ddl-generated-columns"),
    aliases=("adding-field-with-default", "add_column_generated_stored", "E11"),
)
