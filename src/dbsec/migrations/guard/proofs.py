"""What the selftest tries: what must be refused, what must be set, and what must go on working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

_PROTECT: LiteralString = "INSERT INTO dbsec_guard.protected VALUES ('table', 'dbsec_guard_selftest.big')"
REINDEX_SINCE = 17  # the first major with an event for REINDEX


@dataclass(frozen=True, slots=True)
class Veto:
    """``attempt`` must be refused by ``guard``, after ``before``, in a transaction that is rolled back.

    ``says`` tells which of a guard's functions spoke.
    """

    name: str
    guard: str
    attempt: LiteralString
    before: tuple[LiteralString, ...] = ()
    since: int = 0
    says: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """After ``act`` in a transaction that is rolled back, ``sees`` must be true.

    ``guard`` is empty where none may have a say; ``own`` is true where the server's settings leave nothing to give.
    """

    name: str
    guard: str
    act: LiteralString
    sees: LiteralString
    before: tuple[LiteralString, ...] = ()
    own: LiteralString = ""
    since: int = 0


@dataclass(frozen=True, slots=True)
class Works:
    """``attempt`` must go through in autocommit, and ``sees`` be true after it."""

    name: str
    attempt: LiteralString
    sees: LiteralString


_VALID: LiteralString = (
    "SELECT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = 'dbsec_guard_selftest.made'::regclass"
)

VETOES = (
    Veto("a rewrite", "rewrite", "ALTER TABLE dbsec_guard_selftest.big ALTER COLUMN id TYPE bigint"),
    Veto("an index, by its text", "index", "CREATE INDEX ON dbsec_guard_selftest.big (id)", says="would block"),
    Veto(
        "an index in a block",
        "index",
        "DO $$ BEGIN EXECUTE 'CREATE' || ' INDEX ON dbsec_guard_selftest.big (id)'; END $$",
    ),
    Veto("the index of a constraint", "index", "ALTER TABLE dbsec_guard_selftest.big ADD UNIQUE (id)"),
    Veto("REINDEX", "index", "REINDEX TABLE dbsec_guard_selftest.big", since=REINDEX_SINCE),
    Veto("the loss of what is protected", "drop", "DROP TABLE dbsec_guard_selftest.big", (_PROTECT,)),
    Veto("the same by cascade", "drop", "DROP SCHEMA dbsec_guard_selftest CASCADE", (_PROTECT,)),
    Veto(
        "the same by one that says it is a replica",
        "drop",
        "DROP TABLE dbsec_guard_selftest.big",
        (_PROTECT, "SET LOCAL session_replication_role = replica"),
    ),
    Veto(
        "a definer's function",
        "definer",
        "CREATE FUNCTION dbsec_guard_selftest.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    ),
    Veto(
        "DDL without a statement_timeout",
        "statement_timeout",
        "ALTER TABLE dbsec_guard_selftest.big ADD COLUMN x int",
        ("SET LOCAL statement_timeout = 0",),
    ),
    Veto(
        "DDL under another search_path",
        "search_path",
        "ALTER TABLE big ADD COLUMN x int",
        ("SET LOCAL search_path = dbsec_guard_selftest",),
    ),
)
GIVEN = (
    Given(
        "lock_timeout",
        "lock_timeout",
        "ALTER TABLE dbsec_guard_selftest.big ADD COLUMN x int",
        "SELECT setting <> '0' FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'",
        own="SELECT setting <> '0' OR source IN ('session', 'client') FROM pg_catalog.pg_settings"
        " WHERE name = 'lock_timeout'",
    ),
    Given(
        "transaction_timeout",
        "transaction_timeout",
        "ALTER TABLE dbsec_guard_selftest.big ADD COLUMN x int",
        "SELECT setting <> '0' FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'",
        own="SELECT setting <> '0' OR source IN ('session', 'client') FROM pg_catalog.pg_settings"
        " WHERE name = 'transaction_timeout'",
        since=17,
    ),
    Given(
        "row security of a tenant's new table",
        "tenancy",
        "CREATE TABLE dbsec_guard_selftest.own (id int)",
        "SELECT relrowsecurity AND relforcerowsecurity FROM pg_catalog.pg_class"
        " WHERE oid = 'dbsec_guard_selftest.own'::regclass",
        ("INSERT INTO dbsec_guard.lists VALUES ('tenant_schema', 'dbsec_guard_selftest')",),
    ),
    Given(
        "VALIDATE without a statement_timeout passes",
        "",
        "ALTER TABLE dbsec_guard_selftest.big VALIDATE CONSTRAINT positive",
        "SELECT convalidated FROM pg_catalog.pg_constraint WHERE conname = 'positive'"
        " AND conrelid = 'dbsec_guard_selftest.big'::regclass",
        ("SET LOCAL statement_timeout = 0",),
    ),
    Given(
        "an override lets pass",
        "drop",
        "DROP TABLE dbsec_guard_selftest.big",
        "SELECT pg_catalog.to_regclass('dbsec_guard_selftest.big') IS NULL",
        (_PROTECT, "SELECT dbsec_guard.override('drop', 'dbsec migrate guard selftest', '1 min')"),
    ),
)
WORKS = (
    Works("CREATE INDEX CONCURRENTLY", "CREATE INDEX CONCURRENTLY made ON dbsec_guard_selftest.big (id)", _VALID),
    Works("REINDEX CONCURRENTLY", "REINDEX INDEX CONCURRENTLY dbsec_guard_selftest.made", _VALID),
    Works(
        "DROP INDEX CONCURRENTLY",
        "DROP INDEX CONCURRENTLY dbsec_guard_selftest.made",
        "SELECT pg_catalog.to_regclass('dbsec_guard_selftest.made') IS NULL",
    ),
)
