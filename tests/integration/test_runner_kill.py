"""kill -9 at every step of up and of down: whatever was done is done once, and the rest is done by the next run."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbsec.errors import ProgramError
from dbsec.journal import Edge
from dbsec.migrations.runner.stepping import turns_of
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.script import Script
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect, own
from dbsec.testing.clusters import Cluster
from dbsec.testing.faults import Job, survives_kill_at_every_step

# Nothing here may be run twice: no IF NOT EXISTS, and rows that would be there again.
UP = """-- dbsec: phase expand
SET lock_timeout = '1s';
ALTER TABLE app.users ADD COLUMN phone_enc bytea;
INSERT INTO app.audit (what) VALUES ('phone_enc was added');
CREATE INDEX CONCURRENTLY users_phone_enc ON app.users (phone_enc);
BEGIN;
ALTER TABLE app.users ADD COLUMN both_or_none text;
INSERT INTO app.audit (what) VALUES ('both_or_none was added');
COMMIT;
"""
DOWN = """SET lock_timeout = '1s';
ALTER TABLE app.users DROP COLUMN both_or_none;
INSERT INTO app.audit (what) VALUES ('gone');
DROP INDEX CONCURRENTLY app.users_phone_enc;
ALTER TABLE app.users DROP COLUMN phone_enc;
"""
SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.users (id bigint PRIMARY KEY);
CREATE TABLE app.audit (id bigint GENERATED ALWAYS AS IDENTITY, what text);
INSERT INTO app.users SELECT generate_series(1, 100);
"""


@pytest.fixture
def template(cluster: Cluster) -> Iterator[Conninfo]:
    name = f"t_{secrets.token_hex(4)}"
    conninfo = cluster.create_database(name)
    with connect(conninfo) as admin:
        admin.execute(SETUP)
        own.install(admin)
    yield conninfo
    cluster.drop_database(name)


@pytest.fixture
def prepare(cluster: Cluster, template: Conninfo) -> Iterator[Callable[[Path], None]]:
    """Make a folder with the migration, and a database of its own from the template."""
    numbers = itertools.count(1)
    made: list[str] = []

    def prepare(folder: Path) -> None:
        name = f"{template.dbname}_{next(numbers)}"
        with connect(cluster.admin) as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template.dbname}".encode())
        made.append(name)
        (folder / "dsn.txt").write_text(template.but(dbname=name).text())
        (folder / "001_phone.sql").write_text(UP)
        (folder / "001_phone.down.sql").write_text(DOWN)

    yield prepare
    for name in made:
        cluster.drop_database(name)


def _query(folder: Path, query: str) -> list[tuple[object, ...]]:
    with connect(Conninfo.parse((folder / "dsn.txt").read_text())) as admin:
        return admin.execute(query.encode()).fetchall()


COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attnum > 0 AND NOT attisdropped"
INDEXES = (
    "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'app.users'::regclass ORDER BY 1"
)
STATE = "SELECT state, run FROM dbsec.migrations"


def all_is_there_once(folder: Path) -> None:
    assert _query(folder, COLUMNS) == [("id",), ("phone_enc",), ("both_or_none",)]
    assert _query(folder, INDEXES) == [("app.users_phone_enc", True), ("app.users_pkey", True)]
    assert _query(folder, "SELECT what FROM app.audit ORDER BY id") == [
        ("phone_enc was added",),
        ("both_or_none was added",),
    ]
    assert _query(folder, STATE) == [("applied", 1)]


def all_is_gone_once(folder: Path) -> None:
    assert _query(folder, COLUMNS) == [("id",)]
    assert _query(folder, INDEXES) == [("app.users_pkey", True)]
    assert _query(folder, "SELECT count(*) FROM app.audit WHERE what = 'gone'") == [(1,)]
    assert _query(folder, STATE) == [("reverted", 1)]


def test_up_survives_a_kill_at_every_step(prepare: Callable[[Path], None], tmp_path: Path) -> None:
    job = Job("runner_jobs:forwards", prepare, [Path(__file__).parent])
    deaths = survives_kill_at_every_step(job, scratch=tmp_path, check=all_is_there_once)
    assert len(deaths) == 3 * 4 + 3  # each turn at its three edges, and around the ledger
    assert {edge for _, edge in deaths} == set(Edge)


def test_down_survives_a_kill_at_every_step_that_is_not_upward_too(
    prepare: Callable[[Path], None], tmp_path: Path
) -> None:
    def applied(folder: Path) -> None:
        prepare(folder)
        conninfo = Conninfo.parse((folder / "dsn.txt").read_text())
        assert not up(Target(folder, lambda: connect(conninfo), Settings()), Asked()).obstacles

    job = Job("runner_jobs:backwards", applied, [Path(__file__).parent])
    concurrently = turns_of(Script("", DOWN))[3].name
    ledger = {f"001_phone {word}" for word in ("reverting", "reversed", "reverted")}
    deaths = survives_kill_at_every_step(job, scratch=tmp_path, check=all_is_gone_once, steps={concurrently, *ledger})
    assert len(deaths) == 3 + 3


def test_a_runner_without_a_journal_would_be_found(prepare: Callable[[Path], None], tmp_path: Path) -> None:
    """The guard broken on purpose: what forgets that a statement was run, runs it again."""
    job = Job("runner_jobs:forgets", prepare, [Path(__file__).parent])
    with pytest.raises(ProgramError, match=r"already exists"):
        survives_kill_at_every_step(job, scratch=tmp_path, check=all_is_there_once, steps={"001_phone run"})


FILL = """# dbsec: phase backfill
format = 1
table = "app.users"
key = "id"
set = "phone = id::text"
where = "phone IS NULL"
"""


def test_a_backfill_of_a_release_survives_a_kill_on_the_way_and_back(
    prepare: Callable[[Path], None], tmp_path: Path
) -> None:
    def filled(folder: Path) -> None:
        prepare(folder)
        (folder / "001_phone.sql").write_text("-- dbsec: phase expand\nALTER TABLE app.users ADD COLUMN phone text;\n")
        (folder / "001_phone.down.sql").write_text("ALTER TABLE app.users DROP COLUMN phone;\n")
        (folder / "002_fill.toml").write_text(FILL)
        (folder / "002_fill.check.sql").write_text("SELECT count(*) = 0 FROM app.users WHERE phone <> id::text")

    def nothing_is_left(folder: Path) -> None:
        assert _query(folder, COLUMNS) == [("id",)]
        assert _query(folder, "SELECT count(*) FROM dbsec.backfills") == [(0,)]
        events = [event for (event,) in _query(folder, "SELECT event FROM dbsec.migration_events ORDER BY id")]
        assert events[:2] == ["applied", "applied"]

    job = Job("runner_jobs:fills", filled, [Path(__file__).parent])
    steps = {"002_fill run", "002_fill reversed"}
    assert len(survives_kill_at_every_step(job, scratch=tmp_path, check=nothing_is_left, steps=steps)) == 2
