"""The vectors that the linter's effects are held against, asked of real servers again; a sample of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dbsec.migrations.effects.model import Work
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.comparing import done
from dbsec.migrations.oracle.observe import Observed, Observer
from dbsec.migrations.reading.parse import parse_text
from dbsec.pg import connect

VECTORS = Path(__file__).parents[1] / "vectors"
EVERY = 7  # of so many cases one is run; each major starts at another one
_OWN = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
_TABLES = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^pg_'"
)


def vectors(name: str) -> dict:
    return json.loads((VECTORS / f"migrations_{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def actor(database) -> Iterator[psycopg.Connection]:
    with connect(database.conninfo) as session:
        yield session


@pytest.fixture
def observer(database, actor) -> Iterator[Observer]:
    with connect(database.conninfo) as watcher:
        yield Observer(actor, watcher, lambda: connect(database.conninfo))


def fresh(session: psycopg.Connection, setup: str) -> set[Name]:
    """Make the setup in an empty schema; returns its tables."""
    session.execute("RESET ALL; SET client_min_messages = warning")
    for (name,) in session.execute(_OWN).fetchall():
        session.execute(f"DROP SCHEMA {name} CASCADE".encode())
    session.execute("CREATE SCHEMA public")
    session.execute(setup.encode())
    return {Name(*row) for row in session.execute(_TABLES.encode())}


def outcome(seen: Observed, tables: set[Name]) -> str:
    if seen.effect is None:
        return f"error {seen.error[0]}"
    locks = " ".join(
        f"{name.name}:{int(mode)}" for name, mode in sorted(seen.effect.locks) if mode >= 4 and name in tables
    )
    work = ", ".join(sorted(f"{work} {table.name}" for work, table in done(seen.effect.work, tables)))
    return f"{locks} | {work}" if work else locks


@pytest.mark.pg(15, 17, 18)
def test_a_server_still_does_what_the_vectors_say(actor, observer, pg_major):
    known, wrong = vectors("effects"), []
    for base, extra, sql, settings, outcomes in known["cases"][pg_major % EVERY :: EVERY]:
        wanted = outcomes.get("15..18") or outcomes.get(str(pg_major))
        if wanted is None:
            continue
        tables = fresh(actor, f"{known['schemas'].get(base, '')} {extra}")
        actor.execute(settings.encode())
        seen = outcome(observer.run(sql, parse_text(sql)[0].kind), tables)
        wrong += [] if seen == wanted else [f"{sql}: {seen}, not {wanted}"]
    assert not wrong, "\n".join(wrong)


@pytest.mark.pg(15, 17, 18)
def test_a_server_still_proves_what_the_vectors_say(actor, observer, pg_major):
    known, wrong = vectors("proofs"), []
    for setup, sql, scanned in known["cases"][pg_major % EVERY :: EVERY]:
        fresh(actor, f"{known['before']}; {setup}")
        seen = observer.run(sql, parse_text(sql)[0].kind)
        assert seen.effect is not None, (setup, sql, seen.error)
        found = sorted(task.table.name for task in seen.effect.work if task.work is Work.SCAN)
        wrong += [] if found == scanned else [f"{setup} {sql}: scans {found}, not {scanned}"]
    assert not wrong, "\n".join(wrong)
