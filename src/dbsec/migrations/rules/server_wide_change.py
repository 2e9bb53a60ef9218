"""MIG517: a migration of one database changes the server, or every session's settings."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.interpret.words import role_of
from dbsec.migrations.operations import AlterOther, CreateOther, Drop, Other, Rename
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step

_SAID = {
    "AlterSystemStmt": (
        "the server",
        "ALTER SYSTEM writes postgresql.auto.conf, for every database, at the next reload",
    ),
    "CreateRoleStmt": ("role", "roles belong to the server: another database has them too, and a rebuilt one does not"),
    "AlterRoleStmt": (
        "role",
        "roles belong to the server; a password stands in the file, in its history and in the log",
    ),
    "AlterRoleSetStmt": (
        "role",
        "settings of a role hold for new sessions: those of the running release keep the old ones",
    ),
    "DropRoleStmt": ("role", "roles belong to the server: another database may need it"),
    "AlterDatabaseSetStmt": ("database", "settings of a database hold for new sessions: open ones keep the old value"),
    "AlterDatabaseStmt": ("database", "options of a database hold for all its clients"),
}


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    if isinstance(act, Rename) and act.kind in ("role", "database"):
        yield Hit(
            str(act.name), f"connections of the running release say '{act.name}': new ones are refused from here on"
        )
    if step.statement.kind not in _SAID:
        return
    what, said = _SAID[step.statement.kind]
    yield Hit(_name(step) or what, f"{said}; nothing here takes it back")


def _name(step: Step) -> str:
    name = getattr(step.operation, "name", None)
    if name is not None:
        return str(name)
    node = step.statement.node
    return str(node.get("dbname") or role_of(node.get("role", {})))


RULE = Rule(
    code="MIG517",
    name="server-wide-change",
    title="A migration changes roles or settings of the whole server",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(Other, CreateOther, Drop, Rename, AlterOther),
    match=_match,
    effect="Roles, ALTER SYSTEM and ALTER DATABASE … SET are outside of the schema: they are shared by all databases "
    "or sessions, are missing where the schema is restored from a dump, and a setting reaches a session when it "
    "connects, so that old and new sessions differ.",
    instead="Keep roles and their settings where they are planned (roles.toml, dbsec roles apply), and the server's "
    "settings in its configuration. In a migration, SET on the function or in the session that needs it.",
    example=Example(
        setup="ALTER ROLE CURRENT_USER RESET dbsec.example;",
        bad="ALTER ROLE CURRENT_USER SET dbsec.example = 'on';",
        good="SET dbsec.example = 'on';",
        proof=Shows("SELECT count(*)::text FROM pg_db_role_setting WHERE 'dbsec.example=on' = ANY (setconfig)", "1"),
    ),
    source=("sql-altersystem", "sql-alterrole", "sql-alterdatabase"),
    aliases=("ban-alter-system-options", "ban-alter-role-options", "ban-alter-database-options"),
)
