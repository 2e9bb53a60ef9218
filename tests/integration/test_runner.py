"""The runner on real servers: what it runs, what it refuses, and how it goes on after whatever happened."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from dbsec import retry
from dbsec.errors import ApplyError, ConnectError, GaveUp, UsageError
from dbsec.journal import Edge
from dbsec.migrations.effects.model import Effect, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.reading import grammar, parse
from dbsec.migrations.runner import alone, disk, estimate, ledger, planning
from dbsec.migrations.runner.canary import rehearse
from dbsec.migrations.runner.down import down, resume
from dbsec.migrations.runner.failures import ConnectionLost, StatementFailed
from dbsec.migrations.runner.ledger import State
from dbsec.migrations.runner.obstacle import Block
from dbsec.migrations.runner.status import status
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import Outcome, up
from dbsec.migrations.runner.watching import watch
from dbsec.migrations.settings import Settings
from dbsec.migrations.stats import Stats, TableStats
from dbsec.pg import Conninfo, connect, own
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

ROWS = 20_000
SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.users (id bigint PRIMARY KEY, email text NOT NULL, phone text);
"""
EXPAND = "-- dbsec: phase expand\nSET lock_timeout = '1s';\nALTER TABLE app.users ADD COLUMN x text;\n"
DROP_PHONE = "-- dbsec: phase contract\nSET lock_timeout = '1s';\nALTER TABLE app.users DROP COLUMN phone;\n"


class Database(Protocol):
    """What the fixture ``database`` gives."""

    cluster: Cluster
    conninfo: Conninfo


class Site:
    """A database with a folder of migrations."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        with self.connect() as admin:
            admin.execute(SETUP)
            own.install(admin)

    def connect(self) -> psycopg.Connection[Any]:
        return connect(self.database.conninfo)

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.folder / name.lstrip("_").replace("__", ".")).write_text(text)

    def target(self, *, gates: bool = False, release: str = "", **settings: Any) -> Target:
        return Target(self.folder, self.connect, Settings(**settings), release, gates=gates)

    def up(self, *, gates: bool = False, settings: dict[str, Any] | None = None, **asked: Any) -> Outcome:
        return up(self.target(gates=gates, **(settings or {})), Asked(**asked))

    def query(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as admin:
            found = admin.execute(query.encode())
            return found.fetchall() if found.description else []

    def columns(self) -> list[str]:
        live = "attrelid = 'app.users'::regclass AND attnum > 0 AND NOT attisdropped"
        return [name for (name,) in self.query(f"SELECT attname FROM pg_attribute WHERE {live}")]


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database, tmp_path)


def wait_for(watcher: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    """Poll until a query gives a row, and return its value."""
    rows: list[tuple[Any, ...]] = []
    what = lambda: bool(rows.extend(watcher.execute(query.encode(), values)) or rows)  # noqa: E731
    retry.wait_until(what, within_s=30, what=query)
    return rows[0][0]


def blocks(outcome: Any) -> list[Block]:
    return [one.block for one in outcome.obstacles]


# --- what is run, and recorded


@pytest.mark.pg(15, 17, 18)
def test_up_runs_what_waits_and_down_goes_back(site: Site) -> None:
    index = "CREATE INDEX CONCURRENTLY users_x ON app.users (x);\n"
    site.write(_001_x__sql=EXPAND + index, _002_y__sql=EXPAND.replace(" x ", " y "))
    site.write(_001_x__down__sql="DROP INDEX CONCURRENTLY app.users_x;\nALTER TABLE app.users DROP COLUMN x;\n")
    site.write(_002_y__down__sql="ALTER TABLE app.users DROP COLUMN y;\n")
    done = site.up()
    assert [one.migration.number for one in done.applied] == [1, 2]
    assert not done.obstacles
    assert site.columns() == ["id", "email", "phone", "x", "y"]
    assert site.up().applied == []
    back = down(site.target(), Asked(to=0))
    assert [one.migration.number for one in back.applied] == [2, 1]
    assert site.columns() == ["id", "email", "phone"]
    assert [one.migration.number for one in site.up().applied] == [1, 2]
    assert site.query("SELECT state, run FROM dbsec.migrations ORDER BY number") == [("applied", 2), ("applied", 2)]
    events = site.query("SELECT number, event FROM dbsec.migration_events ORDER BY id")
    assert events == [(1, "applied"), (2, "applied"), (2, "reverted"), (1, "reverted"), (1, "applied"), (2, "applied")]


def test_what_one_file_sets_does_not_reach_the_next(site: Site) -> None:
    site.write(_001_a__sql="-- dbsec: phase expand\nSET search_path = app;\nCREATE TABLE one (id int PRIMARY KEY);\n")
    site.write(_002_b__sql="-- dbsec: phase expand\nCREATE TABLE two (id int PRIMARY KEY);\n")
    assert not site.up().obstacles
    assert site.query("SELECT oid::regclass::text FROM pg_class WHERE relname IN ('one', 'two') ORDER BY 1") == [
        ("app.one",),
        ("two",),
    ]


def test_a_statement_that_fails_is_mended_in_its_file_and_the_run_goes_on_there(site: Site) -> None:
    bad = "CREATE TABLE app.made (id int PRIMARY KEY);\nINSERT INTO app.made VALUES (1/0);\n"
    site.write(_001_x__sql=EXPAND + bad)
    with pytest.raises(StatementFailed, match="22012"):
        site.up()
    assert [(one.state, one.number) for one in status(site.target()).rows] == [("applying", 1)]
    assert Block.INTERRUPTED in blocks(status(site.target()))
    site.write(_001_x__sql=(EXPAND + bad).replace("1/0", "7"))
    done = resume(site.target(), Asked())
    assert [did.what for one in done.applied for did in one.did][1:] == ["INSERT INTO app.made VALUES (7)"]
    assert site.query("SELECT id FROM app.made") == [(7,)]
    assert blocks(status(site.target())) == []


def test_a_statement_that_was_run_may_not_be_edited_before_the_rest(site: Site) -> None:
    site.write(_001_x__sql=EXPAND + "SELECT 1/0;\n")
    with pytest.raises(StatementFailed):
        site.up()
    site.write(_001_x__sql=EXPAND.replace("x text", "x bytea") + "SELECT 1;\n")
    with pytest.raises(ApplyError, match="statement 2 was run, and reads otherwise now"):
        resume(site.target(), Asked())


# --- what is refused


def test_an_edited_file_is_refused_until_it_is_as_it_was(site: Site) -> None:
    site.write(_001_x__sql=EXPAND)
    site.up()
    site.write(_001_x__sql=EXPAND + "-- an afterthought\n", _002_y__sql=EXPAND.replace(" x ", " y "))
    assert blocks(site.up()) == [Block.EDITED]
    assert blocks(status(site.target())) == [Block.EDITED]
    assert "y" not in site.columns()
    site.write(_001_x__sql=EXPAND.replace("\n", "\r\n"))
    assert blocks(site.up()) == []


def test_a_file_that_comes_too_late_is_refused_unless_told(site: Site) -> None:
    site.write(_001_x__sql=EXPAND, _002_y__sql=EXPAND.replace(" x ", " y "))
    (site.folder / "001_x.sql").rename(site.folder / "kept.sql")
    site.up()
    (site.folder / "kept.sql").rename(site.folder / "001_x.sql")
    assert blocks(site.up()) == [Block.OUT_OF_ORDER]
    assert [one.migration.number for one in site.up(out_of_order=True).applied] == [1]


def test_errors_of_the_linter_refuse_and_no_reason_goes_past_them_but_an_allow_does(site: Site) -> None:
    bad = "-- dbsec: phase expand\nSET lock_timeout = '1s';\nCREATE INDEX users_email ON app.users (email);\n"
    site.write(_001_x__sql=EXPAND, _002_bad__sql=bad)
    for refused in (site.up(), site.up(force="I know better")):
        assert blocks(refused) == [Block.LINT]
        assert "002_bad.sql:3: MIG101" in refused.obstacles[0].message
    assert site.columns() == ["id", "email", "phone"]  # 001 was not run either
    allowed = "-- dbsec: allow MIG101 until 2999-01-01 because the table is empty\nCREATE INDEX"
    site.write(_002_bad__sql=bad.replace("CREATE INDEX", allowed))
    assert blocks(site.up()) == []


def test_without_its_schema_nothing_is_run_and_a_plan_says_so(site: Site) -> None:
    site.query("DROP SCHEMA dbsec CASCADE")
    site.write(_001_x__sql=EXPAND)
    with pytest.raises(ApplyError, match="schema 'dbsec' is not installed"):
        site.up()
    assert blocks(planning.plan(site.target(), Asked())) == [Block.NOT_INSTALLED]
    assert "x" not in site.columns()


def test_the_check_of_a_migration_must_hold_before_the_next_is_run(site: Site) -> None:
    site.write(_001_x__sql=EXPAND, _001_x__check__sql="SELECT true;\nSELECT id FROM app.users WHERE email = '';\n")
    site.write(_002_y__sql=EXPAND.replace(" x ", " y "))
    site.query("INSERT INTO app.users VALUES (1, '', NULL)")
    for _ in range(2):  # a check that failed is not forgotten
        done = site.up()
        assert done.applied == []
        assert blocks(done) == [Block.CHECK]
        assert "001_x.check.sql:2: SELECT id FROM app.users WHERE email =: gives 1 row" in done.obstacles[0].message
    assert "x" in site.columns()
    assert "y" not in site.columns()
    assert blocks(status(site.target())) == [Block.CHECK]
    assert blocks(resume(site.target(), Asked())) == [Block.CHECK]
    site.query("UPDATE app.users SET email = 'a'")
    assert [one.migration.number for one in site.up().applied] == [1, 2]
    assert blocks(status(site.target())) == []


def test_a_contract_waits_for_the_check_of_the_file_before_it_and_is_not_done_before_its_own(site: Site) -> None:
    site.write(_001_x__sql=EXPAND, _001_x__check__sql="SELECT false")
    site.write(_002_c__sql=DROP_PHONE, _002_c__check__sql="SELECT false")
    for _ in range(2):
        assert blocks(site.up()) == [Block.CHECK]
        assert "phone" in site.columns()
    site.write(_001_x__check__sql="SELECT true")
    for _ in range(2):
        assert blocks(site.up()) == [Block.CHECK]
    assert site.query("SELECT state FROM dbsec.migrations ORDER BY number") == [("applied",), ("applying",)]


class _KilledError(Exception):
    """Stands for kill -9 between two records."""


def test_a_run_that_died_before_the_check_is_checked_by_the_next(site: Site) -> None:
    site.write(_001_x__sql=EXPAND, _001_x__check__sql="SELECT false")

    def die(step: str, edge: Edge) -> None:
        if step == "001_x run":
            raise _KilledError

    with pytest.raises(_KilledError):
        up(replace(site.target(), observer=die), Asked())
    assert blocks(site.up()) == [Block.CHECK]
    assert "x" in site.columns()


@pytest.mark.parametrize("query", ["SELECT false", "SELECT NULL::boolean", "SELECT 1", "SELECT 1/0", "SELECT nothing"])
def test_a_check_that_gives_anything_but_true_or_nothing_has_failed(site: Site, query: str) -> None:
    site.write(_001_x__sql=EXPAND, _001_x__check__sql=query)
    assert blocks(site.up()) == [Block.CHECK]


# --- bytes, and what a session keeps


@pytest.mark.pg(15, 18)
def test_text_is_stored_as_it_reads_whatever_the_encoding_of_the_client(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = "VALUES (1, 'käse €', NULL)"
    site.write(_001_x__sql=f"-- dbsec: phase expand\nSET client_encoding = 'utf-8';\nINSERT INTO app.users {texts};\n")
    (name,) = site.query("SELECT current_user")[0]
    site.query(
        f'ALTER ROLE "{name}" IN DATABASE "{site.database.conninfo.params["dbname"]}" SET client_encoding = LATIN1'
    )
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    assert not site.up().obstacles
    assert site.query("SELECT email, octet_length(email) FROM app.users") == [("käse €", 9)]


def test_a_session_in_another_encoding_is_refused_before_a_byte_is_sent(site: Site) -> None:
    site.write(_001_x__sql="-- dbsec: phase expand\nSET app.name = 'käse';\n")
    other = site.database.conninfo.but(client_encoding="LATIN1").text()
    target = replace(site.target(), connect=lambda: psycopg.connect(other, autocommit=True))
    with pytest.raises(UsageError, match="client_encoding of the session is LATIN1"):
        up(target, Asked())
    hidden = "BEGIN;\nSELECT set_config('client_encoding', 'LATIN1', true);\n"
    site.write(
        _001_x__sql=f"-- dbsec: phase expand\n{hidden}INSERT INTO app.users VALUES (1, 'käse', NULL);\nCOMMIT;\n"
    )
    with pytest.raises(UsageError, match="client_encoding of the session is LATIN1"):
        site.up()
    assert site.query("SELECT * FROM app.users") == []


REFUSED = {
    "a lone COMMIT": "COMMIT;",
    "a lone ROLLBACK": "ROLLBACK;",
    "DISCARD": "DISCARD TEMP;",
    "rows from the client": "COPY app.users FROM STDIN;",
    "rows to the client": "COPY app.users TO STDOUT;",
    "BEGIN without COMMIT": "BEGIN;\nALTER TABLE app.users ADD COLUMN y text;",
    "another encoding": "SET NAMES 'LATIN1';",
    "a temporary table": "CREATE TEMP TABLE ids AS SELECT 3 AS id;\nSELECT count(*) FROM ids;",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_refused_before_the_ledger_knows_of_it(
    site: Site, text: str, recwarn: pytest.WarningsRecorder
) -> None:
    site.write(_001_x__sql=f"{EXPAND}{text}\n")
    for act in (lambda: planning.plan(site.target(), Asked()), site.up):
        with pytest.raises(UsageError, match=r"001_x\.sql:4: "):
            act()
    assert site.query("SELECT number FROM dbsec.migrations") == []
    assert "x" not in site.columns()
    site.write(_001_x__sql=EXPAND, _001_x__down__sql=f"\n\n\n{text}\n")
    site.up()
    with pytest.raises(UsageError, match=r"001_x\.down\.sql:4: "):
        down(site.target(), Asked())
    assert site.query("SELECT state FROM dbsec.migrations") == [("applied",)]
    assert not recwarn.list


def test_a_block_that_makes_and_uses_a_temporary_table_is_run(site: Site) -> None:
    site.query("CREATE TABLE ids AS SELECT 1 AS id; INSERT INTO app.users VALUES (1, 'a', NULL), (3, 'b', NULL)")
    made = "CREATE TEMP TABLE ids ON COMMIT DROP AS SELECT 3 AS id"
    gone = "DELETE FROM app.users WHERE id IN (SELECT id FROM ids)"
    site.write(_001_x__sql=f"-- dbsec: phase expand\nBEGIN;\n{made};\n{gone};\nCOMMIT;\nSELECT count(*) FROM ids;\n")
    assert not site.up().obstacles
    assert site.query("SELECT id FROM app.users") == [(1,)]


def test_what_a_block_has_set_counts_for_a_run_that_resumes_after_it(site: Site) -> None:
    site.query("CREATE TABLE public.w (id int); CREATE TABLE app.w (id int)")
    block = "BEGIN;\nSET search_path = app;\nSET LOCAL lock_timeout = '1s';\nCOMMIT;\n"
    rolled_back = "BEGIN;\nSET search_path = public;\nROLLBACK;\n"
    text = f"-- dbsec: phase expand\n{block}{rolled_back}INSERT INTO w VALUES (1/0);\n"
    site.write(_001_x__sql=text)
    with pytest.raises(StatementFailed, match="22012"):
        site.up()
    site.write(_001_x__sql=text.replace("1/0", "7"))
    assert not resume(site.target(), Asked()).obstacles
    assert site.query("SELECT (SELECT array_agg(id) FROM app.w), (SELECT array_agg(id) FROM public.w)") == [([7], None)]


PARTS = """-- dbsec: phase expand
DO $$ BEGIN
  FOR one IN 1..4 LOOP
    INSERT INTO app.parts VALUES (one);
    IF one = 3 AND current_setting('app.broken', true) = 'yes' THEN RAISE EXCEPTION 'broken'; END IF;
    IF one % 2 = 0 THEN COMMIT; END IF;
  END LOOP;
END $$;
"""
CALLED = """CREATE PROCEDURE app.fill() LANGUAGE plpgsql AS $p$ BEGIN
  INSERT INTO app.parts VALUES (1), (2); COMMIT;
  IF current_setting('app.broken', true) = 'yes' THEN RAISE EXCEPTION 'broken'; END IF;
  INSERT INTO app.parts VALUES (3), (4); END $p$"""


@pytest.mark.parametrize("text", [PARTS, "-- dbsec: phase expand\nCALL app.fill();\n"], ids=["DO", "CALL"])
def test_what_commits_on_its_way_is_not_run_again_unless_its_file_says_that_it_may_be(site: Site, text: str) -> None:
    site.query("CREATE TABLE app.parts (id int)")
    site.query(CALLED)
    site.write(_001_x__sql=text)
    broken = site.database.conninfo.but(options="-c app.broken=yes")
    with pytest.raises(StatementFailed, match="P0001"):
        up(replace(site.target(), connect=lambda: connect(broken)), Asked())
    parts = "SELECT array_agg(id ORDER BY id) FROM app.parts"
    assert site.query(parts) == [([1, 2],)]
    for act in (site.up, lambda: resume(site.target(), Asked())):
        with pytest.raises(ApplyError, match=r"001_x\.sql:2' commits on its way and was interrupted") as told:
            act()
        assert "-- dbsec: idempotent" in told.value.hint
    assert site.query(parts) == [([1, 2],)]
    site.query("TRUNCATE app.parts")
    site.write(_001_x__sql=text.replace("expand\n", "expand\n-- dbsec: idempotent\n"))
    assert not resume(site.target(), Asked()).obstacles
    assert site.query(parts) == [([1, 2, 3, 4],)]


def test_a_file_whose_line_ends_change_between_two_runs_goes_on(site: Site) -> None:
    text = f"{EXPAND}INSERT INTO app.users\nVALUES (1, 'a', NULL);\nSELECT 1/0;\n"
    site.write(_001_x__sql=text)
    with pytest.raises(StatementFailed, match="22012"):
        site.up()
    (site.folder / "001_x.sql").write_bytes(text.replace("1/0", "1").replace("\n", "\r\n").encode())
    assert [len(one.did) for one in resume(site.target(), Asked()).applied] == [2]  # SET, and what was mended
    assert site.query("SELECT count(*) FROM app.users") == [(1,)]


def test_a_file_is_parsed_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = grammar.statements_of
    seen = lambda text, **options: (read.append(text), real(text, **options))[1]  # noqa: E731
    monkeypatch.setattr(parse, "statements_of", seen)  # hook: ok counts calls, and calls on
    site.write(_001_x__sql=EXPAND, _002_c__sql=DROP_PHONE)
    assert not site.up().obstacles
    assert [len([text for text in read if part in text]) for part in ("ADD COLUMN x", "DROP COLUMN phone")] == [1, 1]


# --- two runners


def test_the_second_runner_names_the_first_and_waits_if_told(site: Site) -> None:
    site.write(_001_x__sql=EXPAND)
    with site.connect() as first, alone.alone(first, wait_s=0, progress=site.target().progress):
        pid = first.info.backend_pid
        with pytest.raises(GaveUp, match=f"another runner is at work in .*pid {pid}") as told:
            site.up()
        assert "--wait" in told.value.hint
        assert f"pid {pid}" in str(status(site.target()).runner)
    assert [one.migration.number for one in site.up().applied] == [1]


def test_a_runner_that_waits_goes_on_when_the_first_has_ended(site: Site) -> None:
    site.write(_001_x__sql=EXPAND)
    done: list[Outcome] = []
    with site.connect() as first, site.connect() as watcher:
        with alone.alone(first, wait_s=0, progress=site.target().progress):
            second = threading.Thread(target=lambda: done.append(site.up(wait_s=30)))
            second.start()
            others = (first.info.backend_pid, watcher.info.backend_pid)
            tries = "query LIKE '%%pg_try_advisory_lock%%' AND pid NOT IN (%s, %s)"
            wait_for(watcher, f"SELECT pid FROM pg_stat_activity WHERE {tries}", *others)
            assert "x" not in site.columns()
        second.join(30)
    assert [one.migration.number for one in done[0].applied] == [1]


# --- a server that goes away


@pytest.mark.pg(15, 17, 18)
def test_a_connection_that_is_lost_in_the_middle_of_concurrently_is_mended_by_resume(site: Site) -> None:
    site.write(_001_x__sql="-- dbsec: phase expand\nCREATE INDEX CONCURRENTLY users_x ON app.users (email);\n")
    broken: list[BaseException] = []

    def run() -> None:
        try:
            site.up()
        except ConnectionLost as exc:
            broken.append(exc)

    with site.connect() as watcher, site.connect() as writer, writer.transaction():
        writer.execute("INSERT INTO app.users VALUES (1, 'e', NULL)")  # CONCURRENTLY waits for it
        runner = threading.Thread(target=run)
        runner.start()
        waits = "query LIKE 'CREATE INDEX CONCURRENTLY%%' AND wait_event_type = 'Lock'"
        pid = wait_for(watcher, f"SELECT pid FROM pg_stat_activity WHERE {waits}")
        watcher.execute("SELECT pg_terminate_backend(%s)", [pid])
        runner.join(30)
    assert "dbsec migrate resume" in str(getattr(broken[0], "hint", broken))
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('app.users_x')"
    assert site.query(valid) in ([(False,)], [])
    done = resume(site.target(), Asked(wait_s=10))
    assert [one.migration.number for one in done.applied] == [1]
    assert site.query(valid) == [(True,)]


# --- after a contract


def test_after_a_contract_the_way_goes_forward(site: Site) -> None:
    site.write(_001_x__sql=EXPAND, _002_drop__sql=DROP_PHONE, _002_drop__down__sql="SELECT 1;\n")
    site.query("ALTER TABLE app.users ALTER COLUMN phone SET DEFAULT 'none'")
    assert not site.up().obstacles
    for asked in (Asked(), Asked(force="but I want to")):
        back = down(site.target(), asked)
        assert blocks(back) == [Block.ROLL_FORWARD]
        assert not back.applied
        assert back.forward is not None
    assert "ALTER TABLE app.users ADD COLUMN phone text DEFAULT 'none'::text;" in back.forward.sql()
    assert "003_expand_restore_drop.sql" in back.forward.steps()[0]
    assert f"recovery_target_lsn = '{back.forward.entry.started_lsn}'" in " ".join(back.forward.steps())
    assert site.query("SELECT state FROM dbsec.migrations ORDER BY number") == [("applied",), ("applied",)]


def test_a_contract_after_another_one_asks_for_no_row_that_the_first_one_took(site: Site) -> None:
    job = '# dbsec: phase backfill\nformat = 1\ntable = "app.users"\nkey = "id"\n'
    job += 'set = "x = phone"\nwhere = "x IS DISTINCT FROM phone"\n'
    check = "ALTER TABLE app.users ADD CONSTRAINT short CHECK (length(x) < 99) NOT VALID;\n"
    site.query("INSERT INTO app.users SELECT n, 'a@b', '+' || n FROM generate_series(1, 10) n")
    site.write(_001_x__sql=EXPAND, _002_x__toml=job, _003_drop__sql=DROP_PHONE)
    site.write(_004_short__sql="-- dbsec: phase contract\nSET lock_timeout = '1s';\n" + check)
    done = site.up()
    assert (done.obstacles, [one.migration.number for one in done.applied]) == ([], [1, 2, 3, 4])
    assert site.columns() == ["id", "email", "x"]


def test_a_contract_that_took_no_values_goes_back_for_a_reason_that_is_recorded(site: Site) -> None:
    site.write(_001_n__sql="-- dbsec: phase contract\nALTER TABLE app.users ALTER COLUMN email DROP DEFAULT;\n")
    site.write(_001_n__down__sql="ALTER TABLE app.users ALTER COLUMN email SET DEFAULT '';\n")
    site.up()
    assert blocks(down(site.target(), Asked())) == [Block.ROLL_FORWARD]
    back = down(site.target(), Asked(force="release 7 was withdrawn"))
    assert [one.state for one in back.applied] == [State.REVERTED]
    (event,) = site.query("SELECT detail FROM dbsec.migration_events WHERE event = 'forced'")
    assert event[0].startswith("release 7 was withdrawn; past: '001_n' is a contract, and it is done")


def test_a_contract_that_broke_off_goes_back_only_where_nothing_is_lost(site: Site) -> None:
    text = "-- dbsec: phase contract\nCREATE TABLE app.kept (id int PRIMARY KEY);\nSELECT 1/0;\n"
    site.write(_001_n__sql=text + "ALTER TABLE app.users DROP COLUMN phone;\n")
    site.write(_001_n__down__sql="DROP TABLE app.kept;\n")
    with pytest.raises(StatementFailed):
        site.up()
    assert blocks(down(site.target(), Asked())) == []
    site.write(_001_n__sql=DROP_PHONE + "SELECT 1/0;\n")
    with pytest.raises(StatementFailed):
        site.up()
    back = down(site.target(), Asked())
    assert blocks(back) == [Block.ROLL_FORWARD]
    assert "column app.users.phone" in back.obstacles[0].message


def test_without_a_way_back_nothing_is_reverted(site: Site) -> None:
    site.write(_001_x__sql=EXPAND)
    site.up()
    assert blocks(down(site.target(), Asked())) == [Block.NO_WAY_BACK]
    assert "x" in site.columns()


# --- the plan


def test_a_plan_writes_nothing_and_says_what_up_does(site: Site) -> None:
    site.query(f"INSERT INTO app.users SELECT i, 'user' || i FROM generate_series(1, {ROWS}) i")
    site.query("ANALYZE app.users")
    site.write(_001_x__sql=EXPAND + "CREATE INDEX CONCURRENTLY users_email ON app.users (email);\n")
    site.query("DROP SCHEMA dbsec CASCADE")
    horizon = "SELECT pg_snapshot_xmax(pg_current_snapshot())"
    before = site.query(horizon)
    made = planning.plan(site.target(), Asked())
    assert site.query(horizon) == before
    (planned,) = made.migrations
    assert [one.kind for one in planned.statements] == ["session", "short", "concurrent"]
    assert planned.peak is not None
    assert planned.peak[1].sql == "ACCESS EXCLUSIVE"
    assert planned.cost.wal > 0


def test_estimates_are_of_the_size_that_is_then_measured(site: Site) -> None:
    """WAL and disk of an index, a write of every row and a rewrite, one after the other, within a factor of two."""
    site.query(f"INSERT INTO app.users SELECT i, 'user' || i || '@example.com' FROM generate_series(1, {ROWS}) i")
    site.query("VACUUM ANALYZE app.users")
    statements = (
        ("expand", "CREATE INDEX CONCURRENTLY users_email ON app.users (email)"),
        ("backfill", "UPDATE app.users SET phone = email WHERE phone IS NULL"),
        ("contract", "ALTER TABLE app.users ALTER COLUMN id TYPE numeric"),
    )
    for number, (phase, statement) in enumerate(statements, 1):
        site.write(**{f"_00{number}_a__sql": f"-- dbsec: phase {phase}\n{statement};\n"})
    made = planning.plan(site.target(), Asked())
    size = "SELECT pg_total_relation_size('app.users'), pg_current_wal_lsn() - '0/0'::pg_lsn"
    for planned, (phase, statement) in zip(made.migrations, statements, strict=True):
        site.query("CHECKPOINT")
        before = site.query(size)[0]
        site.query(statement)
        after = site.query(size)[0]
        assert 0.5 < planned.cost.wal / int(after[1] - before[1]) < 2, statement
        if phase != "contract":  # the copy of a rewrite takes the place of the old one
            assert 0.5 < planned.cost.disk_bytes / (after[0] - before[0]) < 2.5, statement


def test_too_little_disk_stops_plan_and_up_and_what_nobody_knows_is_said(site: Site) -> None:
    site.query(f"INSERT INTO app.users SELECT i, 'user' || i FROM generate_series(1, {ROWS}) i; ANALYZE app.users")
    site.write(_001_x__sql="-- dbsec: phase expand\nCREATE INDEX CONCURRENTLY users_email ON app.users (email);\n")
    assert blocks(planning.plan(site.target(), Asked(free_bytes=100_000))) == [Block.DISK]
    assert blocks(site.up(free_bytes=100_000)) == [Block.DISK]
    assert blocks(planning.plan(site.target(), Asked(free_bytes=1 << 40))) == []
    (unknown,) = disk.obstacles(None, {"pg_default": disk.SMALL}, 1)
    assert unknown.unknown
    assert not disk.obstacles(None, {"pg_default": 1000}, 0)


def test_free_disk_is_seen_only_where_the_server_is_this_machine(site: Site, tmp_path: Path) -> None:
    with site.connect() as connection:
        found = disk.free(connection, None)
        assert found is not None
        assert {"pg_default", "pg_wal"} == set().union(*(one.places for one in found))
        pid_file = site.database.cluster.instance.data / "postmaster.pid"
        assert disk._is_here(connection, pid_file.parent)
        other = tmp_path / "data"  # a folder of that name here, and the server behind a forwarded port
        other.mkdir()
        lines = pid_file.read_text().splitlines()
        (other / "postmaster.pid").write_text("\n".join([*lines[:2], str(int(lines[2]) - 60), *lines[3:]]))
        assert not disk._is_here(connection, other)


# --- the canary


@pytest.fixture
def clone(site: Site) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """A database made from the site's."""
    cluster, production = site.database.cluster, site.database.conninfo
    name = f"{production.dbname}_c"
    with connect(cluster.admin) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {production.dbname}".encode())
    yield lambda: connect(production.but(dbname=name))
    cluster.drop_database(name)


def test_a_canary_runs_first_and_its_failed_check_keeps_production_untouched(
    site: Site, clone: Callable[[], psycopg.Connection[Any]]
) -> None:
    site.write(_001_x__sql=EXPAND, _001_x__check__sql="SELECT count(*) = 0 FROM app.users")
    assert blocks(rehearse(site.target(), clone, Asked())) == []
    with closing(clone()) as there:
        assert there.execute("SELECT state FROM dbsec.migrations").fetchall() == [("applied",)]
    assert site.query("SELECT count(*) FROM dbsec.migrations") == [(0,)]
    assert "x" not in site.columns()


def test_a_canary_whose_check_fails_says_so(site: Site, clone: Callable[[], psycopg.Connection[Any]]) -> None:
    site.write(_001_x__sql=EXPAND, _001_x__check__sql="SELECT false")
    assert blocks(rehearse(site.target(), clone, Asked())) == [Block.CHECK]


def test_production_is_no_canary_of_its_own_and_nor_is_another_schema(
    site: Site, clone: Callable[[], psycopg.Connection[Any]]
) -> None:
    site.write(_001_x__sql=EXPAND)
    (same,) = rehearse(site.target(), site.connect, Asked()).obstacles
    assert same.message == "the canary is production itself"
    with closing(clone()) as there:
        there.execute("ALTER TABLE app.users ADD COLUMN only_there int")
    (other,) = rehearse(site.target(), clone, Asked()).obstacles
    assert "table app.users" in other.message
    assert site.query("SELECT count(*) FROM dbsec.migrations") == [(0,)]


def test_the_ledger_remembers_how_a_contract_stood(site: Site) -> None:
    site.write(_001_drop__sql=DROP_PHONE)
    site.up()
    with site.connect() as connection:
        entry = ledger.read(connection)[1]
    assert [(one.what, one.name) for one in entry.dropped] == [("column", "app.users.phone")]
    assert entry.started_lsn


def test_wal_that_lies_on_disk_at_once_is_a_checkpoints_and_where_it_is_kept_a_statements() -> None:
    costs = [estimate.Cost(wal=10 << 30), estimate.Cost(wal=1 << 30)]
    for keeps_all, needed in ((False, 1 << 30), (True, 11 << 30)):
        server = estimate.Server(Stats({}), {}, {}, {}, {}, 1 << 30, keeps_all=keeps_all, standbys=False)
        assert server.needed_wal(costs) == needed


def test_many_statements_that_write_rows_cost_as_many_times_one_and_not_two_to_that_power() -> None:
    table = Name("app", "t")
    sizes = {table: TableStats(rows=1000, bytes=1 << 20, index_bytes=1 << 18)}
    server = estimate.Server(Stats(sizes), sizes, {}, {}, {}, 1 << 30, keeps_all=False, standbys=False)
    writes = Effect(work=(Task(Work.WRITE, table),))
    costs = [server.cost(None, writes) for _ in range(100)]
    assert costs[99].disk_bytes == costs[1].disk_bytes < 3 * costs[0].disk_bytes


# --- whoever runs it


class Said:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def count(self, text: str, done: int, total: int) -> None:
        return


@pytest.fixture
def roles(site: Site) -> Iterator[str]:
    """A login that may use dbsec, and the role ``…_app`` that it may act as and that owns the table."""
    name = f"login_{secrets.token_hex(4)}"
    with site.connect() as admin:
        admin.execute(f"CREATE ROLE {name}_app; CREATE ROLE {name} LOGIN PASSWORD 'pw' IN ROLE {name}_app".encode())
        admin.execute(f"GRANT ALL ON SCHEMA app TO {name}_app; ALTER TABLE app.users OWNER TO {name}_app".encode())
        own.install(admin, users=[name])
    yield name
    with site.connect() as admin:
        admin.execute(f"DROP OWNED BY {name}, {name}_app; DROP ROLE {name}, {name}_app".encode())


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("how", ["SET ROLE {}_app", "SET SESSION AUTHORIZATION {}_app"])
def test_a_file_may_act_as_a_role_that_has_no_rights_on_dbsec(site: Site, roles: str, how: str) -> None:
    act = how.format(roles)
    text = f"{act};\nCREATE TABLE app.a (id int PRIMARY KEY);\nCREATE INDEX CONCURRENTLY i ON app.users (email);\n"
    local = act.replace("SET", "SET LOCAL")
    block = f"BEGIN;\n{local};\nCREATE TABLE app.b (id int PRIMARY KEY);\nCOMMIT;\n"
    block += f"{act};\nCREATE TABLE app.c (id int PRIMARY KEY);\n"
    site.write(_001_a__sql="-- dbsec: phase expand\n" + text, _002_b__sql="-- dbsec: phase expand\n" + block)
    user = site.database.conninfo.but(user=roles, password=Secret("pw"))
    login = site.connect if "SESSION" in how else lambda: connect(user)
    done = up(Target(site.folder, login, Settings()), Asked())
    assert ([one.migration.number for one in done.applied], done.obstacles) == ([1, 2], [])
    owners = site.query("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'app'")
    assert owners == [(f"{roles}_app",)]


def test_sessions_that_only_read_are_named_before_anything_is_tried(site: Site) -> None:
    site.write(_001_x__sql=EXPAND)
    (user,) = site.query("SELECT current_user")[0]
    reading = site.database.conninfo.but(options="-c default_transaction_read_only=on")
    target = Target(site.folder, lambda: connect(reading), Settings())
    (found,) = planning.plan(target, Asked()).obstacles
    assert (found.block, found.unknown) == (Block.READ_ONLY, True)
    assert found.message == f"sessions of '{user}' only read here (default_transaction_read_only = on)"
    for act in (lambda: up(target, Asked()), lambda: watch(target, every_s=1, for_s=0)):
        with pytest.raises(ConnectError, match="only read here") as caught:
            act()
        assert "RESET default_transaction_read_only" in caught.value.hint


def test_a_server_that_is_away_between_two_statements_is_told_as_that(site: Site) -> None:
    def away() -> None:
        with site.target().machine() as machine:
            site.query(f"SELECT pg_terminate_backend({machine.connection.info.backend_pid}, 5000)")
            machine.connection.execute("SELECT 1")

    with pytest.raises(ConnectError, match="the server is away") as caught:
        away()
    assert caught.value.hint.startswith("dbsec migrate resume")


@pytest.mark.pg(15, 17, 18)
def test_the_server_ends_what_a_runner_that_is_gone_has_begun(site: Site) -> None:
    site.write(_001_x__sql="-- dbsec: phase expand\nCREATE INDEX CONCURRENTLY users_phone ON app.users (phone);\n")
    opened: list[psycopg.Connection[Any]] = []

    def connecting() -> psycopg.Connection[Any]:
        opened.append(site.connect())
        return opened[-1]

    with site.connect() as other, closing(site.connect()) as watcher, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN; UPDATE app.users SET phone = phone; SELECT txid_current()")
        ran = pool.submit(up, Target(site.folder, connecting, Settings(), gates=False), Asked())
        building = "SELECT pid FROM pg_stat_activity WHERE query ~ '^CREATE INDEX CONC' AND wait_event_type = 'Lock'"
        pid = wait_for(watcher, building)
        session = next(one for one in opened if one.info.backend_pid == pid)
        with socket.socket(fileno=os.dup(session.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)  # as the end of our process would
        with pytest.raises(ConnectionLost):
            ran.result(timeout=30)
        wait_for(watcher, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", pid)


# --- what is told


@pytest.mark.pg(15, 17, 18)
def test_each_statement_is_told_once_and_its_timeouts_are_no_warning(site: Site) -> None:
    site.write(_001_x__sql="-- dbsec: phase expand\nALTER TABLE app.users ADD COLUMN x text;\n")
    said = Said()
    done = up(dataclasses.replace(site.target(), progress=said), Asked())
    assert [one.code for one in done.warnings] == []
    lines = [line for line in said.steps if "ADD COLUMN x" in line]
    assert len(lines) == 1
    assert "short, ACCESS EXCLUSIVE" in lines[0]
    assert not [line for line in said.steps if "001_x.sql:2" in line and line not in lines]


def test_an_invalid_index_of_a_statement_that_was_edited_is_no_obstacle(site: Site) -> None:
    index = "CREATE INDEX CONCURRENTLY users_email ON app.users (email);\n"
    site.write(_001_x__sql=EXPAND + index.replace("email)", "emial)"))
    with pytest.raises(StatementFailed, match="42703"):
        site.up()
    with site.connect() as admin, site.connect() as other:
        other.execute("BEGIN; UPDATE app.users SET phone = phone; SELECT txid_current()")
        admin.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            admin.execute(index.encode())
    site.write(_001_x__sql=EXPAND + index)
    assert not planning.plan(site.target(), Asked()).obstacles
    assert not resume(site.target(), Asked()).obstacles
    assert site.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.users_email'::regclass") == [(True,)]


def test_what_a_contract_took_is_put_back_under_its_whole_name(site: Site) -> None:
    site.query("CREATE TABLE public.t (id int PRIMARY KEY, gone text); CREATE INDEX t_gone ON public.t (gone)")
    text = "-- dbsec: phase contract\nDROP INDEX CONCURRENTLY t_gone;\nALTER TABLE t DROP COLUMN gone;\n"
    site.write(_001_gone__sql=text)
    site.up()
    (forward,) = filter(None, [down(site.target(), Asked()).forward])
    assert "ALTER TABLE public.t ADD COLUMN gone text;" in forward.sql()
    assert "ON public.t" in forward.sql()
