"""ALTER COLUMN … TYPE that writes every row anew."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AlterColumnType
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._columns import beside_the_old, wanted_type
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, AlterColumnType)
    if found := blocked(step, Work.REWRITE):
        act = f"ALTER COLUMN {ident(operation.column)} TYPE {wanted_type(operation)}"
        yield Hit(target(step, operation.table, operation.column), told(step, act, found), beside_the_old(step))


RULE = Rule(
    code="MIG201",
    name="alter-type-on-large-table",
    title="A change of type writes the whole table anew while nobody may read it",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AlterColumnType,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="Unless the stored bytes mean the same in the new type, PostgreSQL writes every row and builds every index "
    "anew under ACCESS EXCLUSIVE. USING is no test for that, neither way: it may be there for a cast that costs "
    "nothing, and int to bigint needs none and rewrites. Only the old type tells, so give --schema or --dsn.",
    instead="Expand and contract: add a column of the new type, keep it equal by trigger, fill it in batches, move "
    "readers and writers to it, and drop the old one in a later release.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, amount int);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE orders ALTER COLUMN amount TYPE bigint;",
        good="ALTER TABLE orders ADD COLUMN amount_new bigint;\n"
        "CREATE FUNCTION orders_amount_new_sync() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.amount_new := NEW.amount; RETURN NEW; END $$;\n"
        "CREATE TRIGGER orders_amount_new_sync BEFORE INSERT OR UPDATE ON orders"
        " FOR EACH ROW EXECUTE FUNCTION orders_amount_new_sync();\n"
        "UPDATE orders SET amount_new = amount WHERE id BETWEEN 1 AND 1000;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.REWRITE),
    ),
    source=("sql-altertable",),
    aliases=("changing-column-type", "change_column", "E5"),
)
