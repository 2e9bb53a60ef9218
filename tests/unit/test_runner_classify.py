"""Which way a statement is run, by its locks and its work; which timeouts it gets; what is shown of a query."""

from __future__ import annotations

import pytest

from dbsec.errors import UsageError
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner import timeouts
from dbsec.migrations.runner.blockers import Blocker, first_words
from dbsec.migrations.runner.classify import Classified, Kind, blocks_together, classify, turns
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.script import Script, Wrap

SCHEMA = """
CREATE TABLE public.users (id bigint PRIMARY KEY, email text, phone text);
CREATE TABLE public.orders (id bigint PRIMARY KEY, user_id bigint);
CREATE TABLE public.events (id int, at int) PARTITION BY RANGE (at);
CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES FROM (0) TO (10);
CREATE MATERIALIZED VIEW public.sums AS SELECT id FROM public.users;
CREATE UNIQUE INDEX sums_id ON public.sums (id);
CREATE FUNCTION public.touch() RETURNS void LANGUAGE plpgsql AS 'BEGIN NULL; END';
CREATE FUNCTION public.pure(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
"""
KEY = "ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users"
AX, SRX, SUX = LockMode.ACCESS_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE


def of(text: str, wrap: Wrap = Wrap.NONE) -> list[Classified]:
    schema, _ = from_dump(SCHEMA, source="test")
    return classify([Script("m.sql", text, wrap=wrap)], schema, major=17)


def locks(one: Classified) -> dict[str, LockMode]:
    return {name.name: mode for name, mode in one.locks}


@pytest.mark.parametrize(
    ("text", "kind", "taken"),
    [
        ("ALTER TABLE users ADD COLUMN a text", Kind.SHORT, {"users": AX}),
        ("ALTER TABLE events ADD COLUMN a text", Kind.SHORT, {"events": AX, "events_1": AX}),
        (f"{KEY} NOT VALID", Kind.SHORT, {"orders": SRX, "users": SRX}),
        ("CREATE TABLE notes (id int REFERENCES users)", Kind.SHORT, {"users": SRX}),
        ("DROP INDEX users_pkey", Kind.SHORT, {"users": AX}),
        ("ALTER TABLE nobody_knows ADD COLUMN a text", Kind.SHORT, {"nobody_knows": AX}),
        ("DO $$BEGIN ALTER TABLE users ADD a int; PERFORM 1; END$$", Kind.SHORT, {"users": AX}),
        ("DO $$BEGIN EXECUTE 'ALTER TABLE ' || (SELECT 'users') || ' ADD a int'; END$$", Kind.SHORT, {}),
        ("SELECT touch()", Kind.SHORT, {}),
        ("ALTER EXTENSION postgis UPDATE", Kind.SHORT, {}),
        ("ALTER TABLE users ALTER COLUMN id TYPE numeric", Kind.BLOCKING, {"users": AX}),
        ("ALTER TABLE users ALTER COLUMN email SET NOT NULL", Kind.BLOCKING, {"users": AX}),
        ("CREATE INDEX ON users (email)", Kind.BLOCKING, {"users": LockMode.SHARE}),
        ("VACUUM FULL users", Kind.BLOCKING, {"users": AX}),
        ("REFRESH MATERIALIZED VIEW sums", Kind.BLOCKING, {"sums": AX}),
        ("DO $$BEGIN ALTER TABLE users ADD a int; UPDATE users SET a = 1; END$$", Kind.BLOCKING, {"users": AX}),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY sums", Kind.CONCURRENT, {"sums": LockMode.EXCLUSIVE}),
        ("CREATE INDEX CONCURRENTLY ON users (email)", Kind.CONCURRENT, {"users": SUX}),
        ("REINDEX INDEX CONCURRENTLY users_pkey", Kind.CONCURRENT, {"users": SUX}),
        ("ALTER SYSTEM SET work_mem = '8MB'", Kind.CONCURRENT, {}),
        ("ROLLBACK PREPARED 'x'", Kind.CONCURRENT, {}),
        ("ANALYZE users", Kind.LONG, {"users": SUX}),
        ("SELECT count(*) FROM users", Kind.LONG, {}),
        ("SELECT pure(1)", Kind.LONG, {}),
        ("CREATE TABLE copy AS SELECT * FROM users", Kind.LONG, {}),
        ("INSERT INTO users (id) VALUES (1)", Kind.ROWS, {"users": LockMode.ROW_EXCLUSIVE}),
        ("CREATE TABLE notes (id int); ALTER TABLE notes ADD COLUMN b int", Kind.FREE, {}),
        ("CREATE ROLE reader", Kind.FREE, {}),
        ("GRANT SELECT ON users TO reader", Kind.FREE, {}),
        ("SET lock_timeout = '1s'", Kind.SESSION, {}),
        ("SELECT set_config('search_path', '', false)", Kind.SESSION, {}),
        ("COMMIT", Kind.TRANSACTION, {}),
    ],
)  # fmt: skip
def test_the_kind_and_the_locks(text, kind, taken):
    one = of(text)[-1]
    assert (one.kind, locks(one)) == (kind, taken)


def test_a_blocking_statement_names_its_rule_and_an_unknown_one_says_why():
    assert of("CREATE INDEX ON users (email)")[0].why.startswith("MIG101 index-without-concurrently: ")
    assert "MIG" in of("DO $$BEGIN ALTER TABLE users ADD a int; UPDATE users SET a = 1; END$$")[0].why
    dynamic = of("DO $$BEGIN EXECUTE current_setting('a.b'); END$$")[0]
    assert (dynamic.unsure, dynamic.why) == (True, "it runs SQL that is put together while it runs")
    assert of("SELECT touch()")[0].why == "nobody has read what function 'public.touch' does"
    assert not of("ALTER TABLE users ADD a int")[0].unsure


def test_a_function_of_the_same_release_is_read():
    body = "CREATE FUNCTION go() RETURNS void LANGUAGE {} AS $$ {} $$; SELECT go()"
    assert locks(of(body.format("sql", "ALTER TABLE users ADD a int"))[-1]) == {"users": AX}
    nested = "CREATE FUNCTION inner() RETURNS void LANGUAGE sql AS 'DROP TABLE orders';" + body
    assert locks(of(nested.format("plpgsql", "BEGIN PERFORM inner(); END"))[-1]) == {"orders": AX}
    called = "CREATE PROCEDURE go() LANGUAGE plpgsql AS $$BEGIN UPDATE users SET phone = ''; COMMIT; END$$; CALL go()"
    one = of(called)[-1]
    assert (one.kind, one.alone) == (Kind.ROWS, True)


def test_what_cannot_be_read_is_refused_and_in_a_block_assumed_to_lock():
    with pytest.raises(UsageError, match=r"m\.sql:2"):
        of("SELECT 1;\nALTER TABEL users ADD a int")
    body = "DO $$DECLARE r somewhere.row%ROWTYPE; BEGIN SELEC 1; END$$"
    assert of(body)[0].unsure


def test_turns_are_transactions():
    text = (
        "SET a.b = 1; BEGIN; ALTER TABLE users ADD a int; COMMIT; DO $$BEGIN PERFORM 1; END$$; BEGIN; SELECT 1; COMMIT"
    )
    assert [len(turn) for turn in turns(of(text))] == [1, 3, 1, 3]
    assert [len(turn) for turn in turns(of("ALTER TABLE users ADD a int; SELECT 1", Wrap.FILE))] == [2]
    assert [len(turn) for turn in turns([*of("BEGIN; SELECT 1"), *of("BEGIN; SELECT 1")])] == [4]  # one file twice
    do = of("BEGIN; DO $$BEGIN COMMIT; END$$; COMMIT")[1]
    assert not do.alone


def test_work_under_a_lock_of_the_same_transaction_is_found():
    block = of("BEGIN; ALTER TABLE users ADD a int; UPDATE orders SET user_id = 1; COMMIT")
    assert "row writes of 'public.orders' while the transaction holds ACCESS EXCLUSIVE on 'public.users'" in (
        blocks_together(block)
    )
    assert blocks_together(of("BEGIN; UPDATE orders SET user_id = 1; ALTER TABLE users ADD a int; COMMIT")) == ""
    assert blocks_together(of("BEGIN; CREATE TABLE n (id int); CREATE INDEX ON n (id); COMMIT")) == ""


@pytest.mark.parametrize(
    ("said", "found"),
    [("500ms", 500), ("5s", 5000), ("30min", 1_800_000), ("1500", 1500), ("0", None), ("", None), ("soon", None)],
)
def test_times_are_read_as_postgresql_reads_them(said, found):
    assert timeouts.milliseconds(said) == found


def test_timeouts_by_kind():
    limits = Limits(short_s=5, rows_s=60, long_s=3600, own_wait_ms=10, escalation_ms=(50, 100))

    def times(text: str, **how: bool) -> tuple[int, int]:
        found = timeouts.of(of(text)[-1], limits, **how)
        return found.lock_ms, found.statement_ms

    assert times("ALTER TABLE users ADD a int") == (10, 5000)
    assert times("SET lock_timeout = '3ms'; ALTER TABLE users ADD a int") == (3, 5000)
    assert times("UPDATE users SET phone = ''") == (100, 60_000)
    assert times("SELECT count(*) FROM users") == (0, 3_600_000)
    assert times("SELECT count(*) FROM users", felt=True) == (10, 5000)  # beside a lock that others wait for
    assert times("SET statement_timeout = '9h'; SELECT count(*) FROM users", felt=True) == (10, 5000)
    assert times("SET lock_timeout = '1s'; VACUUM users") == (0, 3_600_000)
    assert times("VACUUM FULL users") == (10, 3_600_000)
    local = "BEGIN; SET LOCAL statement_timeout = '2s'; ALTER TABLE users ADD a int"
    assert times(local) == (10, 2000)
    assert times(f"{local}; COMMIT; ALTER TABLE users ADD b int") == (10, 5000)
    settings = timeouts.of(of("SELECT 1")[0], limits).settings(17)
    assert settings["transaction_timeout"] == "0ms"
    assert "transaction_timeout" not in timeouts.of(of("SELECT 1")[0], limits).settings(16)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT count(*) FROM users WHERE phone = '+49'", "SELECT count"),
        ("/* trace 4711 */ UPDATE app.users SET phone = '+49'", "UPDATE app.users"),
        ("-- job 12\nDELETE FROM orders WHERE id = 5", "DELETE FROM orders"),
        ("ALTER ROLE bob PASSWORD 'geheim'", "ALTER ROLE bob"),
        ("SET app.token TO geheim", "SET app.token"),
        ("INSERT INTO users VALUES (1)", "INSERT INTO users"),
        ("'x'", ""),
        ("", ""),
    ],
)
def test_of_a_query_its_first_words_are_shown(query, shown):
    assert first_words(query) == shown


def test_a_blocker_says_what_ends_it():
    def blocker(**how: object) -> Blocker:
        given = {"pid": 7, "user": "app", "application_name": "", "state": "active", "since": None, "query": ""}
        return Blocker(**{**given, **how})  # type: ignore[arg-type]

    assert blocker().end_it == "SELECT pg_cancel_backend(7)"
    assert blocker(state="idle in transaction (aborted)").end_it == "SELECT pg_terminate_backend(7)"
    assert blocker(pid=None, gid="it's").end_it.startswith("ROLLBACK PREPARED 'it''s'")
    assert blocker(autovacuum=True, state="").end_it == "SELECT pg_cancel_backend(7)"
    assert blocker(autovacuum=True, wraparound=True).end_it.startswith("wait")
    table = Name("app", "users")
    assert "ACCESS SHARE on 'app.users'" in str(blocker(table=table, mode=LockMode.ACCESS_SHARE))
    assert "hidden from us" in str(blocker(state=""))
