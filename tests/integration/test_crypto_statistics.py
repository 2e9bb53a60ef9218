"""What is read of pg_stats, against columns whose figures are known; and how much room an index takes."""

from __future__ import annotations

import json
import secrets

import psycopg
import pytest
from typer.testing import CliRunner

from dbsec.cli.commands.crypto import COMMAND
from dbsec.cli.migrate import writing
from dbsec.crypto import BlindIndex, Field, ModeRefused
from dbsec.crypto.dek import Dek
from dbsec.crypto.lookup import Lookup
from dbsec.crypto.planner import Aim, low_entropy, plan_index
from dbsec.crypto.statistics import NoStatistics, read
from dbsec.errors import UsageError
from dbsec.pg import connect
from dbsec.secret import Secret

ROWS = 20_000
# email: all differ. name: 2,000 values of 10 rows. status: 4 values, one of them in 7 rows of 10. fax: NULL in 3 of 4.
SCHEMA = f"""
CREATE SCHEMA app;
CREATE TABLE app.users (id int PRIMARY KEY, tenant int, email text, name text, status text, fax text, "Odd.Name" text);
INSERT INTO app.users
SELECT n, CASE WHEN n % 5 < 3 THEN 1 ELSE 2 + n % 97 END, n || '@example.org', 'name ' || n % 2000,
       CASE WHEN n % 10 < 7 THEN 'open' ELSE 's' || n % 3 END, CASE WHEN n % 4 = 0 THEN n::text END, n::text
  FROM generate_series(1, {ROWS}) n;
CREATE TABLE app.fresh (id int, email text) WITH (autovacuum_enabled = off);
INSERT INTO app.fresh SELECT n, n::text FROM generate_series(1, 100) n;
CREATE TABLE app.parts (id int, email text) PARTITION BY HASH (id);
CREATE TABLE app.parts_0 PARTITION OF app.parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO app.parts SELECT n, (n % 1000)::text FROM generate_series(1, 5000) n;
ANALYZE app.users; ANALYZE app.parts;
"""


@pytest.fixture
def session(database):
    with connect(database.conninfo) as session:
        session.execute(SCHEMA.encode())
        session.commit()
        yield session


@pytest.mark.pg(15, 17, 18)
def test_the_figures_are_those_of_the_column(session):
    email = read(session, "app.users.email")
    assert email.rows == ROWS
    assert email.distinct == pytest.approx(ROWS, rel=0.01)
    assert email.rows_per_value == pytest.approx(1, rel=0.01)
    assert not low_entropy(email)
    name = read(session, "app.users.name")
    assert name.distinct == pytest.approx(2000, rel=0.05)
    assert name.top_frequency == pytest.approx(10 / ROWS, abs=0.001)
    status = read(session, "app.users.status")
    assert (status.distinct, status.top_frequency) == (4, pytest.approx(0.7, abs=0.02))
    assert low_entropy(status)
    fax = read(session, "app.users.fax")
    assert fax.null_fraction == pytest.approx(0.75, abs=0.02)
    assert fax.distinct == pytest.approx(ROWS / 4, rel=0.05)
    assert fax.rows_per_value == pytest.approx(1, rel=0.1)
    assert read(session, 'app.users."Odd.Name"').distinct == pytest.approx(ROWS, rel=0.01)
    parts = read(session, "app.parts.email")
    assert (parts.rows, parts.distinct) == (5000, 1000)


@pytest.mark.pg(15, 17, 18)
def test_what_is_not_known_is_said_with_the_next_act(session):
    with pytest.raises(NoStatistics, match="no statistics") as never:
        read(session, "app.fresh.email")
    assert never.value.hint == "ANALYZE app.fresh"
    session.execute(b"ANALYZE app.fresh")
    assert read(session, "app.fresh.email").rows == 100
    for wrong in ("app.users.phone", "app.nobody.email"):
        with pytest.raises(UsageError, match="no column"):
            read(session, wrong)
    for wrong in ("users.email", "email", "app.users.", "app..email", "db.app.users.email"):
        with pytest.raises(UsageError):
            read(session, wrong)


def test_a_role_that_may_not_read_is_told_so_and_row_security_too(session, database):
    login = f"r_{secrets.token_hex(4)}"
    session.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA app TO {login}".encode())
    session.commit()
    try:
        with connect(database.conninfo.but(user=login, password=Secret("x"))) as other:
            with pytest.raises(NoStatistics, match="may not read"):
                read(other, "app.users.email")
            session.execute(f"GRANT SELECT (email) ON app.users TO {login}".encode())
            session.commit()
            assert read(other, "app.users.email").rows == ROWS
            other.commit()
            session.execute(b"ALTER TABLE app.users ENABLE ROW LEVEL SECURITY")
            session.commit()
            with pytest.raises(NoStatistics, match="row-level security"):
                read(other, "app.users.email")
    finally:
        session.execute(f"DROP OWNED BY {login}; DROP ROLE {login}".encode())
        session.commit()


def test_rows_that_were_written_since_are_counted(session):
    session.execute(b"UPDATE app.users SET email = 'x' || id WHERE id % 2 = 0")
    session.commit()
    session.execute(b"SELECT pg_stat_force_next_flush()")
    session.commit()
    session.execute(b"SELECT pg_stat_clear_snapshot()")
    assert read(session, "app.users.email").stale
    session.execute(b"ANALYZE app.users")
    session.commit()
    session.execute(b"SELECT pg_stat_force_next_flush()")
    session.commit()
    assert not read(session, "app.users.email").stale


@pytest.mark.parametrize("bits", [63, 128, 256])
def test_an_index_takes_the_room_that_is_foretold(session, bits):
    stats = read(session, "app.users.email")
    option = next(
        option for unique in (True, False) for option in plan_index(stats, unique=unique).options if option.bits == bits
    )
    lookup = Lookup(Dek(bytearray(32), bytes(32)), 1, Field("app.users", "email"), "t", expires=0)
    session.execute(f"CREATE TABLE app.found (bidx {option.type} NOT NULL)".encode())
    with session.cursor().copy(b"COPY app.found FROM STDIN") as copy:
        for n in range(ROWS):
            copy.write_row([lookup.index(str(n).encode(), BlindIndex(bits))])
    session.execute(b"CREATE UNIQUE INDEX found_idx ON app.found (bidx)")
    row = session.execute(b"SELECT pg_relation_size('app.found_idx'), max(pg_column_size(bidx)) FROM app.found")
    size, width = row.fetchone()
    assert size / ROWS == pytest.approx(option.index_bytes, rel=0.06)
    assert width == option.column_bytes


def test_the_command_reads_them_and_refuses_by_exit_code(session, database, monkeypatch):
    monkeypatch.setenv("PLAN_DSN", database.conninfo.text())

    def run(*arguments: str):
        return CliRunner().invoke(COMMAND, ["plan", *arguments, "--dsn", "env:PLAN_DSN", "--format", "json"])

    good = run("app.users.name")
    assert good.exit_code == 0, good.output
    told = json.loads(good.stdout)["result"]
    assert told["recommended"]["aim"] == Aim.HIDING
    assert [option["bits"] for option in told["options"]][1:] == [63, 256, None]
    assert json.loads(run("app.users.email", "--unique").stdout)["result"]["recommended"]["bits"] == 128
    refused = run("app.users.status")
    assert refused.exit_code == 1
    assert "4 different values" in json.loads(refused.stdout)["result"]["refused"]
    assert run("app.users.status", "--allow-low-entropy").exit_code == 0
    # the largest tenant has 60 % of the rows; its e-mail addresses are fewer than the table's
    part = json.loads(run("app.users.email", "--tenant", "tenant").stdout)["result"]["statistics"]
    assert part["rows"] == pytest.approx(0.6 * ROWS, rel=0.05)
    assert isinstance(run("app.fresh.email").exception, NoStatistics)


def test_psycopg_is_asked_nothing_twice(session):
    """The transaction goes on after a name that PostgreSQL cannot parse."""
    with pytest.raises(UsageError):
        read(session, 'app.users."')
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert read(session, "app.users.email").rows == ROWS


def test_a_migration_that_makes_lookups_asks_the_same(session, database, monkeypatch, tmp_path):
    """Who never asked for a plan is refused all the same; a dump has no figures, and that is said."""
    monkeypatch.setenv("PLAN_DSN", database.conninfo.text())

    def new(column: str, *more: str):
        sides = ["--table", "app.users", "--old", column, "--new", f"{column}_enc", "--lookup", f"{column}_bidx"]
        told = ["expand-contract", "encrypt-column", *sides, "--python", "a.b:c", "--folder", str(tmp_path), *more]
        return CliRunner().invoke(writing.APP, [*told, "--dsn", "env:PLAN_DSN"])

    refused = new("status")
    assert isinstance(refused.exception, ModeRefused)
    assert "4 different values" in refused.exception.message
    assert list(tmp_path.iterdir()) == []
    assert new("status", "--allow-low-entropy").exit_code == 0
    assert new("email").exit_code == 0
    session.execute(b"ALTER TABLE app.users ADD COLUMN late text")
    session.commit()
    unknown = new("late")
    assert unknown.exit_code == 0, unknown.output
    assert "ANALYZE" in unknown.stderr
