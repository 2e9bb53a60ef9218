"""MIG323: rows leave the table that the running release asks."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import DetachPartition, Inherit
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._release import contract, knows
from dbsec.migrations.rules._words import target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (DetachPartition, Inherit))
    if contract(step) or not knows(step, act.table):
        return
    if isinstance(act, DetachPartition) and not act.finalize and knows(step, act.partition):
        yield Hit(
            target(step, act.partition),
            f"the rows of '{act.partition}' are no longer seen through '{act.table}', and new rows of its range are "
            "refused with 23514 where no DEFAULT partition takes them",
        )
    elif isinstance(act, Inherit) and not act.add and knows(step, act.parent):
        yield Hit(target(step, act.table), f"the rows of '{act.table}' are no longer seen through '{act.parent}'")


RULE = Rule(
    code="MIG323",
    name="detach-partition",
    title="A partition with rows is detached",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(DetachPartition, Inherit),
    match=_match,
    effect="The partition stays as a table of its own, but queries through the parent no longer see its rows, foreign "
    "keys to the parent no longer find them (the detach is refused where one does), and inserts of its range fail.",
    instead="Detach what the running release no longer asks for: see in pg_stat_user_tables that the partition is "
    "neither read nor written. Use DETACH PARTITION … CONCURRENTLY, outside a transaction.",
    example=Example(
        setup="CREATE SCHEMA app;\n"
        "CREATE TABLE app.events (id bigint NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);\n"
        "CREATE TABLE app.events_2025 PARTITION OF app.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');\n"
        "CREATE TABLE app.events_2026 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');\n"
        "INSERT INTO app.events SELECT i, date '2025-06-01' + i FROM generate_series(1, 300) AS i;\n",
        bad="ALTER TABLE app.events DETACH PARTITION app.events_2025 CONCURRENTLY;",
        good="CREATE TABLE app.events_2027 PARTITION OF app.events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');",
        proof=Loses("SELECT count(*) FROM app.events"),
    ),
    source=("sql-altertable", "ddl-partitioning"),
    aliases=("ban-detach-inheritance",),
)
