"""encrypt-column from plaintext to ciphertext, back from the middle, and what of the plaintext is left on the disk."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbsec import backfill, process, retry
from dbsec.backfill.verify import verify
from dbsec.errors import GaveUp
from dbsec.migrations import expand_contract, residue, residue_places, rewrite, shadow
from dbsec.migrations.expand_contract import definitions, files
from dbsec.migrations.expand_contract.ask import Ask, side, table_name
from dbsec.migrations.expand_contract.place import place_of
from dbsec.migrations.names import Name
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.pg import Conninfo, connect, own
from dbsec.pg.instance import Instance
from dbsec.progress import Silent
from dbsec.testing.clusters import Cluster

KEY = os.urandom(32)
ROWS = 600
USERS = Name("app", "users")
KEEP = timedelta(days=30)
SCHEMA = f"""
CREATE SCHEMA app;
CREATE TABLE app.tenants (id int PRIMARY KEY);
INSERT INTO app.tenants VALUES (1), (2);
CREATE TABLE app.users (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id int NOT NULL REFERENCES app.tenants (id),
  name      text NOT NULL,
  phone     text NOT NULL CHECK (phone ~ '^[+]'),
  age       int CONSTRAINT age_possible CHECK (age > 0),
  CONSTRAINT users_tenant_phone_key UNIQUE (tenant_id, phone)
);
CREATE INDEX users_phone_idx ON app.users (phone);
INSERT INTO app.users (tenant_id, name, phone, age)
SELECT 1 + n % 2, 'n' || n, '+' || n, n FROM generate_series(1, {ROWS}) n;
"""


def encrypt_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What a service gives the backfill."""
    for row in rows:
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(KEY).encrypt(nonce, row["phone"].encode(), None)
        yield {"id": row["id"], "phone_enc": sealed, "phone_bidx": blind(row["phone"])}


def opened(rows: Sequence[Mapping[str, Any]]) -> Iterator[bool]:
    """What it gives the verification: the proof that the key was the right one."""
    for row in rows:
        sealed = bytes(row["phone_enc"] or b"")
        try:
            plain = AESGCM(KEY).decrypt(sealed[:12], sealed[12:], None).decode()
        except (InvalidTag, ValueError):
            plain = None
        yield plain == row["phone"]


def blind(plain: str) -> bytes:
    return hmac.digest(KEY, plain.encode(), hashlib.sha256)


class Change:
    """The generated files on a database."""

    def __init__(self, conninfo: Conninfo, folder: Path, *, new: str = "phone_enc") -> None:
        self.conninfo = conninfo
        with connect(conninfo) as session:
            own.install(session)
            schema = from_catalog(session)
            table = schema.table(table_name("app.users"))
            assert table is not None
            exact = definitions.from_catalog(session, table.name)
        place = place_of(schema, exact, table, major=schema.major or 0)
        sys.modules.setdefault("dbsec_test_crypto", sys.modules[__name__])
        ask = Ask(
            table.name,
            (side("phone"),),
            (side(new),),
            python="dbsec_test_crypto:encrypt_rows",
            check="dbsec_test_crypto:opened",
            lookup="phone_bidx",
        )
        self.made = files.named(expand_contract.planned("encrypt-column", place, ask), folder)
        assert expand_contract.problems(self.made, schema, major=place.major) == []
        files.write(self.made)
        (toml,) = [path for path in self.made if path.suffix == ".toml"]
        self.job = backfill.Job.load(toml)

    def run(self, phase: str, *, down: bool = False, until: str = "") -> None:
        (path,) = [p for p in self.made if f"_{phase}_" in p.name and p.name.endswith(".down.sql") == down]
        with connect(self.conninfo) as session:
            for statement in parse_text(path.read_text()):
                if until and statement.text.startswith(until):
                    return
                session.execute(statement.text.encode())

    def backfill(self) -> None:
        backfill.run(lambda: connect(self.conninfo), self.job)
        with connect(self.conninfo) as session:
            found = verify(session, self.job)
        assert found.clean, found
        assert found.rows >= ROWS

    def rows(self, query: str, *params: object) -> list[Any]:
        with connect(self.conninfo) as session:
            return session.execute(query.encode(), params or None).fetchall()


@pytest.fixture
def change(database: Any, tmp_path: Path) -> Change:
    with connect(database.conninfo) as session:
        session.execute(SCHEMA.encode())
    return Change(database.conninfo, tmp_path)


def _columns(change: Change) -> list[Any]:
    return change.rows(
        "SELECT attname, attnotnull, format_type(atttypid, -1) FROM pg_attribute "
        "WHERE attrelid = 'app.users'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"
    )


@pytest.mark.pg(15, 17, 18)
def test_it_goes_all_the_way_and_back_from_the_middle(change: Change) -> None:
    before = _columns(change)
    old_release = "INSERT INTO app.users (tenant_id, name, phone) VALUES (1, 'o', %s) RETURNING phone_enc"
    for attempt in ("a", "b"):
        change.run("expand")
        change.run("expand")
        assert change.rows(old_release, f"+{attempt}1") == [(None,)]
        change.backfill()
        change.run("contract", until="BEGIN")
        with connect(change.conninfo) as session, pytest.raises(psycopg.errors.CheckViolation):
            session.execute(old_release.encode(), [f"+{attempt}2"])
        change.run("contract", down=True)
        assert change.rows(old_release, f"+{attempt}3") == [(None,)]
        change.run("expand", down=True)
        assert _columns(change) == before
        with connect(change.conninfo) as session:
            backfill.forget(session, change.job.name)
    change.run("expand")
    change.backfill()
    change.run("contract")
    assert [name for name, *_ in _columns(change)] == ["age", "id", "name", "phone_bidx", "phone_enc", "tenant_id"]
    assert all(required for name, required, _ in _columns(change) if name != "age")
    kept = change.rows(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'users_tenant_phone_bidx_key'"
    )
    assert kept == [("UNIQUE (tenant_id, phone_bidx)",)]
    assert change.rows("SELECT count(*) FROM app.users WHERE phone_bidx = %s", blind("+7")) == [(1,)]
    assert change.rows("SELECT proname FROM pg_proc WHERE proname LIKE '%%dbsec_users%%' AND %s", True) == []


def test_stale_ciphertext_is_emptied_and_filled_again(change: Change) -> None:
    """A release that does not encrypt changes the plaintext: nobody may read the old value any more."""
    change.run("expand")
    change.backfill()
    look = "SELECT phone_enc IS NULL, phone_bidx IS NULL FROM app.users WHERE id = 1"
    assert change.rows(look) == [(False, False)]
    change.rows("UPDATE app.users SET name = 'other' WHERE id = 1 RETURNING 1")
    assert change.rows(look) == [(False, False)]
    change.rows("UPDATE app.users SET phone = '+new' WHERE id = 1 RETURNING 1")
    assert change.rows(look) == [(True, True)]
    with connect(change.conninfo) as session:
        assert not verify(session, change.job).clean
        assert verify(session, change.job, repair=True).clean
    assert change.rows("SELECT phone_bidx = %s FROM app.users WHERE id = 1", blind("+new")) == [(True,)]
    change.rows("UPDATE app.users SET phone = NULL WHERE id = 1 RETURNING 1")  # the next release empties it
    assert change.rows(look) == [(False, False)]


def test_the_way_back_stops_where_it_would_lose_a_value(change: Change) -> None:
    change.run("expand")
    change.backfill()
    change.rows("UPDATE app.users SET phone = NULL WHERE id = 1 RETURNING 1")
    with pytest.raises(psycopg.errors.CheckViolation):
        change.run("expand", down=True)
    assert change.rows("SELECT phone_enc IS NULL FROM app.users WHERE id = 1") == [(False,)]


def test_the_contract_stops_at_a_row_without_ciphertext(change: Change) -> None:
    change.run("expand")
    with pytest.raises(psycopg.errors.CheckViolation, match="phone_enc"):
        change.run("contract")
    assert change.rows("SELECT count(phone) FROM app.users") == [(ROWS,)]


# --- what is left of the plaintext -----------------------------------------------------------------------------------


def _plant(change: Change) -> list[residue.Canary]:
    """Put values there that are nowhere else; one twice, which alone makes it stand in pg_statistic uncompressed."""
    values = [f"+49{secrets.token_hex(6)}" for _ in range(3)]
    with connect(change.conninfo) as session:
        for value in values:
            query = b"UPDATE app.users SET phone = %s || '-' || id WHERE mod(id, 3) = %s"
            session.execute(query, [value, values.index(value)])
        session.execute("UPDATE app.users SET phone = %s WHERE id IN (3, 6)", [values[0]])
        session.execute("ANALYZE app.users")
    return [residue.Canary.of(value) for value in values]


def _search(change: Change, cluster: Cluster, canaries: list[residue.Canary], *more: residue.Place) -> residue.Searched:
    with connect(change.conninfo) as session:
        session.execute("CHECKPOINT")
        places = [*residue_places.of_cluster(session, cluster.instance.data), *residue_places.of_server(session)]
        places += residue_places.of_copy(cluster.log, "log")
        return residue.search(canaries, [*places, *more])


def _kinds(found: residue.Searched) -> set[str]:
    return {kind.split()[0] for kind in found.kinds}


@pytest.fixture
def private(cluster_factory: Any, tmp_path: Path) -> Iterator[tuple[Cluster, Change]]:
    made = cluster_factory(min_wal_size="32MB", max_wal_size="64MB", wal_level="replica", max_wal_senders="4")
    conninfo = made.create_database("own")
    with connect(conninfo) as session:
        session.execute(SCHEMA.encode())
    yield made, Change(conninfo, tmp_path)
    made.instance.stop()


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("method", ["in a window", "online"])
def test_the_plaintext_is_really_gone(private: tuple[Cluster, Change], method: str) -> None:
    """Measured: it stands in table, index, statistics and WAL; dropping the column leaves it; the rewrite does not."""
    cluster, change = private
    canaries = _plant(change)
    planted = _search(change, cluster, canaries)
    assert {"table", "index", "catalog", "wal", "pg_stats"} <= _kinds(planted), planted.kinds
    assert planted.kinds["table app.users"] >= ROWS
    change.run("expand")
    change.backfill()
    change.run("contract")
    with connect(change.conninfo) as session:
        session.execute("VACUUM app.users")
        dropped = _search(change, cluster, canaries)
        assert {"table", "catalog", "wal"} <= _kinds(dropped), dropped.kinds
        assert dropped.gone_since(planted) is False
        if method == "online":
            done = shadow.online(session, USERS, keep=KEEP, progress=Silent())
        else:
            done = rewrite.in_window(session, USERS, keep=KEEP, progress=Silent())
        assert done.left == ()
    left = _search(change, cluster, canaries)
    assert left.kinds == {}
    assert left.gone_since(planted) is True
    assert left.files > 100


@pytest.mark.pg(17)
def test_standby_and_backup_are_searched_too(private: tuple[Cluster, Change], tmp_path: Path) -> None:
    """The standby follows the rewrite; a backup of before keeps the value until it expires, packed or not."""
    cluster, change = private
    canaries = _plant(change)
    with connect(change.conninfo) as session:
        session.execute("CHECKPOINT")
    folder = cluster.instance.data.parent
    standby = Instance(cluster.instance.binaries, folder / "standby", _port(), folder / "standby.log", cluster.account)
    standby.clone(cluster.admin, slot="follower")
    process.run(["tar", "-czf", tmp_path / "backup.tar.gz", "-C", standby.data, "."], cwd=tmp_path)
    standby.configure(
        {
            "port": str(standby.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "wal_receiver_status_interval": "1s",
        }
    )
    standby.start()
    try:
        backup = [*residue_places.of_copy(tmp_path / "backup.tar.gz", "backup")]
        before = _search(change, cluster, canaries, *residue_places.of_copy(standby.data, "standby"), *backup)
        assert {"standby", "backup"} <= _kinds(before)
        change.run("expand")
        change.backfill()
        change.run("contract")
        with connect(change.conninfo) as session:
            rewrite.in_window(session, USERS, keep=KEEP, progress=Silent())
            _followed(session)
        with connect(cluster.admin.but(port=standby.port)) as session:
            for _ in range(2):
                session.execute("CHECKPOINT")  # a restartpoint: it removes files, and WAL
        found = _search(change, cluster, canaries, *residue_places.of_copy(standby.data, "standby"), *backup)
        assert "catalog pg_statistic" not in found.kinds
        in_files = [trace for trace in found.traces if trace.kind == "standby" and "pg_wal" not in trace.place]
        assert in_files == []
        assert found.kinds.get("backup", 0) > 0
        assert "table app.users" not in found.kinds
    finally:
        standby.stop()
        with connect(cluster.admin) as session:
            retry.retry(
                lambda: session.execute("SELECT pg_drop_replication_slot('follower')"),
                on=(psycopg.errors.ObjectInUse,),
                within_s=10,
                what="the slot",
            )


def _port() -> int:
    from dbsec.lab import ports

    return ports.free(1)[0]


def _followed(session: psycopg.Connection[Any]) -> None:
    row = session.execute("SELECT pg_current_wal_lsn()").fetchone()
    assert row is not None
    query = b"SELECT replay_lsn >= %s FROM pg_stat_replication"
    retry.wait_until(
        lambda: session.execute(query, [row[0]]).fetchone() == (True,), within_s=30, what="the standby to follow"
    )


def test_who_can_still_see_rows_of_before_is_waited_for(private: tuple[Cluster, Change]) -> None:
    """VACUUM FULL would take dead rows along for a snapshot that can see them, and call it done."""
    cluster, change = private
    (canary, *_) = _plant(change)
    with connect(change.conninfo) as session, connect(change.conninfo, autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1 FROM app.tenants")
        session.execute("UPDATE app.users SET phone = '+' || id")
        session.execute("VACUUM (FULL) app.users")
        assert "table app.users" in _search(change, cluster, [canary]).kinds
        with pytest.raises(GaveUp, match=r"old snapshots to end: pid"):
            rewrite.in_window(session, USERS, keep=KEEP, progress=Silent(), give_up_s=0.3)
        reader.rollback()
        rewrite.in_window(session, USERS, keep=KEEP, progress=Silent())
    assert "table app.users" not in _search(change, cluster, [canary]).kinds


def test_what_holds_wal_back_is_told(private: tuple[Cluster, Change]) -> None:
    cluster, change = private
    with connect(change.conninfo) as session:
        session.execute("SELECT pg_create_physical_replication_slot('holder', true)")
        (told,) = rewrite.turn_wal(session)
        assert "replication slot 'holder'" in told
        session.execute("SELECT pg_drop_replication_slot('holder')")
        assert rewrite.turn_wal(session) == []
        on = ("on",)
        retry.wait_until(lambda: session.execute("SHOW wal_recycle").fetchone() == on, within_s=5, what="the reload")
    assert "wal_recycle" not in (cluster.instance.data / "postgresql.auto.conf").read_text()


def test_a_role_that_may_not_is_told_so(change: Change) -> None:
    """VACUUM passes a table over with a mere WARNING."""
    with connect(change.conninfo) as session:
        session.execute("DROP ROLE IF EXISTS dbsec_few; CREATE ROLE dbsec_few IN ROLE pg_read_all_stats")
        session.execute("GRANT USAGE ON SCHEMA app TO dbsec_few")
        session.execute("SET ROLE dbsec_few")
        with pytest.raises(Exception, match=r"passed 'app\.users' over"):
            rewrite.in_window(session, USERS, keep=KEEP, progress=Silent())
        session.execute("RESET ROLE; DROP OWNED BY dbsec_few; DROP ROLE dbsec_few")
