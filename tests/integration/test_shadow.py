"""Online rewrites on real servers: everything of a table is there again, no write is lost, and nobody waits long."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec import process
from dbsec.errors import ApplyError, GaveUp, UsageError
from dbsec.migrations import guard, shadow
from dbsec.migrations.guard import Policy
from dbsec.migrations.names import Name
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.shadow import copying, facts
from dbsec.pg import Conninfo, connect
from dbsec.progress import Silent
from dbsec.retry import wait_until

PEOPLE = Name("Shop", "pe ople")
KEEP = timedelta(days=30)
EVERYTHING = """
DROP ROLE IF EXISTS dbsec_reader; CREATE ROLE dbsec_reader; DROP ROLE IF EXISTS dbsec_owns; CREATE ROLE dbsec_owns;
CREATE SCHEMA "Shop"; GRANT USAGE ON SCHEMA "Shop" TO dbsec_reader; GRANT ALL ON SCHEMA "Shop" TO dbsec_owns;
CREATE TABLE "Shop".area (code text PRIMARY KEY);
INSERT INTO "Shop".area VALUES ('north'), ('south');
CREATE TABLE "Shop"."pe ople" (
  gone   text,
  id     bigint GENERATED ALWAYS AS IDENTITY (START 5) CONSTRAINT "the key" PRIMARY KEY,
  serial_no serial,
  name   text NOT NULL DEFAULT 'x' || 'y',
  phone  text COLLATE "C" CONSTRAINT "Phone key" UNIQUE,
  count  int NOT NULL CONSTRAINT positive CHECK (count > 0),
  area   text REFERENCES "Shop".area (code) ON DELETE SET NULL,
  upped  text GENERATED ALWAYS AS (upper(name)) STORED,
  EXCLUDE USING btree (count WITH =) WHERE (count > 100000)
) WITH (fillfactor = 80, toast.autovacuum_enabled = off);
ALTER TABLE "Shop"."pe ople" DROP COLUMN gone;
ALTER TABLE "Shop"."pe ople" ALTER name SET STATISTICS 50, ALTER name SET (n_distinct = 10);
ALTER TABLE "Shop"."pe ople" ALTER phone SET STORAGE EXTERNAL;
CREATE INDEX "Name USING idx" ON "Shop"."pe ople" (lower(name) text_pattern_ops DESC NULLS LAST) INCLUDE (phone)
  WITH (fillfactor = 70) WHERE name <> '';
CREATE UNIQUE INDEX nulls_idx ON "Shop"."pe ople" (phone, area) NULLS NOT DISTINCT;
CREATE STATISTICS "Shop".people_stats (dependencies) ON name, area FROM "Shop"."pe ople";
CREATE TABLE "Shop".calls (
  id int PRIMARY KEY, person bigint CONSTRAINT calls_person REFERENCES "Shop"."pe ople" ON DELETE CASCADE);
CREATE FUNCTION "Shop".stamp() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.name := NEW.name || ''; RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON "Shop"."pe ople" FOR EACH ROW EXECUTE FUNCTION "Shop".stamp();
CREATE TRIGGER off_one BEFORE UPDATE OF name ON "Shop"."pe ople" FOR EACH ROW WHEN (NEW.name = 'z')
  EXECUTE FUNCTION "Shop".stamp();
ALTER TABLE "Shop"."pe ople" DISABLE TRIGGER off_one;
ALTER TABLE "Shop"."pe ople" ENABLE ALWAYS TRIGGER stamp;
CREATE POLICY mine ON "Shop"."pe ople" AS RESTRICTIVE FOR UPDATE TO dbsec_reader, dbsec_owns
  USING (area = 'north') WITH CHECK (count < 9);
CREATE POLICY all_of ON "Shop"."pe ople" USING (true);
ALTER TABLE "Shop"."pe ople" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE "Shop"."pe ople" OWNER TO dbsec_owns;
GRANT SELECT, INSERT ON "Shop"."pe ople" TO dbsec_reader WITH GRANT OPTION;
GRANT UPDATE (name) ON "Shop"."pe ople" TO dbsec_reader, PUBLIC;
GRANT USAGE ON SEQUENCE "Shop"."pe ople_id_seq" TO dbsec_reader;
ALTER TABLE "Shop"."pe ople" REPLICA IDENTITY USING INDEX "the key";
COMMENT ON TABLE "Shop"."pe ople" IS 'the people'; COMMENT ON COLUMN "Shop"."pe ople".name IS 'a name';
COMMENT ON INDEX "Shop"."Name USING idx" IS 'an index'; COMMENT ON TRIGGER stamp ON "Shop"."pe ople" IS 'a stamp';
COMMENT ON CONSTRAINT positive ON "Shop"."pe ople" IS 'a check';
COMMENT ON POLICY mine ON "Shop"."pe ople" IS 'a policy';
ALTER DEFAULT PRIVILEGES IN SCHEMA "Shop" GRANT DELETE ON TABLES TO dbsec_reader;
INSERT INTO "Shop"."pe ople" (name, phone, count, area)
SELECT 'n' || n, '+' || n, n, CASE n % 2 WHEN 0 THEN 'north' END FROM generate_series(1, 300) n;
INSERT INTO "Shop".calls SELECT n, n + 10 FROM generate_series(1, 50) n;
"""


@pytest.fixture
def shop(database: Any) -> Iterator[Conninfo]:
    with connect(database.conninfo) as session:
        session.execute(EVERYTHING.encode())
    yield database.conninfo
    with connect(database.conninfo) as session:
        session.execute(
            'DROP SCHEMA "Shop" CASCADE; DROP OWNED BY dbsec_reader, dbsec_owns; DROP ROLE dbsec_reader, dbsec_owns'
        )


def _rewritten(conninfo: Conninfo, **more: Any) -> Any:
    with connect(conninfo) as session:
        return shadow.online(session, PEOPLE, keep=KEEP, progress=Silent(), **more)


def _told(conninfo: Conninfo) -> dict[str, Any]:
    """Everything of the table but its number."""
    with connect(conninfo) as session:
        found = facts.read(session, PEOPLE)
    return {field.name: getattr(found, field.name) for field in fields(found) if field.name != "oid"}


def _one(conninfo: Conninfo, query: str) -> Any:
    with connect(conninfo) as session:
        row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.pg(15, 17, 18)
def test_everything_of_the_table_is_there_again(shop: Conninfo, database: Any, tmp_path: Path) -> None:
    before, dumped = _told(shop), _dump(database, tmp_path)
    rows = _one(shop, 'SELECT string_agg(p::text, \';\' ORDER BY id) FROM "Shop"."pe ople" p')
    file = _one(shop, 'SELECT pg_relation_filepath(\'"Shop"."pe ople"\')')
    result = _rewritten(shop)
    assert _told(shop) == before
    assert _dump(database, tmp_path) == dumped
    assert _one(shop, 'SELECT string_agg(p::text, \';\' ORDER BY id) FROM "Shop"."pe ople" p') == rows
    assert _one(shop, 'SELECT pg_relation_filepath(\'"Shop"."pe ople"\')') != file
    assert _one(shop, "SELECT count(*) FROM pg_class WHERE relname LIKE '%dbsec%'") == 0
    assert _one(shop, "SELECT count(*) FROM pg_proc WHERE proname LIKE '%dbsec%'") == 0
    assert _one(shop, 'INSERT INTO "Shop"."pe ople" (count) VALUES (9) RETURNING id') == 305
    assert result.method == "online"
    assert result.expires - result.at == KEEP
    with connect(shop) as session, pytest.raises(psycopg.errors.ForeignKeyViolation):
        session.execute('INSERT INTO "Shop".calls VALUES (99, 99999)')


def _dump(database: Any, folder: Path) -> str:
    """What pg_dump says, where the server has one: no word of ours in between."""
    program = database.cluster.instance.binaries.folder / "pg_dump"
    if not program.exists():
        assert database.cluster.major != 15  # the system's has one
        return ""
    out = folder / "dump.sql"
    process.run([program, "--schema-only", "--file", out, database.conninfo.text()], cwd=folder)
    lines = [line for line in out.read_text().splitlines() if not line.startswith("\\")]
    assert len(lines) > 50
    return "\n".join(sorted(lines))


@pytest.mark.pg(15, 18)
def test_no_write_is_lost_and_no_client_fails(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients insert, update, delete and roll back; each knows which rows must be there in the end."""
    failures: list[BaseException] = []
    ends = threading.Event()
    written: dict[int, set[int]] = {}

    def client(seed: int) -> None:
        chance, mine = random.Random(seed), written.setdefault(seed, set())
        try:
            with connect(shop) as session:
                while not ends.is_set():
                    act = chance.random()
                    if act < 0.4:
                        query = 'INSERT INTO "Shop"."pe ople" (name, phone, count) VALUES (%s, %s, 1) RETURNING id'
                        row = session.execute(query.encode(), [f"c{seed}", f"+{seed}-{act}"]).fetchone()
                        assert row is not None
                        mine.add(row[0])
                    elif act < 0.7:
                        session.execute(
                            b'UPDATE "Shop"."pe ople" SET name = %s, count = count + 1 WHERE id = %s',
                            [f"u{seed}", chance.randint(60, 310)],
                        )
                    elif act < 0.85 and mine:
                        gone = chance.choice(sorted(mine))
                        session.execute(b'DELETE FROM "Shop"."pe ople" WHERE id = %s', [gone])
                        mine.discard(gone)
                    else:
                        with session.transaction(force_rollback=True):
                            session.execute(b'DELETE FROM "Shop"."pe ople" WHERE id = %s', [chance.randint(60, 310)])
        except BaseException as exc:
            failures.append(exc)

    monkeypatch.setattr(copying, "_BATCH", 40)  # hook: ok many windows, between which the clients write
    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        _rewritten(shop)
        _rewritten(shop)
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert failures == []
    ids = {n for mine in written.values() for n in mine}
    assert ids
    with connect(shop) as session:
        rows = session.execute('SELECT id, name, upped FROM "Shop"."pe ople" WHERE id > 304').fetchall()
    assert {row[0] for row in rows} == ids
    assert all(upped == name.upper() for _, name, upped in rows)


def test_a_delete_under_way_leaves_no_ghost(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is being deleted while its window is copied: its trigger found no copy, and none may come later."""
    copied = copying.copied
    with connect(shop, autocommit=False) as deleting, connect(shop) as watching:

        def commit_once_waited_for() -> None:
            query = b"SELECT count(*) > 0 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
            try:
                waits = lambda: watching.execute(query, [deleting.info.backend_pid]).fetchone() == (True,)  # noqa: E731
                wait_until(waits, within_s=3, what="the copy to wait", every_s=0.005)
            except GaveUp:
                pass
            deleting.commit()

        def during(*args: Any, **more: Any) -> int:
            deleting.execute('DELETE FROM "Shop"."pe ople" WHERE id = 100')
            thread = threading.Thread(target=commit_once_waited_for)
            thread.start()
            try:
                return copied(*args, **more)
            finally:
                thread.join()

        monkeypatch.setattr(copying, "copied", during)  # hook: ok a moment in between, on the real server
        _rewritten(shop)
    assert _one(shop, 'SELECT count(*) FROM "Shop"."pe ople" WHERE id = 100') == 0
    assert _one(shop, 'SELECT count(*) FROM "Shop"."pe ople"') == 299


def test_without_the_triggers_the_comparison_refuses_the_swap(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof before the swap can fail: a write that was not followed is found."""
    copied = copying.copied

    def broken(connection: Any, *args: Any, **more: Any) -> int:
        done = copied(connection, *args, **more)
        connection.execute('ALTER TABLE "Shop"."pe ople" DISABLE TRIGGER USER')
        connection.execute('UPDATE "Shop"."pe ople" SET name = \'unseen\' WHERE id = 20')
        connection.execute('DELETE FROM "Shop"."pe ople" WHERE id = 90')
        return done

    monkeypatch.setattr(copying, "copied", broken)  # hook: ok a moment in between, on the real server
    with pytest.raises(ApplyError, match="2 rows"):
        _rewritten(shop)


def test_a_run_that_broke_off_is_gone_on_with(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each of its steps, the next run ends with the same table."""
    before = _told(shop)
    rewriting = shadow._Rewriting
    for step in ("make", "fill", "swap", "end"):
        with monkeypatch.context() as patched:
            patched.setattr(rewriting, step, _dies_after(getattr(rewriting, step)))
            with pytest.raises(KeyboardInterrupt):
                _rewritten(shop)
        with connect(shop) as session:
            session.execute('UPDATE "Shop"."pe ople" SET phone = %s WHERE id = 15', [f"+{step}"])
        _rewritten(shop)
        assert _told(shop) == before
        assert _one(shop, 'SELECT phone FROM "Shop"."pe ople" WHERE id = 15') == f"+{step}"


def _dies_after(step: Any) -> Any:
    def dies(self: Any, *args: Any) -> None:
        step(self, *args)
        raise KeyboardInterrupt

    return dies


def test_an_aborted_rewrite_leaves_nothing(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _told(shop)
    with monkeypatch.context() as patched:
        patched.setattr(shadow._Rewriting, "fill", _dies_after(shadow._Rewriting.fill))
        with pytest.raises(KeyboardInterrupt):
            _rewritten(shop)
    with connect(shop) as session:
        session.execute('ALTER TABLE "Shop"."pe ople" ADD COLUMN later int')
        with pytest.raises(ApplyError, match="was changed since"):
            shadow.online(session, PEOPLE, keep=KEEP, progress=Silent())
        session.execute('ALTER TABLE "Shop"."pe ople" DROP COLUMN later')
        shadow.abort(session, PEOPLE)
        shadow.abort(session, PEOPLE)
    assert _told(shop) == before
    assert _one(shop, "SELECT count(*) FROM pg_class WHERE relname LIKE '%dbsec%'") == 0


def test_the_guard_of_the_database_lets_it_pass(shop: Conninfo) -> None:
    with connect(shop) as session:
        guard.install(session, Policy(protected={"table": ('"Shop"."pe ople"',)}, max_table_size=0))
        try:
            with pytest.raises(psycopg.Error) as refused:
                session.execute('DROP TABLE "Shop"."pe ople" CASCADE')
            assert refused.value.sqlstate == "DBG03"
            _rewritten(shop)
        finally:
            guard.uninstall(session)


def test_an_old_snapshot_never_finds_the_table_empty(shop: Conninfo) -> None:
    """A REPEATABLE READ transaction from before the copy: the swap waits for it, and gives up rather than break it."""
    with connect(shop, autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM pg_class")
        with pytest.raises(GaveUp, match="snapshot"):
            _rewritten(shop, limits=Limits(give_up_s=0.5))
        assert reader.execute('SELECT count(*) FROM "Shop"."pe ople"').fetchone() == (300,)
        reader.rollback()
    _rewritten(shop)


def test_a_blocker_delays_the_swap_and_nobody_else(shop: Conninfo) -> None:
    """While somebody holds the table, others read and write it at once; in the end the swap is given up whole."""
    with connect(shop, autocommit=False) as holder, connect(shop) as other:
        holder.execute('SELECT FROM "Shop".calls FOR UPDATE LIMIT 1')  # READ COMMITTED: a lock without a snapshot
        other.execute("SET statement_timeout = '2s'")
        with pytest.raises(GaveUp, match="calls"):
            _rewritten(shop, limits=Limits(give_up_s=0.5, starving_s=60))
        other.execute('UPDATE "Shop"."pe ople" SET name = \'w\' WHERE id = 20')
        holder.rollback()
    _rewritten(shop)


REFUSED = {
    "a view": 'CREATE VIEW "Shop".v AS SELECT id FROM "Shop"."pe ople"',
    "a materialized view": 'CREATE MATERIALIZED VIEW "Shop".v AS SELECT id FROM "Shop"."pe ople"',
    "a rule": 'CREATE RULE r AS ON DELETE TO "Shop"."pe ople" DO ALSO SELECT 1',
    "a function of its rows": 'CREATE FUNCTION "Shop".f("Shop"."pe ople") RETURNS int LANGUAGE sql AS \'SELECT 1\'',
    "a function with a parsed body": (
        'CREATE FUNCTION "Shop".f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM "Shop"."pe ople"; END'
    ),
    "a publication": 'CREATE PUBLICATION p FOR TABLE "Shop"."pe ople"',
    "an inheritance": 'CREATE TABLE "Shop".heir () INHERITS ("Shop"."pe ople")',
    "a policy of another table": (
        'CREATE POLICY p ON "Shop".calls USING (EXISTS (SELECT FROM "Shop"."pe ople" x WHERE x.id = person))'
    ),
    "a constraint that is not valid": 'ALTER TABLE "Shop"."pe ople" ADD CHECK (count < 7) NOT VALID',
    "no primary key": 'ALTER TABLE "Shop".calls DROP CONSTRAINT calls_person; ALTER TABLE "Shop"."pe ople" '
    'REPLICA IDENTITY DEFAULT; ALTER TABLE "Shop"."pe ople" DROP CONSTRAINT "the key"',
    "a foreign key to itself": 'ALTER TABLE "Shop"."pe ople" ADD COLUMN boss bigint REFERENCES "Shop"."pe ople"',
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_make_again_is_refused_by_name(shop: Conninfo, case: str) -> None:
    with connect(shop) as session:
        session.execute(REFUSED[case].encode())
        with pytest.raises(ApplyError, match="not written anew online") as refused:
            shadow.online(session, PEOPLE, keep=KEEP, progress=Silent())
        assert "--in-window" in refused.value.hint
        session.execute("DROP PUBLICATION IF EXISTS p")
    assert _one(shop, "SELECT count(*) FROM pg_class WHERE relname LIKE '%dbsec%'") == 0


@pytest.mark.pg(15)  # built with contrib
def test_a_key_of_citext_loses_no_row(database: Any) -> None:
    with connect(database.conninfo) as session:
        session.execute(
            "CREATE EXTENSION citext; CREATE SCHEMA s; CREATE TABLE s.t (k citext PRIMARY KEY);"
            "INSERT INTO s.t SELECT md5(n::text) FROM generate_series(1, 300) n; INSERT INTO s.t VALUES ('ZZZ')"
        )
        shadow.online(session, Name("s", "t"), keep=KEEP, progress=Silent())
        assert session.execute("SELECT count(*) FROM s.t").fetchone() == (301,)


def test_a_delete_under_an_old_snapshot_leaves_no_ghost(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A REPEATABLE READ transaction does not see the copied row that its DELETE must follow: it is refused."""
    copied, differing = copying.copied, copying.differing
    told: list[str | None] = []
    with connect(shop, autocommit=False) as old:

        def begins(*args: Any, **more: Any) -> int:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT count(*) FROM pg_class")
            return copied(*args, **more)

        def deletes(*args: Any, **more: Any) -> int:
            found = differing(*args, **more)
            with pytest.raises(psycopg.errors.SerializationFailure) as refused:
                old.execute('DELETE FROM "Shop"."pe ople" WHERE id = 100')
            told.append(refused.value.sqlstate)
            old.rollback()
            return found

        monkeypatch.setattr(copying, "copied", begins)  # hook: ok a moment in between, on the real server
        monkeypatch.setattr(copying, "differing", deletes)  # hook: ok a moment in between, on the real server
        _rewritten(shop)
    assert told == ["40001"]
    assert _one(shop, 'SELECT count(*) FROM "Shop"."pe ople" WHERE id = 100') == 1


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE s.t (k inet PRIMARY KEY); INSERT INTO s.t VALUES ('10.1.1.1')",
        "CREATE TABLE s.t (k int PRIMARY KEY); INSERT INTO s.t VALUES (1);"
        "CREATE FUNCTION public.inner() RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';"
        "CREATE FUNCTION public.fits() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN inner(); END$$;"
        "ALTER TABLE s.t ADD CHECK (k > 0 AND public.fits())",
    ],
    ids=["a key that is not walked", "a check that wants another search path"],
)
def test_what_would_break_the_service_is_refused_before_a_trigger_is_there(database: Any, made: str) -> None:
    with connect(database.conninfo) as session:
        session.execute(f"CREATE SCHEMA s; {made}".encode())
        with pytest.raises((ApplyError, UsageError)):
            shadow.online(session, Name("s", "t"), keep=KEEP, progress=Silent())
        assert session.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (0,)


@pytest.mark.parametrize(
    "act",
    [
        'ALTER TABLE "Shop"."pe ople" ALTER name SET DEFAULT \'other\'',
        'CREATE VIEW "Shop".seen AS SELECT id FROM "Shop"."pe ople"',
    ],
)
def test_a_change_during_the_copy_stops_the_swap(shop: Conninfo, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    copied = copying.copied

    def during(connection: Any, *args: Any, **more: Any) -> int:
        connection.execute(act.encode())
        return copied(connection, *args, **more)

    monkeypatch.setattr(copying, "copied", during)  # hook: ok a moment in between, on the real server
    with pytest.raises(ApplyError, match=r"was changed|has a view"):
        _rewritten(shop)
    assert _one(shop, 'SELECT to_regclass(\'"Shop"."dbsec_gone_pe ople"\') IS NULL')


def test_one_rewrite_of_a_table_at_a_time(shop: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copying.copied

    def during(*args: Any, **more: Any) -> int:
        with pytest.raises(ApplyError, match="is being written anew by pid"):
            _rewritten(shop)
        with connect(shop) as session, pytest.raises(ApplyError, match="is being written anew by pid"):
            shadow.abort(session, PEOPLE)
        return copied(*args, **more)

    monkeypatch.setattr(copying, "copied", during)  # hook: ok a moment in between, on the real server
    _rewritten(shop)
