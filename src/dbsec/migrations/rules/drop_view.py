"""MIG310: a view goes while the running release selects from it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateTableAs, CreateView, Drop
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import absent, comes_back, contract, knows
from dbsec.migrations.rules._words import sql, target


def _match(step: Step) -> Iterator[Hit]:
    drop = step.operation
    assert isinstance(drop, Drop)
    if drop.kind not in ("view", "materialized view") or not knows(step, drop.name):
        return
    if drop.if_exists and absent(step, drop.name):
        return
    if comes_back(step, drop.name) and not drop.cascade:
        yield Hit(
            target(step, drop.name),
            f"'{drop.name}' comes back in the same transaction: the running release notices if a column that it reads "
            "is gone, and if its rights are (GRANT them again)",
            severity=Severity.WARNING,
        )
        return
    yield Hit(
        target(step, drop.name),
        f"the running release still selects from '{drop.name}': it fails with 42P01{_until(step, drop.name)}"
        f"{_others(step, drop)}",
        _fix(step, drop),
        severity=None if drop.cascade else contract(step),
    )


def _until(step: Step, name: Name) -> str:
    again = _made_later(step, name)
    return "" if again is None else ", until the view is made again in a transaction of its own"


def _made_later(step: Step, name: Name) -> CreateView | CreateTableAs | None:
    for _, later in step.following:
        if isinstance(later, CreateView) and later.view == name:
            return later
        if isinstance(later, CreateTableAs) and later.materialized and later.table == name:
            return later
    return None


def _others(step: Step, drop: Drop) -> str:
    if not drop.cascade:
        return ""
    view = step.schema.view(drop.name)
    if view is None:
        return "; CASCADE also drops what is built on it"
    using = [str(other.name) for other in step.schema.views_on(view.name)]
    return f"; CASCADE also drops {', '.join(using)}" if using else ""


def _fix(step: Step, drop: Drop) -> str:
    if _made_later(step, drop.name) is None:
        return (
            "-- in a file with '-- dbsec: phase contract', once no client of the old release is left:\n"
            f"-- DROP {drop.kind.upper()} {sql(drop.name)};"
        )
    return f"BEGIN;\nDROP {drop.kind.upper()} {sql(drop.name)};\n-- CREATE and GRANT, as below\nCOMMIT;"


RULE = Rule(
    code="MIG310",
    name="drop-view",
    title="A view is dropped that the running release reads",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Drop,),
    match=_match,
    effect="From the commit on, the view's name is unknown (42P01); its grants and comments go with it. CASCADE drops "
    "every view, rule and function that is built on it, and says so in a NOTICE only.",
    instead="To change a view, use CREATE OR REPLACE VIEW where columns are only added at the end, else DROP and "
    "CREATE in one transaction with the grants. To remove it, deploy a release that does not read it first.",
    example=Example(
        setup=USERS + "CREATE VIEW app.contacts AS SELECT id, phone FROM app.users;\n",
        bad="DROP VIEW app.contacts;",
        good="CREATE OR REPLACE VIEW app.contacts AS SELECT id, phone, email FROM app.users;",
        proof=Breaks("SELECT phone FROM app.contacts WHERE id = 7", "42P01"),
    ),
    source=("sql-dropview", "sql-createview"),
    aliases=("ban-drop-view",),
)
