"""What a running server keeps beside its tables: counted statements, its log, a temporary file. Each is looked into."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dbsec.migrations import residue, residue_places
from dbsec.pg import Conninfo, connect
from dbsec.testing.clusters import Cluster


@pytest.fixture(scope="module")
def counting(cluster_factory: Callable[..., Cluster]) -> Iterator[tuple[Cluster, Conninfo]]:
    """A server that counts statements."""
    made = cluster_factory(shared_preload_libraries="pg_stat_statements")
    conninfo = made.create_database("counting")
    with connect(conninfo) as session:
        session.execute("CREATE EXTENSION pg_stat_statements; CREATE TABLE kept (phone text CHECK (phone = ''))")
    yield made, conninfo
    made.instance.stop()


def _found(place: tuple[Cluster, Conninfo], value: str) -> dict[str, int]:
    cluster, conninfo = place
    with connect(conninfo) as session:
        places = [*residue_places.of_cluster(session, cluster.instance.data), *residue_places.of_server(session)]
        places += residue_places.of_copy(cluster.log, "log")
        searched = residue.search([residue.Canary.of(value)], places)
    assert searched.unread == ()
    return searched.kinds


def _value() -> str:
    return f"canary{secrets.token_hex(8)}"


def test_a_statement_that_was_counted(counting: tuple[Cluster, Conninfo]) -> None:
    value = _value()
    with connect(counting[1]) as session:  # a query's constants become $1, those of other statements stay
        session.execute(f"DO $$ BEGIN PERFORM '{value}'; END $$".encode())
    assert _found(counting, value).get("pg_stat_statements", 0) > 0
    with connect(counting[1]) as session:
        session.execute("SELECT pg_stat_statements_reset()")
    assert "pg_stat_statements" not in _found(counting, value)


def test_a_row_that_was_refused_stands_in_the_log(counting: tuple[Cluster, Conninfo]) -> None:
    value = _value()
    with connect(counting[1]) as session, pytest.raises(psycopg.errors.CheckViolation) as refused:
        session.execute("INSERT INTO kept VALUES (%s)", [value])
    assert value in str(refused.value.diag.message_detail)
    log = counting[0].log.read_text().splitlines()
    assert [line.count("DETAIL:") for line in log if value in line] == [1]
    assert _found(counting, value)["log"] == 1


def test_a_temporary_file_of_a_cursor_that_is_held(counting: tuple[Cluster, Conninfo]) -> None:
    value = _value()
    rows = b"SELECT %s || n FROM generate_series(1, 20000) n"
    with connect(counting[1]) as session:
        session.execute("SET work_mem = '64kB'")
        with psycopg.ClientCursor(session) as cursor:
            cursor.execute(b"DECLARE held CURSOR WITH HOLD FOR " + rows, [value])
        assert _found(counting, value).get("temporary file", 0) > 10_000
    assert "temporary file" not in _found(counting, value)
