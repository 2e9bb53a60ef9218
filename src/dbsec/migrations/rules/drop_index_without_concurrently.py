"""DROP INDEX without CONCURRENTLY."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Drop
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules._words import sql, unsure


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, Drop)
    if operation.kind != "index" or operation.concurrently:
        return
    index = step.schema.index(operation.name)
    table = step.schema.table(index.table) if index is not None else None
    if (index is None and step.schema.known) or (table is not None and table.new):
        return
    if index is not None and (index.constraint or (table is not None and table.partition_by is not None)):
        return  # PostgreSQL refuses CONCURRENTLY there, or the drop itself
    exists = "IF EXISTS " if operation.if_exists else ""
    on = f"'{index.table}'" if index is not None else "its table"
    yield Hit(
        str(Name(index.table.schema, index.name) if index is not None else step.schema.qualified(operation.name)),
        f"DROP INDEX {sql(operation.name)} asks for ACCESS EXCLUSIVE on {on}: while it waits for a running "
        f"query, reads and writes queue behind it{unsure(step)}",
        "" if operation.cascade else f"DROP INDEX CONCURRENTLY {exists}{sql(operation.name)};",
    )


RULE = Rule(
    code="MIG102",
    name="drop-index-without-concurrently",
    title="DROP INDEX asks for ACCESS EXCLUSIVE on the table",
    severity=Severity.WARNING,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Drop,),
    match=_match,
    effect="DROP INDEX takes ACCESS EXCLUSIVE on the index and its table. It is over at once, but only when it has "
    "the lock: behind the longest running query every other session waits.",
    instead="DROP INDEX CONCURRENTLY waits for old transactions without keeping others out. It takes one index, no "
    "CASCADE, no transaction, and no index of a constraint or of a partitioned table.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint);\n"
        "CREATE INDEX orders_customer_idx ON orders (customer);",
        bad="DROP INDEX orders_customer_idx;",
        good="DROP INDEX CONCURRENTLY orders_customer_idx;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders"),
    ),
    source=("sql-dropindex", "explicit-locking"),
    aliases=("require-concurrent-index-deletion", "ban-drop-index", "remove_index"),
    mechanical=True,
)
