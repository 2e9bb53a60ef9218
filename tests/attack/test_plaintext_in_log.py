"""A failed constraint writes the whole row to the server log, the plaintext with it: which guard against that holds.

Measured on 15, 17 and 18, and held here: the generated trigger keeps it out for every role, in log and client. Row
security does for the roles that it binds, not for the superuser. Column privileges do not: PostgreSQL shows what the
statement itself has written. log_error_verbosity = terse keeps it out of the log, not from the client. A duplicate key
is beyond the trigger.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec.migrations import expand_contract, residue, residue_places
from dbsec.migrations.expand_contract import definitions, files
from dbsec.migrations.expand_contract.ask import Ask, side, table_name
from dbsec.migrations.expand_contract.place import place_of
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.pg import connect

SCHEMA = """
DROP ROLE IF EXISTS dbsec_app; CREATE ROLE dbsec_app;
CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO dbsec_app;
CREATE TABLE app.users (id int PRIMARY KEY, phone text NOT NULL UNIQUE, name text NOT NULL DEFAULT 'n',
  age int CHECK (age > 0), tall int, CONSTRAINT both_or_none CHECK ((age IS NULL) = (tall IS NULL)));
GRANT SELECT, INSERT, UPDATE ON app.users TO dbsec_app;
INSERT INTO app.users (id, phone) VALUES (1, '+1');
"""
SECURED = "ALTER TABLE app.users ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.users USING (true)"
FEW = "REVOKE SELECT ON app.users FROM dbsec_app; GRANT SELECT (id, age, tall) ON app.users TO dbsec_app"
TERSE = "SET log_error_verbosity = terse"
INSERT = "INSERT INTO app.users (id, phone, age, tall) VALUES (2, %s, -1, 1)"
UPDATE = "UPDATE app.users SET phone = %s, age = -1, tall = 1 WHERE id = 1"
MISSING = "INSERT INTO app.users (id, phone, name) VALUES (2, %s, NULL)"
UNLIKE = "INSERT INTO app.users (id, phone, age) VALUES (2, %s, 1)"
DUPLICATE = "INSERT INTO app.users (id, phone) VALUES (3, %s)"


@pytest.fixture
def session(database: Any) -> Any:
    with connect(database.conninfo) as opened:
        opened.execute(SCHEMA.encode())
        yield opened
        opened.execute("RESET ROLE; DROP OWNED BY dbsec_app; DROP ROLE dbsec_app")


def _expand(session: psycopg.Connection[Any], folder: Path) -> None:
    schema = from_catalog(session)
    table = schema.table(table_name("app.users"))
    assert table is not None
    place = place_of(schema, definitions.from_catalog(session, table.name), table, major=schema.major or 0)
    ask = Ask(table.name, (side("phone"),), (side("phone_enc"),), python="app:encrypt", lookup="phone_bidx")
    for path, text in files.named(expand_contract.planned("encrypt-column", place, ask), folder).items():
        if "_expand_" in path.name and not path.name.endswith(".down.sql"):
            for statement in parse_text(text):
                session.execute(statement.text.encode())


def _leaks(
    session: psycopg.Connection[Any], database: Any, statement: str, role: str, sqlstate: str
) -> tuple[bool, bool]:
    """Let a statement fail; tell whether its value stands in the server's log, and in what the client got."""
    value = f"+49{secrets.token_hex(8)}"
    if role:
        session.execute(f"SET ROLE {role}".encode())
    if statement is DUPLICATE:
        session.execute(b"INSERT INTO app.users (id, phone) VALUES (4, %s) ON CONFLICT DO NOTHING", [value])
    with pytest.raises(psycopg.Error) as failed:
        session.execute(statement.encode(), [value])
    session.execute("RESET ROLE")
    assert failed.value.sqlstate == sqlstate
    assert failed.value.diag.table_name == "users"
    found = residue.search([residue.Canary.of(value)], residue_places.of_copy(database.cluster.log, "log"))
    return bool(found.traces), value in str(failed.value)


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("role", ["", "dbsec_app"])
def test_the_generated_trigger_keeps_it_out_of_the_log(
    session: psycopg.Connection[Any], database: Any, tmp_path: Path, role: str
) -> None:
    checked = [(INSERT, "23514"), (UPDATE, "23514"), (MISSING, "23502"), (UNLIKE, "23514")]
    for statement, sqlstate in checked:  # without it, the value is there: the search can find it
        assert _leaks(session, database, statement, role, sqlstate) == (True, True), statement
    _expand(session, tmp_path)
    for statement, sqlstate in checked:
        assert _leaks(session, database, statement, role, sqlstate) == (False, False), statement
    nothing = b"INSERT INTO app.users (id) VALUES (9)"
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        session.execute(nothing)
    assert refused.value.diag.constraint_name == "users_phone_enc_or_phone"
    assert refused.value.diag.message_detail is None


@pytest.mark.pg(15, 17, 18)
def test_what_else_holds_and_what_does_not(session: psycopg.Connection[Any], database: Any) -> None:
    for statement, sqlstate in ((INSERT, "23514"), (DUPLICATE, "23505")):
        with session.transaction(force_rollback=True):
            session.execute(SECURED.encode())
            assert _in_savepoint(session, database, statement, "dbsec_app", sqlstate) == (False, False)
            assert _in_savepoint(session, database, statement, "", sqlstate) == (True, True)
        with session.transaction(force_rollback=True):
            session.execute(TERSE)
            assert _in_savepoint(session, database, statement, "", sqlstate) == (False, True)
    with session.transaction(force_rollback=True):
        session.execute(FEW)
        assert _in_savepoint(session, database, INSERT, "dbsec_app", "23514") == (True, True)


def _in_savepoint(
    session: psycopg.Connection[Any], database: Any, statement: str, role: str, sqlstate: str
) -> tuple[bool, bool]:
    """The same where a transaction goes on."""
    value = f"+49{secrets.token_hex(8)}"

    def act() -> None:
        with session.transaction():
            if statement is DUPLICATE:
                session.execute(b"INSERT INTO app.users (id, phone) VALUES (4, %s)", [value])
            if role:
                session.execute(f"SET LOCAL ROLE {role}".encode())
            session.execute(statement.encode(), [value])

    with pytest.raises(psycopg.Error) as failed:
        act()
    assert failed.value.sqlstate == sqlstate
    found = residue.search([residue.Canary.of(value)], residue_places.of_copy(database.cluster.log, "log"))
    return bool(found.traces), value in str(failed.value)
