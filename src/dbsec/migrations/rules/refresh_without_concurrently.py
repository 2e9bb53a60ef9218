"""REFRESH MATERIALIZED VIEW without CONCURRENTLY."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import Refresh
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._words import sql, target, unsure
from dbsec.migrations.schema.model import Table


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, Refresh)
    known = step.schema.table(operation.view)
    view = step.schema.view(operation.view)
    if operation.concurrently or (known is not None and known.new) or (view is not None and view.new):
        return
    name = f"REFRESH MATERIALIZED VIEW {sql(operation.view)}"
    if not operation.with_data:
        yield Hit(
            target(step, operation.view),
            f"{name} WITH NO DATA empties the view: every query on it fails (55000) until it is refreshed with data",
            hazard=Hazard.BREAKS_RELEASE,
        )
        return
    keyed = known is None or any(_is_key(known, index) for index in known.indexes)
    missing = "" if keyed else "; CONCURRENTLY needs a unique index on plain columns without WHERE, and it has none"
    fix = _source.after(_source.bare(operation.clause), "VIEW", "CONCURRENTLY") + ";"
    yield Hit(
        target(step, operation.view),
        f"{name} runs its whole query under ACCESS EXCLUSIVE: reads wait until it is done{missing}{unsure(step)}",
        fix if keyed else "",
    )


def _is_key(view: Table, name: str) -> bool:
    index = view.indexes[name]
    return index.unique and index.valid and index.predicate is None and bool(index.columns) and "" not in index.columns


RULE = Rule(
    code="MIG104",
    name="refresh-without-concurrently",
    title="REFRESH MATERIALIZED VIEW keeps readers out while its query runs",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Refresh,),
    match=_match,
    effect="REFRESH MATERIALIZED VIEW holds ACCESS EXCLUSIVE on the view for as long as its query runs and its "
    "indexes are built: nobody reads it meanwhile.",
    instead="REFRESH MATERIALIZED VIEW CONCURRENTLY lets readers see the old rows until the new ones are there. It "
    "needs a unique index on plain columns, without WHERE.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint);\n"
        "INSERT INTO orders SELECT n, n % 10 FROM generate_series(1, 1000) AS n;\n"
        "CREATE MATERIALIZED VIEW sales AS SELECT customer, count(*) AS n FROM orders GROUP BY customer;\n"
        "CREATE UNIQUE INDEX sales_customer_idx ON sales (customer);",
        bad="REFRESH MATERIALIZED VIEW sales;",
        good="REFRESH MATERIALIZED VIEW CONCURRENTLY sales;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "sales", Work.REWRITE),
    ),
    source=("sql-refreshmaterializedview",),
    mechanical=True,
)
