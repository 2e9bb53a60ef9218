"""ALTER DOMAIN that reads every table which uses the domain."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AlterDomain
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._words import blocked, hazard, ident, sql, told


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    assert isinstance(operation, AlterDomain)
    if found:
        act = f"ALTER DOMAIN {sql(operation.domain)} {operation.act.upper()}"
        where, message = str(step.schema.qualified(operation.domain)), told(step, act, found)
        yield Hit(where, message, _unproven(operation), hazard=hazard(found[0][1]))


def _unproven(operation: AlterDomain) -> str:
    """NOT VALID is where it ends: to VALIDATE would read the tables again, under SHARE."""
    if operation.act == "set not null":
        name = ident(_fixes.cut(operation.domain.name, "not_null"))
        return f"ALTER DOMAIN {sql(operation.domain)} ADD CONSTRAINT {name} CHECK (VALUE IS NOT NULL) NOT VALID;"
    if operation.act != "add constraint" or not operation.constraint or operation.constraint.expression is None:
        return ""
    return _source.bare(operation.clause) + " NOT VALID;"


RULE = Rule(
    code="MIG214",
    name="domain-constraint-scans",
    title="A constraint of a domain is tested on every table that uses it",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(AlterDomain,),
    match=_match,
    effect="ALTER DOMAIN … ADD CONSTRAINT, SET NOT NULL and VALIDATE CONSTRAINT read every table with a column of the "
    "domain, and hold SHARE on each meanwhile: nobody writes. Unlike a table's, a domain's VALIDATE is no way out.",
    instead="Add the constraint to the domain NOT VALID, for new values, and leave it so; prove the old ones with a "
    "CHECK on each table, NOT VALID and then VALIDATE.",
    example=Example(
        setup="CREATE DOMAIN code AS text;\nCREATE TABLE orders (id bigint PRIMARY KEY, code code);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER DOMAIN code ADD CONSTRAINT code_filled CHECK (VALUE <> '');",
        good="ALTER DOMAIN code ADD CONSTRAINT code_filled CHECK (VALUE <> '') NOT VALID;\n"
        "ALTER TABLE orders ADD CONSTRAINT orders_code_check CHECK (code <> '') NOT VALID;\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_code_check;",
        proof=Locks(LockMode.SHARE, "orders", Work.SCAN),
    ),
    source=("sql-alterdomain",),
    aliases=("ban-alter-domain-with-add-constraint",),
)
