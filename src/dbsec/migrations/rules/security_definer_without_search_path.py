"""MIG511: a function runs with its owner's rights along the caller's search_path."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AlterFunction, CreateFunction
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._words import ident, target

_SETUP = """\
CREATE SCHEMA app;
CREATE SCHEMA evil;
CREATE TABLE app.admins (name text);
CREATE TABLE evil.admins (name text);
INSERT INTO evil.admins VALUES ('mallory');
"""


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (CreateFunction, AlterFunction))
    if isinstance(act, AlterFunction) and ("search_path" in act.reset or "all" in act.reset):
        said = "its search_path is reset: if it is SECURITY DEFINER, it follows the caller's"
    elif act.security_definer and "search_path" not in act.settings:
        said = "SECURITY DEFINER without a search_path of its own: who calls it decides what its names mean"
    else:
        return
    path = ident(act.name.schema or (step.schema.search_path or ("public",))[0])
    text = _source.bare(step.statement.text)
    fixed = _source.after(text, "DEFINER", f"SET search_path = {path}, pg_temp")
    yield Hit(target(step, act.name), said, f"{fixed};" if fixed != text else "")


RULE = Rule(
    code="MIG511",
    name="security-definer-without-search-path",
    title="SECURITY DEFINER without SET search_path",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(CreateFunction, AlterFunction),
    match=_match,
    effect="The function has its owner's rights and the caller's search_path. A caller who may create a table, a "
    "function or an operator anywhere (pg_temp is enough) puts it on the path first, and the owner's rights work on "
    "that.",
    instead="SET search_path = app, pg_temp on the function (pg_temp last, or it is searched first), or write it as a "
    "SQL-standard body (BEGIN ATOMIC), which keeps what its names meant when it was made.",
    example=Example(
        setup=_SETUP,
        bad="CREATE FUNCTION app.is_admin(who text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$ BEGIN RETURN EXISTS (SELECT FROM admins WHERE name = who); END $$;",
        good="CREATE FUNCTION app.is_admin(who text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER "
        "SET search_path = app, pg_temp AS $$ BEGIN RETURN EXISTS (SELECT FROM admins WHERE name = who); END $$;",
        proof=Shows(
            "SELECT app.is_admin('mallory')::text FROM set_config('search_path', 'evil, app', true)",
            "true",
        ),
    ),
    source=("sql-createfunction", "ddl-schemas"),
    aliases=("ban-alter-function-options",),
)
