"""What installing, upgrading or removing the schema would do: statements as data, read without a change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from dbsec import __version__
from dbsec.errors import ApplyError, UsageError
from dbsec.pg import advisory
from dbsec.pg.own import state
from dbsec.pg.own.state import OWNER, SCHEMA
from dbsec.pg.own.steps import STEPS, Step

# Who logs in as one role may act as another from the first statement on (ALTER ROLE ... SET role).
_ACTS_AS: LiteralString = """
SELECT r.rolname, (SELECT pg_catalog.substr(c, 6) FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
                    WHERE s.setrole = r.oid AND c LIKE 'role=%%' AND s.setdatabase IN
                          (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
                    ORDER BY s.setdatabase DESC LIMIT 1)
  FROM pg_catalog.pg_roles r WHERE r.rolname = ANY (%s)
"""
_OWNER: LiteralString = "SELECT nspowner::regrole::text FROM pg_catalog.pg_namespace WHERE nspname = 'dbsec'"
_HAS_ROLE: LiteralString = "SELECT FROM pg_catalog.pg_roles WHERE rolname = 'dbsec_owner'"
_LACKS: LiteralString = """
SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'dbsec' AND c.relname = ANY (%(tables)s)
   AND NOT (pg_catalog.has_schema_privilege(%(user)s, n.oid, 'USAGE')
        AND pg_catalog.has_table_privilege(%(user)s, c.oid, 'SELECT')
        AND (c.relname = 'schema_version' OR (pg_catalog.has_table_privilege(%(user)s, c.oid, 'INSERT')
        AND pg_catalog.has_table_privilege(%(user)s, c.oid, 'UPDATE')
        AND pg_catalog.has_table_privilege(%(user)s, c.oid, 'DELETE'))))
"""
# Dropped kind by kind and without CASCADE: what others built on it is named by the server, and stays.
_OBJECTS: LiteralString = """
SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
       c.oid::regclass::text
  FROM pg_catalog.pg_class c
 WHERE relnamespace = 'dbsec'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT relispartition
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')
                      AND d.classid = 'pg_class'::regclass AND c.relkind = 'S')
UNION ALL
SELECT 'ROUTINE', oid::regprocedure::text FROM pg_catalog.pg_proc WHERE pronamespace = 'dbsec'::regnamespace
UNION ALL
SELECT CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, oid::regtype::text
  FROM pg_catalog.pg_type WHERE typnamespace = 'dbsec'::regnamespace AND typtype IN ('d', 'e') AND typelem = 0
 ORDER BY 2
"""
_DROP_ORDER = ("VIEW", "MATERIALIZED VIEW", "TABLE", "ROUTINE", "SEQUENCE", "DOMAIN", "TYPE")
_RUNNING: LiteralString = """
SELECT DISTINCT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), a.backend_start, 0::bigint
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database()
   AND (l.locktype = 'advisory' AND (l.classid = %(family)s OR a.application_name LIKE 'dbsec@%%')
     OR l.locktype = 'relation' AND l.relation IN
        (SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('dbsec')))
 ORDER BY a.backend_start, a.pid
"""


class Verb(StrEnum):
    """What can be planned."""

    INSTALL = "install"
    UPGRADE = "upgrade"
    UNINSTALL = "uninstall"


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that would be done. ``as_owner``: it is run as ``dbsec_owner``."""

    what: str
    statement: str
    as_owner: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The acts in their order; none where nothing is to do.

    ``rows`` is what an uninstall loses, by table; ``running`` are the sessions of others that use the schema.
    """

    verb: Verb
    acts: tuple[Act, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()
    running: tuple[advisory.Holder, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.acts)


def plan(connection: psycopg.Connection[Any], verb: Verb, *, users: Sequence[str] = ()) -> Plan:
    """Say what would be done; changes nothing. ``users`` are roles that are to use the schema.

    Errors: ``UsageError`` for a role that is not there; ``ApplyError`` for a schema of another owner, or one that is
    not there to be upgraded; ``NewerFormat``.
    """
    with connection.transaction():
        connection.execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)")
        return decide(connection, verb, users=users)


def decide(connection: psycopg.Connection[Any], verb: Verb, *, users: Sequence[str] = ()) -> Plan:
    """Do what ``plan`` does in a transaction whose search_path is pinned."""
    _refuse_other_owner(connection)
    if verb is Verb.UNINSTALL:
        return _removal(connection)
    found = state.steps(connection)
    if not found and verb is Verb.UPGRADE:
        raise ApplyError(f"schema '{SCHEMA}' is not installed in this database", hint="dbsec db install --dsn REF")
    state.refuse_newer(found)
    have = {step.version for step in found}
    pending = [step for step in STEPS if step.version not in have]
    known = dict.fromkeys([*state.users(connection), *acting(connection, users)])
    acts = [*_ground(connection), *map(_step, pending), *_grants(connection, list(known), fresh=bool(pending))]
    return Plan(verb, tuple(acts))


def acting(connection: psycopg.Connection[Any], users: Sequence[str]) -> list[str]:
    """Add the roles that users become at login by a setting of theirs. Errors: ``UsageError`` for an unknown role."""
    acts_as = dict(connection.execute(_ACTS_AS, [list(users)]).fetchall())
    for user in users:
        if user not in acts_as:
            raise UsageError(f"there is no role '{user}'", hint="dbsec lab env; psql -c '\\du'")
    return list(dict.fromkeys(name for user in users for name in (user, acts_as[user]) if name and name != "none"))


def _refuse_other_owner(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(_OWNER).fetchone()
    if row is not None and row[0] != OWNER:
        hint = f"as a superuser: ALTER SCHEMA {SCHEMA} OWNER TO {OWNER}, if it is dbsec's"
        raise ApplyError(f"schema '{SCHEMA}' belongs to '{row[0]}', not to '{OWNER}'", hint=hint)


def _ground(connection: psycopg.Connection[Any]) -> Iterator[Act]:
    if connection.execute(_HAS_ROLE).fetchone() is None:
        yield Act(f"role {OWNER}: owns the schema, nobody logs in as it", f"CREATE ROLE {OWNER} NOLOGIN", False)
    if connection.execute(_OWNER).fetchone() is None:
        yield Act(f"schema {SCHEMA}", f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {OWNER}", False)


def _step(step: Step) -> Act:
    values = (Literal(step.version), Literal(step.min_client), Literal(__version__))
    record = SQL("INSERT INTO dbsec.schema_version (version, min_client, dbsec) VALUES ({}, {}, {})").format(*values)
    return Act(f"version {step.version}: {step.name}", f"{step.sql.rstrip()}\n{record.as_string()}")


def _grants(connection: psycopg.Connection[Any], users: Sequence[str], *, fresh: bool) -> Iterator[Act]:
    tables = [table for step in STEPS for table in step.tables]
    written = [Identifier(SCHEMA, table) for table in tables if table != "schema_version"]
    for user in users:
        if not fresh and connection.execute(_LACKS, {"tables": tables, "user": user}).fetchone() is None:
            continue
        statement = SQL(
            "GRANT USAGE ON SCHEMA dbsec TO {user};\nGRANT SELECT ON dbsec.schema_version TO {user};\n"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {user}"
        ).format(user=Identifier(user), tables=SQL(", ").join(written))
        yield Act(f"'{user}' may use it", statement.as_string())


def _removal(connection: psycopg.Connection[Any]) -> Plan:
    if connection.execute(_OWNER).fetchone() is None:
        return Plan(Verb.UNINSTALL)
    objects = connection.execute(_OBJECTS).fetchall()
    acts = []
    for kind in _DROP_ORDER:
        if names := [name for of, name in objects if of == kind]:
            acts.append(Act(f"{len(names)} of kind {kind.lower()}", f"DROP {kind} {', '.join(names)}"))
    acts.append(Act(f"schema {SCHEMA}", f"DROP SCHEMA {SCHEMA}"))
    rows = tuple(_count(connection, name) for kind, name in objects if kind == "TABLE")
    return Plan(Verb.UNINSTALL, tuple(acts), rows, tuple(running(connection)))


def _count(connection: psycopg.Connection[Any], table: str) -> tuple[str, int]:
    # the server has quoted the name
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608
    return table, row[0] if row else 0


def running(connection: psycopg.Connection[Any]) -> list[advisory.Holder]:
    """Tell which other sessions use the schema now: they hold a lock of ours, or one on a table of it."""
    found = connection.execute(_RUNNING, {"family": advisory.FAMILY})
    return [advisory.Holder(*row) for row in found]
