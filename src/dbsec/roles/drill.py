"""The attacks on least privilege: each must succeed while the service is a superuser, and be refused after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psycopg.errors import InsufficientPrivilege

from dbsec.evidence import Control, Drill, Observation
from dbsec.pg import Conninfo
from dbsec.roles import attacks, limits, trail

_AC6 = "NIST SP 800-53 AC-6"

DDL = Control(
    "ROL-SERVICE-DDL",
    "The service cannot change or drop the schema",
    "one injected statement, or one stolen password, drops every table",
    ("OWASP A05:2021", "CIS PostgreSQL 16 4.3", _AC6),
)
TRUNCATE = Control(
    "ROL-SERVICE-TRUNCATE",
    "The service cannot empty a table",
    "TRUNCATE passes by triggers and row-level security, and takes every tenant's rows at once",
    ("OWASP A05:2021", "CIS PostgreSQL 16 4.6", _AC6),
)
HASHES = Control(
    "ROL-PASSWORD-HASHES",
    "The service cannot read password hashes",
    "whoever reads pg_authid tries passwords at home, or logs in with an MD5 hash as it is",
    ("OWASP A02:2021", "CIS PostgreSQL 16 4.3", _AC6),
)
PROGRAM = Control(
    "ROL-SERVER-PROGRAM",
    "The service cannot run programs on the server",
    "COPY FROM PROGRAM is a shell on the database host",
    ("OWASP A03:2021", "CIS PostgreSQL 16 4.9", "CWE-78", _AC6),
)
FILES = Control(
    "ROL-SERVER-FILES",
    "The service cannot read files of the server",
    "keys, pg_hba.conf and backups lie beside the data",
    ("OWASP A01:2021", "CIS PostgreSQL 16 4.9", _AC6),
)
ESCALATION = Control(
    "ROL-ESCALATION",
    "The service cannot become more than it is",
    "a role that makes roles, or may act as an owner, has every right that it lacks",
    ("OWASP A01:2021", "CIS PostgreSQL 16 4.3", "NIST SP 800-53 AC-6(10)"),
)
TRIGGERS = Control(
    "ROL-TRIGGERS",
    "The service cannot switch triggers and foreign keys off",
    "audit triggers, dual writes and foreign keys are silently passed by",
    ("OWASP A04:2021", _AC6),
)
FUTURE = Control(
    "ROL-FUTURE-TABLES",
    "A table of tomorrow is open to the service as the default privileges say, and no further",
    "a new table is readable by everybody, or by nobody until someone grants ALL in a hurry",
    ("OWASP A05:2021", _AC6),
)
RUNAWAY = Control(
    "ROL-RUNAWAY-STATEMENT",
    "A runaway statement or a forgotten transaction of the service is ended",
    "one bad query holds a connection, its locks and old row versions for hours",
    ("OWASP API4:2023", "NIST SP 800-53 SC-5"),
)
CONNECTIONS = Control(
    "ROL-CONNECTION-LIMIT",
    "The service cannot take all connections of the server",
    "a leak in one service locks out every other one, and the administrator",
    ("OWASP API4:2023", "CIS PostgreSQL 16 5.5", "NIST SP 800-53 SC-5"),
)
LOG_DDL = Control(
    "LOG-DDL",
    "Every change of the schema is in the log, with who, from where and when",
    "a table is gone and nobody can say by whom",
    ("OWASP A09:2021", "CIS PostgreSQL 16 3.1.25", "NIST SP 800-53 AU-3"),
)
LOG_PRIVILEGED = Control(
    "LOG-PRIVILEGED",
    "All that a superuser does is in the log, his login too",
    "the one role that may do anything leaves no trace",
    ("OWASP A09:2021", "CIS PostgreSQL 16 3.1.20", "NIST SP 800-53 AC-6(9)"),
)


@dataclass(frozen=True, slots=True)
class RolesTarget:
    """What is attacked, by its present DSNs: ``service``, ``migrator`` (who changes the schema), ``admin`` (superuser).

    ``server_log`` is what the server prints to stderr.
    """

    service: Callable[[], Conninfo]
    migrator: Callable[[], Conninfo]
    admin: Callable[[], Conninfo]
    server_log: Path


def drills(target: RolesTarget) -> tuple[Drill, ...]:
    """Return every drill of this pillar; what they change is rolled back, and what they make is dropped."""
    return (
        _attempt(target, DDL, "DROP TABLE app.orders", attacks.drop_table, "dropped the orders"),
        _attempt(target, DDL, "CREATE TABLE in schema app", attacks.create_in_app, "made a table in schema app"),
        _attempt(target, DDL, "CREATE TABLE in schema public", attacks.create_in_public, "made a table in public"),
        _attempt(target, TRUNCATE, "TRUNCATE app.orders", attacks.truncate, "emptied the orders"),
        _attempt(target, HASHES, "read pg_authid", attacks.read_password_hashes, "read the password hashes"),
        _attempt(target, PROGRAM, "COPY FROM PROGRAM 'id'", attacks.run_program, "ran a program on the server"),
        _attempt(target, FILES, "pg_read_file", attacks.read_server_file, "read a file of the server"),
        _attempt(target, ESCALATION, "CREATE ROLE … SUPERUSER", attacks.make_superuser, "made itself a superuser"),
        _attempt(target, ESCALATION, "SET ROLE to the owner", attacks.become_owner, "acts as the owner of its tables"),
        _attempt(target, TRIGGERS, "session_replication_role", attacks.switch_triggers_off, "switched triggers off"),
        Drill(
            FUTURE,
            "make a table as the owner and look who may use it",
            lambda: limits.future_tables(target.service(), target.migrator(), target.admin()),
        ),
        Drill(RUNAWAY, "sleep beyond the statement timeout", lambda: limits.runaway(target.service())),
        Drill(
            CONNECTIONS,
            "open more connections than allowed, as a sibling of the service",
            lambda: limits.connections(target.service(), target.admin(), target.server_log),
        ),
        Drill(
            LOG_DDL,
            "drop a table as the migrator and look who it was",
            lambda: trail.ddl_is_logged(target.migrator(), target.server_log),
        ),
        Drill(
            LOG_PRIVILEGED,
            "log in as superuser and look for it",
            lambda: trail.superuser_is_logged(target.admin(), target.server_log),
        ),
    )


def _attempt(target: RolesTarget, control: Control, name: str, attempt: attacks.Attempt, done: str) -> Drill:
    def attack() -> Observation:
        return attacks.refused(target.service(), attempt, done=done, refusal=InsufficientPrivilege)

    return Drill(control, name, attack)
