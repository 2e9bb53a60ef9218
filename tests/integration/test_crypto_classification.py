"""The classification against a live database: it finds what it should, reads only, and shows no value."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from pglast import split

from dbsec.crypto.classification import judge, load, read
from dbsec.pg import connect, own
from dbsec.secret import Secret

ROOT = Path(__file__).parents[2]
OURS = ROOT / "db/data_classification.toml"
SCHEMA = (ROOT / "app/schema.sql").read_text()
ENCRYPTED = [*sorted((ROOT / "db/encrypt_phone").glob("*.sql")), *sorted((ROOT / "db/encrypt_email").glob("*.sql"))]
EXPANDS = [path for path in ENCRYPTED if "_expand_" in path.name and not path.name.endswith(".down.sql")]
CONTRACTS = [path for path in ENCRYPTED if "_contract_" in path.name and not path.name.endswith(".down.sql")]
TENANT = "INSERT INTO app.tenants (slug, name, api_key_hash) VALUES ('acme', 'Acme', sha256('k')) RETURNING id"


@pytest.fixture
def session(database):
    with connect(database.conninfo) as session:
        session.execute(SCHEMA)
        yield session


def run_file(session, path: Path) -> None:
    """Run a migration's statements, each in a transaction of its own, as psql does."""
    for statement in split(path.read_text()):
        session.execute(statement)


def judged(session, *, sample: int = 0) -> dict[str, list[str]]:
    listed = load(OURS)
    found: dict[str, list[str]] = {}
    for finding in judge(listed, read(session, listed, sample=sample)):
        found.setdefault(finding.code, []).append(finding.target)
    return found


def test_every_column_of_the_service_is_listed(session):
    """Before encryption two columns are in clear that shall not be; nothing else is to be said."""
    assert judged(session) == {"ENC204": ["app.users.email", "app.users.phone"]}


def test_the_columns_of_the_example_migration_are_listed(session):
    for path in sorted((ROOT / "db/migrations").glob("00[13]*.sql")):
        if not path.name.endswith(".down.sql"):
            run_file(session, path)
    clear = ["app.users.email", "app.users.phone", "app.users.email_normalized"]
    assert judged(session) == {"ENC204": clear}


def test_the_steps_of_encryption_are_seen(session):
    for path in EXPANDS:
        run_file(session, path)
    assert judged(session) == {"ENC205": ["app.users.email", "app.users.phone"]}
    for path in CONTRACTS:
        run_file(session, path)
    assert judged(session) == {}


def test_a_new_column_is_found(session):
    session.execute("ALTER TABLE app.users ADD COLUMN birth_date date, ADD COLUMN shoe_size int")
    session.execute("CREATE TABLE app.visits (id int, ip_address inet)")
    found = judged(session)
    assert found["ENC201"] == ["app.users.birth_date", "app.visits.ip_address"]
    assert found["ENC202"] == ["app.users.shoe_size", "app.visits.id"]


def test_dropped_columns_are_told(session):
    session.execute("ALTER TABLE app.orders DROP COLUMN note")
    assert judged(session)["ENC206"] == ["app.orders.note"]


HEAD = "'\\xd511'::bytea || decode(repeat('00', 40), 'hex')"


@pytest.mark.parametrize(
    ("type_name", "value", "errors"),
    [
        ("bytea", HEAD, 0),
        ("bytea", HEAD.replace("11", "13", 1), 0),
        ("bytea", HEAD.replace("11", "12", 1), 1),
        ("bytea", "'+43 660 1234567'::bytea", 1),
        ("bytea", "''::bytea", 1),
        ("bytea", "NULL", 0),
        ("text", "'+43 660 1234567'", 1),
        ("dbsec.encrypted", HEAD, 0),
        ("app.loose", HEAD, 0),
        ("app.loose", "'+43'::bytea", 1),
        ("app.looser", "'+43'::bytea", 1),
        ("app.words", "'+43'", 1),
    ],
)
def test_what_is_listed_as_encrypted_is_looked_at(session, type_name, value, errors):
    if type_name.startswith("dbsec."):
        own.install(session)
    session.execute(
        "CREATE DOMAIN app.loose AS bytea; CREATE DOMAIN app.looser AS app.loose; CREATE DOMAIN app.words AS text"
    )
    session.execute(f"ALTER TABLE app.users DROP phone, ADD phone_enc {type_name}, ADD phone_bidx bytea")
    tenant = session.execute(TENANT).fetchone()[0]
    insert = f"INSERT INTO app.users (tenant_id, name, email, phone_enc) VALUES (%s, 'Ann', 'a@b.cd', {value})"
    session.execute(insert, [tenant])
    assert len(judged(session).get("ENC203", [])) == errors


def test_parts_of_a_partitioned_table_are_one_table(session):
    session.execute("CREATE TABLE app.logins (at date, token text) PARTITION BY RANGE (at)")
    session.execute(
        "CREATE TABLE app.logins_1 PARTITION OF app.logins FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
    )
    assert judged(session)["ENC201"] == ["app.logins.token"]


CANARY = "canary.7f3a@example.org"


@pytest.fixture
def noted(session):
    """An order whose note holds what does not belong there."""
    tenant = session.execute(TENANT).fetchone()[0]
    insert = "INSERT INTO app.users (tenant_id, name, email, phone) VALUES (%s, 'Ann', %s, '1') RETURNING id"
    user = session.execute(insert, [tenant, CANARY]).fetchone()[0]
    order = "INSERT INTO app.orders (tenant_id, user_id, amount_cents, currency, note) VALUES (%s, %s, 1, 'EUR', %s)"
    for n in range(20):
        session.execute(order, [tenant, user, "call back" if n else f"write to {CANARY} please"])
    return session


def test_values_are_looked_at_only_where_asked(noted):
    assert "ENC207" not in judged(noted)
    assert judged(noted, sample=100)["ENC207"] == ["app.orders.note"]


@pytest.mark.parametrize(
    ("type_name", "values", "found"),
    [
        ("text", ["+43 660 1234567", "0043 660 123456"], True),
        ("varchar(40)", ["+43 660 1234567", "none", "none"], False),
        ("jsonb", ['{"to": "ann@example.org"}', "{}", "{}", "{}"], True),
        ("text", ["4111 1111 1111 1111"], True),
        ("text", ["AT61 1904 3002 3457 3201"], True),
        ("text", ["123-45-6789"], True),
        ("text", ["2026-11-23", "1234567", "v1.2.3", "a@b", "12:30"], False),
        ("text", ["6f1c2a52-6a0e-4d0b-9a0c-2f8f5d3b7e11"], False),
    ],
)
def test_what_values_look_like(session, type_name, values, found):
    session.execute(f"CREATE TABLE app.things (stuff {type_name})")
    for value in values:
        session.execute("INSERT INTO app.things VALUES (%s)", [value])
    assert judged(session, sample=50)["ENC201" if found else "ENC202"] == ["app.things.stuff"]


def test_nothing_is_written_and_nothing_is_left_locked_or_set(noted):
    before = noted.execute("SELECT pg_current_xact_id_if_assigned(), current_setting('row_security')").fetchone()
    judged(noted, sample=100)
    assert (
        noted.execute("SELECT pg_current_xact_id_if_assigned(), current_setting('row_security')").fetchone() == before
    )
    held = "SELECT count(*) FROM pg_locks WHERE relation IN (SELECT oid FROM pg_class WHERE relname = 'orders')"
    assert noted.execute(held).fetchone() == (0,)


@pytest.fixture
def reader(session, database):
    """A login that may read all but one column, under row security."""
    name = f"r_{secrets.token_hex(4)}"
    session.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    session.execute(f"GRANT USAGE ON SCHEMA app TO {name}; GRANT SELECT ON app.users, app.tenants TO {name}")
    yield name, database.conninfo.but(user=name, password=Secret("x"))
    session.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_what_may_not_be_read_is_told_and_not_taken_for_clean(session, reader):
    name, conninfo = reader
    listed = load(OURS)
    with connect(conninfo) as theirs:
        assert "app.orders.note" in read(theirs, listed, sample=10).unread
        assert "app.users.name" not in read(theirs, listed, sample=10).unread
        session.execute("ALTER TABLE app.users ENABLE ROW LEVEL SECURITY")
        session.execute(f"CREATE POLICY none ON app.users TO {name} USING (false)")
        assert "row-level security" in read(theirs, listed, sample=10).unread["app.users.name"]


def classify(conninfo, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dbsec", "crypto", "classify", "--dsn", "env:DSN", "--classification", OURS]
    env = {**os.environ, "DSN": conninfo.text()}
    return subprocess.run([*command, *options], env=env, cwd="/", capture_output=True, text=True, check=False)


def test_the_command_tells_findings_and_no_value(noted, database):
    done = classify(database.conninfo, "--sample", "100")
    assert done.returncode == 1, done.stderr
    for told in ("ENC204", "app.users.phone", "ENC207", "app.orders.note", "look like an e-mail address", "3 errors"):
        assert told in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert "call back" not in done.stdout


def test_the_command_speaks_json_and_is_clean_after_encryption(session, database):
    before = json.loads(classify(database.conninfo, "--format", "json").stdout)
    assert [one["code"] for one in before["findings"]] == ["ENC204", "ENC204"]
    assert before["command"] == "crypto classify"
    for path in [*EXPANDS, *CONTRACTS]:
        run_file(session, path)
    done = classify(database.conninfo, "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["findings"]) == (0, [])


def test_the_command_could_not_tell_where_it_could_not_look(session, database, reader):
    done = classify(reader[1], "--sample", "10")
    assert done.returncode == 3
    assert "app.orders.note" in done.stderr
    session.execute("DROP SCHEMA app CASCADE")
    done = classify(database.conninfo)
    assert (done.returncode, "no such schema" in done.stderr) == (3, True)
