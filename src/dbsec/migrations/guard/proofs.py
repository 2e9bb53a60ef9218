"""What the selftest tries: what must be refused, what must be set, and what must go on working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from dbsec.migrations.guard.rows import BIG, SCRATCH

_PROTECT = f"INSERT INTO dbsec_guard.protected VALUES ('table', '{BIG}')"
REINDEX_SINCE = 17  # the first major with an event for REINDEX


@dataclass(frozen=True, slots=True)
class Veto:
    """``attempt`` must be refused by ``guard``, after ``before``, in a transaction that is rolled back.

    ``says`` tells which of a guard's functions spoke.
    """

    name: str
    guard: str
    attempt: str
    before: tuple[str, ...] = ()
    since: int = 0
    says: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """After ``act`` in a transaction that is rolled back, ``sees`` must be true.

    ``guard`` is empty where none may have a say; ``own`` is true where the server's settings leave nothing to give.
    """

    name: str
    guard: str
    act: str
    sees: str
    before: tuple[str, ...] = ()
    own: str = ""
    since: int = 0


@dataclass(frozen=True, slots=True)
class Works:
    """``attempt`` must go through in autocommit, and ``sees`` be true after it."""

    name: str
    attempt: str
    sees: str


def _is_set(setting: LiteralString) -> str:
    return f"SELECT setting <> '0' FROM pg_catalog.pg_settings WHERE name = '{setting}'"


def _own(setting: LiteralString) -> str:
    return (
        f"SELECT setting <> '0' OR source IN ('session', 'client') FROM pg_catalog.pg_settings WHERE name = '{setting}'"
    )


_VALID = f"SELECT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = '{SCRATCH}.made'::regclass"

VETOES = (
    Veto("a rewrite", "rewrite", f"ALTER TABLE {BIG} ALTER COLUMN id TYPE bigint"),
    Veto("an index, by its text", "index", f"CREATE INDEX ON {BIG} (id)", says="would block"),
    Veto("an index in a block", "index", f"DO $$ BEGIN EXECUTE 'CREATE' || ' INDEX ON {BIG} (id)'; END $$"),
    Veto("the index of a constraint", "index", f"ALTER TABLE {BIG} ADD UNIQUE (id)"),
    Veto("REINDEX", "index", f"REINDEX TABLE {BIG}", since=REINDEX_SINCE),
    Veto("the loss of what is protected", "drop", f"DROP TABLE {BIG}", (_PROTECT,)),
    Veto("the same by cascade", "drop", f"DROP SCHEMA {SCRATCH} CASCADE", (_PROTECT,)),
    Veto(
        "the same by one that says it is a replica",
        "drop",
        f"DROP TABLE {BIG}",
        (_PROTECT, "SET LOCAL session_replication_role = replica"),
    ),
    Veto(
        "a definer's function",
        "definer",
        f"CREATE FUNCTION {SCRATCH}.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    ),
    Veto(
        "DDL without a statement_timeout",
        "statement_timeout",
        f"ALTER TABLE {BIG} ADD COLUMN x int",
        ("SET LOCAL statement_timeout = 0",),
    ),
    Veto(
        "DDL under another search_path",
        "search_path",
        "ALTER TABLE big ADD COLUMN x int",
        (f"SET LOCAL search_path = {SCRATCH}",),
    ),
)
GIVEN = (
    Given(
        "lock_timeout",
        "lock_timeout",
        f"ALTER TABLE {BIG} ADD COLUMN x int",
        _is_set("lock_timeout"),
        own=_own("lock_timeout"),
    ),
    Given(
        "transaction_timeout",
        "transaction_timeout",
        f"ALTER TABLE {BIG} ADD COLUMN x int",
        _is_set("transaction_timeout"),
        own=_own("transaction_timeout"),
        since=17,
    ),
    Given(
        "row security of a tenant's new table",
        "tenancy",
        f"CREATE TABLE {SCRATCH}.own (id int)",
        f"SELECT relrowsecurity AND relforcerowsecurity FROM pg_catalog.pg_class WHERE oid = '{SCRATCH}.own'::regclass",
        (f"INSERT INTO dbsec_guard.lists VALUES ('tenant_schema', '{SCRATCH}')",),
    ),
    Given(
        "VALIDATE without a statement_timeout passes",
        "",
        f"ALTER TABLE {BIG} VALIDATE CONSTRAINT positive",
        f"SELECT convalidated FROM pg_catalog.pg_constraint WHERE conrelid = '{BIG}'::regclass AND conname = 'positive'",
        ("SET LOCAL statement_timeout = 0",),
    ),
    Given(
        "an override lets pass",
        "drop",
        f"DROP TABLE {BIG}",
        f"SELECT pg_catalog.to_regclass('{BIG}') IS NULL",
        (_PROTECT, "SELECT dbsec_guard.override('drop', 'dbsec migrate guard selftest', '1 min')"),
    ),
)
WORKS = (
    Works("CREATE INDEX CONCURRENTLY", f"CREATE INDEX CONCURRENTLY made ON {BIG} (id)", _VALID),
    Works("REINDEX CONCURRENTLY", f"REINDEX INDEX CONCURRENTLY {SCRATCH}.made", _VALID),
    Works(
        "DROP INDEX CONCURRENTLY",
        f"DROP INDEX CONCURRENTLY {SCRATCH}.made",
        f"SELECT pg_catalog.to_regclass('{SCRATCH}.made') IS NULL",
    ),
)
