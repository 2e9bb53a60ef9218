"""Whatever else works long under a lock and has no rule of its own."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import Operation
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._words import blocked, hazard, told

_OF_LOCKS = ("MIG1", "MIG2")  # a statement may do other harm besides: that has rules of its own


def _match(step: Step) -> Iterator[Hit]:
    if not step.effect.work or any(code.startswith(_OF_LOCKS) for code in step.refused):
        return
    if found := blocked(step):
        yield Hit(str(found[0][0].table), told(step, "the statement", found), hazard=hazard(found[0][1]))


RULE = Rule(
    code="MIG299",
    name="long-work-under-lock",
    title="The statement works through a table under a lock that others wait for",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Operation,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="Some statements read or write a whole table under a lock without being among those that the other rules "
    "name, for instance ALTER TYPE … ALTER ATTRIBUTE of a type that tables are made of.",
    instead="See what it does with dbsec migrate trace; then split it: the change of the catalog first, the work in "
    "batches or under a weaker lock.",
    example=Example(
        setup="CREATE TYPE place AS (street text, number int);\nCREATE TABLE places OF place;\n"
        "INSERT INTO places SELECT 'a', n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TYPE place ALTER ATTRIBUTE number TYPE bigint CASCADE;",
        good="ALTER TYPE place ADD ATTRIBUTE number_new bigint CASCADE;\n"
        "UPDATE places SET number_new = number WHERE number BETWEEN 1 AND 1000;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "places", Work.REWRITE),
    ),
    source=("explicit-locking", "sql-altertype"),
)
