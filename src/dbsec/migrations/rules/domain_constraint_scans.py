"""ALTER DOMAIN that reads every table which uses the domain."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AlterDomain, Type
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._words import blocked, hazard, ident, sql, told, unsure
from dbsec.migrations.schema.model import Domain


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    assert isinstance(operation, AlterDomain)
    act, where = f"ALTER DOMAIN {sql(operation.domain)} {operation.act.upper()}", _target(step, operation)
    if found:
        yield Hit(where, told(step, act, found), _unproven(operation), hazard=hazard(found[0][1]))
    elif step.effect.unsure and not step.effect.work and not _is_new(step, operation):
        message = f"{act} reads every table that uses the domain, under SHARE: writes wait until it is done"
        yield Hit(where, message + unsure(step), _unproven(operation))


def _target(step: Step, operation: AlterDomain) -> str:
    known = _known(step, operation)
    return str(known.name if known is not None else step.schema.qualified(operation.domain))


def _is_new(step: Step, operation: AlterDomain) -> bool:
    known = _known(step, operation)
    return known is not None and known.new


def _known(step: Step, operation: AlterDomain) -> Domain | None:
    return step.schema.domain(Type(operation.domain.name, operation.domain.schema))


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
