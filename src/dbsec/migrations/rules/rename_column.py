"""MIG302: a column gets another name while the running release knows the old one."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Rename
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._expand import instead_of_change
from dbsec.migrations.rules._release import absent, column, contract, is_new_column, knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    rename = step.operation
    assert isinstance(rename, Rename)
    if rename.kind != "column" or rename.table is None or not knows(step, rename.table):
        return
    old = rename.name.name
    if is_new_column(step, rename.table, old) or (rename.if_exists and absent(step, rename.table)):
        return
    known = column(step, rename.table, old)
    yield Hit(
        target(step, rename.table, old),
        f"the running release still says '{old}': each of its statements that names the column fails with 42703",
        instead_of_change(step, rename.table, old, rename.new, (known.type, known.type))
        if known is not None and step.schema.view(rename.table) is None
        else f"-- with --schema or --dsn the type of {ident(old)} is known, and the statements stand here; in short: "
        f"add {ident(rename.new)} to {sql(rename.table)}, keep both alike by a trigger, backfill, drop {ident(old)} in "
        "a later release",
        severity=contract(step),
    )


RULE = Rule(
    code="MIG302",
    name="rename-column",
    title="A column is renamed that the running release uses",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(Rename,),
    match=_match,
    effect="RENAME COLUMN is quick: it changes the catalog under ACCESS EXCLUSIVE. From then on the old name is "
    "unknown (42703), while the new release needs the new name: there is no order of deploying both in which neither "
    "fails.",
    instead="Add a column with the new name, keep both alike by a trigger, backfill in batches, move the application, "
    "and drop the old column in a later release. Or keep the name in the database and map it in the application.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users RENAME COLUMN phone TO mobile;",
        good="ALTER TABLE app.users ADD COLUMN mobile varchar(40);\n"
        "CREATE FUNCTION app.users_mobile_sync() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'INSERT' THEN "
        "IF NEW.mobile IS NULL THEN NEW.mobile := NEW.phone; ELSE NEW.phone := NEW.mobile; END IF; "
        "ELSIF NEW.mobile IS DISTINCT FROM OLD.mobile THEN NEW.phone := NEW.mobile; "
        "ELSIF NEW.phone IS DISTINCT FROM OLD.phone THEN NEW.mobile := NEW.phone; END IF; RETURN NEW; END $$;\n"
        "CREATE TRIGGER users_mobile_sync BEFORE INSERT OR UPDATE ON app.users "
        "FOR EACH ROW EXECUTE FUNCTION app.users_mobile_sync();",
        proof=Breaks("UPDATE app.users SET phone = '+31301' WHERE id = 7", "42703"),
    ),
    source=("sql-altertable", "ddl-alter"),
    aliases=("renaming-column", "rename_column"),
)
