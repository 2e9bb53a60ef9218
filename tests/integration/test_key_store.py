"""The keyring in PostgreSQL: what the one in memory does, for many processes at once, outside of any transaction."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.envelopes import ACME, PHONE, KekFile

from dbsec.crypto import (
    BlindIndex,
    Envelope,
    Keyring,
    KeyRow,
    KeyState,
    KeyStore,
    MemoryKeyStore,
    NewKey,
    PostgresKeyStore,
    Purpose,
)
from dbsec.crypto.store import MOST_INVOCATIONS
from dbsec.errors import ApplyError, ConnectError
from dbsec.kms import open_kms
from dbsec.pg import connect, own
from dbsec.pg.own import planning
from dbsec.pg.own.steps import STEPS
from dbsec.secret import Secret

ROOT = Path(__file__).parents[2]


def new(tenant: str = ACME, context: str = "app.users", purpose: Purpose = Purpose.DATA, generation: int = 1) -> NewKey:
    raw = os.urandom(32)
    return NewKey(tenant, context, purpose, generation, raw + raw, "file:kek", "1", raw, raw)


@pytest.fixture(scope="module")
def one_database(cluster):
    name = f"t_{secrets.token_hex(4)}"
    conninfo = cluster.create_database(name)
    with connect(conninfo) as admin:
        own.install(admin)
    yield conninfo
    cluster.drop_database(name)


@pytest.fixture
def installed(one_database):
    with connect(one_database) as admin:
        admin.execute("TRUNCATE dbsec.keyring RESTART IDENTITY")
    return one_database


@pytest.fixture
def postgres(installed) -> PostgresKeyStore:
    return PostgresKeyStore(partial(connect, installed))


@pytest.fixture(params=["memory", "postgres"])
def store(request, postgres) -> KeyStore:
    return postgres if request.param == "postgres" else MemoryKeyStore()


def test_what_was_added_is_found_as_it_was(store):
    added = store.add(asked := new())
    assert (added.state, added.used, added.retired_at) == (KeyState.ACTIVE, 0, None)
    assert added.created_at is not None
    assert added.created_at.tzinfo is not None
    for name in NewKey.__slots__:
        assert getattr(added, name) == getattr(asked, name)
    assert store.active(ACME, "app.users", Purpose.DATA) == added
    assert store.of_generation(ACME, "app.users", Purpose.DATA, 1) == added
    assert store.by_ids([added.id, added.id, added.id + 1]) == [added]


def test_what_is_not_there_is_not_found(store):
    assert store.active(ACME, "app.users", Purpose.DATA) is None
    assert store.of_generation(ACME, "app.users", Purpose.LOOKUP, 1) is None
    assert store.by_ids([]) == []
    assert store.by_ids([1, 2**32 - 1]) == []
    assert not store.lease(1, 1)


def test_tenants_tables_purposes_and_generations_have_keys_of_their_own(store):
    keys = [
        new(),
        new(tenant="globex"),
        new(tenant=""),
        new(context="app.orders"),
        new(purpose=Purpose.LOOKUP),
        new(purpose=Purpose.LOOKUP, generation=2),
    ]
    added = [store.add(one) for one in keys]
    assert len({row.id for row in added}) == len(keys)
    for row in added:
        assert store.of_generation(row.tenant, row.context, row.purpose, row.generation) == row
    assert store.active(ACME, "app.users", Purpose.LOOKUP) == added[-1]


def test_who_comes_second_gets_the_key_of_who_came_first(store):
    first, second = store.add(new()), store.add(new())
    assert first == second


def test_a_lease_is_counted_up_to_the_limit_and_not_beyond(store):
    row = store.add(new())
    assert store.lease(row.id, 5, limit=10)
    assert not store.lease(row.id, 6, limit=10)
    assert store.lease(row.id, 5, limit=10)
    assert not store.lease(row.id, 1, limit=10)
    assert [found.used for found in store.by_ids([row.id])] == [10]


def test_the_limit_is_that_of_nist_unless_told(store):
    row = store.add(new())
    assert not store.lease(row.id, MOST_INVOCATIONS + 1)
    assert store.lease(row.id, MOST_INVOCATIONS)
    assert not store.lease(row.id, 1)


@pytest.mark.parametrize("state", ["retired", "destroyed"])
def test_a_key_that_is_not_active_leases_nothing_and_is_found(installed, postgres, state):
    row = postgres.add(new())
    with connect(installed) as admin:
        admin.execute("UPDATE dbsec.keyring SET state = %s", [state])
    assert not postgres.lease(row.id, 1)
    assert postgres.active(ACME, "app.users", Purpose.DATA) is None
    assert [found.state for found in postgres.by_ids([row.id])] == [KeyState(state)]


def test_a_rollback_of_the_application_gives_no_lease_back(installed, postgres, tmp_path):
    """A nonce that was drawn may be in a row that a replica, the WAL or a log has, whatever became of it."""
    envelope = Envelope(Keyring(postgres, KekFile(tmp_path).open()))
    with connect(installed, autocommit=False) as application:
        application.execute("CREATE TABLE phones (phone bytea)")
        value = envelope.encrypt(b"v", PHONE, tenant=ACME, row=1)
        application.execute("INSERT INTO phones VALUES (%s)", [value])
        application.rollback()
    with connect(installed) as admin:
        used = admin.execute("SELECT used FROM dbsec.keyring").fetchall()
    assert used == [(4096,)]
    assert envelope.decrypt(value, PHONE, tenant=ACME, row=1) == b"v"


def test_a_key_that_was_made_in_a_transaction_that_rolls_back_is_kept(installed, tmp_path):
    """connect may give a session without autocommit: each call commits for itself."""
    store = PostgresKeyStore(partial(connect, installed, autocommit=False))
    added = store.add(new())
    assert store.lease(added.id, 7)
    with connect(installed) as admin:
        assert admin.execute("SELECT id, used FROM dbsec.keyring").fetchall() == [(added.id, 7)]


ADDS = """
import os, sys
from functools import partial
from dbsec.crypto import BlindIndex, Envelope, Keyring, PostgresKeyStore
from dbsec.kms import open_kms
from dbsec.pg import Conninfo, connect
from tests.envelopes import ACME, PHONE
store = PostgresKeyStore(partial(connect, Conninfo.parse(os.environ["KEYRING"])))
ours = Envelope(Keyring(store, open_kms(os.environ["KEK"], environ={})))
print("ready", flush=True)
sys.stdin.readline()
print(ours.encrypt(b"v", PHONE, tenant=ACME, row=1).hex())
print(ours.blind_index("v", PHONE, BlindIndex(), tenant=ACME).hex())
"""
LEASES = """
import os, sys
from functools import partial
from dbsec.crypto import PostgresKeyStore
from dbsec.pg import Conninfo, connect
store = PostgresKeyStore(partial(connect, Conninfo.parse(os.environ["KEYRING"])))
print("ready", flush=True)
sys.stdin.readline()
print(sum(7 for _ in iter(lambda: store.lease(1, 7, limit=1000), False)))
"""


def together(code: str, number: int, **env: str) -> Iterator[list[str]]:
    """Run a program several times, all of them past "ready" at the same moment; yield each one's lines."""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, **pipes) for _ in range(number)
    ]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    for one in started:
        said, _ = one.communicate(timeout=60)
        assert one.returncode == 0
        yield said.split()


def test_processes_that_make_a_tenants_first_key_at_once_get_one(installed, postgres, tmp_path):
    kek = KekFile(tmp_path)
    said = list(together(ADDS, 4, KEYRING=installed.text(), KEK=kek.uri))
    with connect(installed) as admin:
        kinds = admin.execute("SELECT purpose, count(*) FROM dbsec.keyring GROUP BY 1 ORDER BY 1").fetchall()
    assert kinds == [("data", 1), ("lookup", 1)]
    ours = Envelope(Keyring(postgres, open_kms(kek.uri, environ={})))
    values, indexes = zip(*said, strict=True)
    assert ours.decrypt_many([bytes.fromhex(v) for v in values], PHONE, tenant=ACME, rows=[1] * 4) == [b"v"] * 4
    assert set(indexes) == {ours.blind_index("v", PHONE, BlindIndex(), tenant=ACME).hex()}


def test_processes_together_lease_no_more_than_the_limit(installed, postgres):
    row: KeyRow = postgres.add(new())
    leased = [int(total) for (total,) in together(LEASES, 3, KEYRING=installed.text())]
    assert sum(leased) == 1000 // 7 * 7
    assert [found.used for found in postgres.by_ids([row.id])] == [sum(leased)]


def test_a_missing_schema_is_told_with_the_command_that_makes_it(database, tmp_path):
    store = PostgresKeyStore(partial(connect, database.conninfo))
    with pytest.raises(ApplyError) as caught:
        store.active(ACME, "app.users", Purpose.DATA)
    assert caught.value.hint == "dbsec db install --dsn REF --user ROLE --apply"
    with connect(database.conninfo) as admin:
        own.install(admin)
    assert store.active(ACME, "app.users", Purpose.DATA) is None, "once it is there, the same store serves"


def test_an_older_schema_is_told_with_the_command_that_upgrades_it(database, monkeypatch):
    older = tuple(step for step in STEPS if step.version < 5)
    monkeypatch.setattr(planning, "STEPS", older)  # hook: ok the steps of a release before the keyring
    with connect(database.conninfo) as admin:
        own.install(admin)
    with pytest.raises(ApplyError) as caught:
        PostgresKeyStore(partial(connect, database.conninfo)).add(new())
    assert caught.value.hint == "dbsec db upgrade --dsn REF --apply"
    assert "version 4" in str(caught.value)


@pytest.fixture
def service(installed):
    """A login that may use the schema and owns nothing."""
    name = f"r_{secrets.token_hex(4)}"
    with connect(installed) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        yield name, installed.but(user=name, password=Secret("x")), admin
        admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_role_that_may_not_use_the_schema_is_told_so(service):
    name, conninfo, _ = service
    with pytest.raises(ApplyError, match=name):
        PostgresKeyStore(partial(connect, conninfo)).active(ACME, "app.users", Purpose.DATA)


def test_a_role_that_was_given_the_schema_makes_keys_and_leases(service):
    name, conninfo, admin = service
    own.install(admin, users=[name])
    store = PostgresKeyStore(partial(connect, conninfo))
    assert store.lease(store.add(new()).id, 1)


def test_a_database_that_is_not_there_is_told_without_its_password(installed):
    gone = installed.but(dbname="nowhere", password=Secret("not to be told"))
    with pytest.raises(ConnectError) as caught:
        PostgresKeyStore(partial(connect, gone)).by_ids([1])
    assert "not to be told" not in str(caught.value)


REFUSED = {
    "used = 4294967297": "23514",
    "used = -1": "23514",
    "commitment = '\\x00'": "23514",
    "salt = ''": "23514",
    "state = 'lost'": "23514",
    "purpose = 'other'": "23514",
    "context = ''": "23514",
    "generation = 0": "23514",
    "wrapped = NULL": "23502",
    "id = 7": "428C9",
}


@pytest.mark.parametrize(("change", "sqlstate"), REFUSED.items())
def test_the_table_refuses_what_is_no_key(installed, postgres, change, sqlstate):
    postgres.add(new())
    with connect(installed) as admin, pytest.raises(psycopg.Error) as caught:
        admin.execute(f"UPDATE dbsec.keyring SET {change}")
    assert caught.value.sqlstate == sqlstate


def test_the_table_keeps_one_active_data_key_of_a_table_and_many_lookup_keys(installed, postgres):
    postgres.add(new())
    for generation in (1, 2, 3):
        postgres.add(new(purpose=Purpose.LOOKUP, generation=generation))
    with connect(installed) as admin, pytest.raises(psycopg.errors.UniqueViolation):
        admin.execute(
            "INSERT INTO dbsec.keyring"
            " (tenant, context, purpose, generation, wrapped, kek, kek_version, commitment, salt)"
            " SELECT tenant, context, purpose, 9, wrapped, kek, kek_version, commitment, salt FROM dbsec.keyring"
            " WHERE purpose = 'data'"
        )


def test_ids_end_with_four_bytes(installed, postgres):
    with connect(installed) as admin:
        admin.execute("ALTER TABLE dbsec.keyring ALTER COLUMN id RESTART WITH 4294967295")
    assert postgres.add(new()).id == 2**32 - 1
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        postgres.add(new(tenant="one too many"))
