"""A keyring over PostgreSQL: leases over a TTL, large key ids, and its sessions."""

from __future__ import annotations

import pytest
from tests.clocks import Hands
from tests.envelopes import ACME, PHONE, Bench

from dbsec import retry
from dbsec.crypto import PostgresKeyStore
from dbsec.errors import ConnectError
from dbsec.pg import connect, own

AT = {"tenant": ACME, "row": 1}


@pytest.fixture
def keyring(database):
    with connect(database.conninfo) as admin:
        own.install(admin)
        yield admin


@pytest.fixture
def bench(tmp_path, database, keyring):
    return Bench(tmp_path, store=PostgresKeyStore(lambda: connect(database.conninfo)))


def _one(admin, query):
    return admin.execute(query).fetchone()[0]


def test_a_key_that_comes_again_after_its_ttl_goes_on_with_its_lease(tmp_path, database, keyring):
    clock = Hands()
    bench = Bench(tmp_path, store=PostgresKeyStore(lambda: connect(database.conninfo)), clock=clock)
    for _ in range(5):
        bench.envelope.encrypt(b"x", PHONE, **AT)
        clock.sleep(3600)
    assert bench.kms.unwrapped == 5
    assert _one(keyring, "SELECT used FROM dbsec.keyring") == 4096


@pytest.mark.parametrize("key_id", [2**31, 2**32 - 1])
def test_a_key_id_may_use_all_of_its_four_bytes(bench, keyring, key_id):
    keyring.execute(f"ALTER TABLE dbsec.keyring ALTER COLUMN id RESTART WITH {key_id}")
    value = bench.envelope.encrypt(b"x", PHONE, **AT)
    assert value[2:6] == key_id.to_bytes(4, "big")
    assert bench.other().decrypt(value, PHONE, **AT) == b"x"
    assert bench.other().decrypt_many([value, value], PHONE, tenant=ACME, rows=[1, 1]) == [b"x", b"x"]


def test_a_session_that_ended_is_told_as_such(tmp_path, database, keyring):
    def ended():
        session = connect(database.conninfo)
        pid = session.info.backend_pid
        keyring.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return session

    bench = Bench(tmp_path, store=PostgresKeyStore(ended))
    with pytest.raises(ConnectError, match="the database of the keyring went away"):
        bench.envelope.encrypt(b"x", PHONE, **AT)


def test_no_session_stays_open(bench, database, keyring):
    value = bench.envelope.encrypt(b"x", PHONE, **AT)
    bench.other().decrypt(value, PHONE, **AT)
    query = """SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    retry.wait_until(lambda: _one(keyring, query) == 0, within_s=10, what="the last session to end")
