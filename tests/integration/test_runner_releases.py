"""Who is connected, by name: seen on real servers, remembered, and judged before a contract."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from dbsec.migrations.runner import releases
from dbsec.migrations.runner.obstacle import Block
from dbsec.migrations.runner.releases import PRIMARY
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import Outcome, up
from dbsec.migrations.runner.watching import watch
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect, own
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

GAP = timedelta(minutes=10)
CONTRACT = "-- dbsec: phase contract\nSET lock_timeout = '1s';\nALTER TABLE app.users DROP COLUMN phone;\n"
# as if somebody had looked every five minutes for 25 hours, and seen the new release
A_DAY = """
INSERT INTO dbsec.release_samples (server, sampled_at)
SELECT 'primary', now() - i * interval '5 min' FROM generate_series(1, 300) i;
INSERT INTO dbsec.release_sightings (server, application_name, sessions) VALUES ('primary', 'app@green', 3);
"""


class Database(Protocol):
    """What the fixture ``database`` gives."""

    cluster: Cluster
    conninfo: Conninfo


class Site:
    """A database whose users lose their phone, and clients of it by name."""

    def __init__(self, conninfo: Conninfo, folder: Path) -> None:
        self.conninfo, self.folder = conninfo, folder
        (folder / "001_phone.sql").write_text(CONTRACT)
        with self.connect() as admin:
            admin.execute("CREATE SCHEMA app; CREATE TABLE app.users (id bigint PRIMARY KEY, phone text)")
            own.install(admin)

    def connect(self, name: str = "") -> psycopg.Connection[Any]:
        return connect(self.conninfo, application_name=name)

    def up(self, force: str = "", **settings: Any) -> Outcome:
        chosen = Settings(**{"service": "app", "release": "green", **settings})
        return up(Target(self.folder, self.connect, chosen), Asked(force=force))

    def execute(self, statement: str) -> None:
        with self.connect() as admin:
            admin.execute(statement.encode())


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database.conninfo, tmp_path)


@pytest.fixture
def clients(site: Site) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def blocks(outcome: Outcome) -> set[Block]:
    return {one.block for one in outcome.obstacles}


def test_a_contract_on_a_database_that_nobody_watched_is_refused(site: Site) -> None:
    refused = site.up()
    assert blocks(refused) == {Block.NOT_OBSERVED}
    assert all(one.unknown for one in refused.obstacles)
    assert any("not observed for long enough" in one.message for one in refused.obstacles)
    assert not refused.applied


@pytest.mark.pg(15, 17, 18)
def test_a_watched_day_without_the_old_release_lets_the_contract_run(site: Site, clients: ExitStack) -> None:
    site.execute(A_DAY)
    clients.enter_context(site.connect("app@green"))
    done = site.up()
    assert not done.obstacles
    assert [one.migration.number for one in done.applied] == [1]


def test_one_gap_in_the_day_is_enough_to_refuse(site: Site) -> None:
    site.execute(A_DAY)
    site.execute(
        "DELETE FROM dbsec.release_samples WHERE sampled_at BETWEEN now() - '8h'::interval AND now() - '7h'::interval"
    )
    (refused,) = site.up().obstacles
    assert refused.block is Block.NOT_OBSERVED
    assert not site.up(sample_gap_s=7200).obstacles


def test_an_idle_connection_of_an_old_pool_refuses_and_is_remembered_after_it_has_gone(
    site: Site, clients: ExitStack
) -> None:
    site.execute(A_DAY)
    old = clients.enter_context(site.connect("app@blue"))
    (now,) = site.up().obstacles
    assert now.block is Block.OLD_RELEASE
    assert "'app@blue' has 1 session now" in now.message
    old.close()
    (later,) = site.up().obstacles
    assert later.block is Block.OLD_RELEASE
    assert "'app@blue' was last seen" in later.message
    site.execute(
        "UPDATE dbsec.release_sightings SET last_seen = last_seen - interval '25 h' WHERE application_name = 'app@blue'"
    )
    assert not site.up().obstacles


def test_a_client_without_a_name_refuses(site: Site, clients: ExitStack) -> None:
    site.execute(A_DAY)
    nameless = clients.enter_context(site.connect("app@green"))
    nameless.execute("SET application_name = ''")
    assert blocks(site.up()) == {Block.UNNAMED_CLIENT}


def test_a_reason_goes_past_the_gate_and_is_recorded_with_what_it_went_past(site: Site, clients: ExitStack) -> None:
    clients.enter_context(site.connect("app@blue"))
    done = site.up(force="blue is a report that reads nothing of users")
    assert [one.migration.number for one in done.applied] == [1]
    assert {one.block for one in done.forced} == {Block.OLD_RELEASE, Block.NOT_OBSERVED}
    with site.connect() as admin:
        row = admin.execute(
            "SELECT number, detail, run_by FROM dbsec.migration_events WHERE event = 'forced'"
        ).fetchone()
    assert row is not None
    assert row[0] == 1
    assert row[1].startswith("blue is a report that reads nothing of users; past: ")
    assert "'app@blue' has 1 session now" in row[1]
    assert row[2] == "postgres"


@pytest.mark.pg(17)
def test_prepared_transactions_are_seen_on_a_server_that_allows_them(cluster_factory: Any, tmp_path: Path) -> None:
    cluster: Cluster = cluster_factory(max_prepared_transactions="2")
    site = Site(cluster.create_database("app"), tmp_path)
    site.execute(A_DAY)
    with site.connect("app@green") as client:
        client.execute("BEGIN")
        client.execute("INSERT INTO app.users VALUES (1, '+1')")
        client.execute("PREPARE TRANSACTION 'of-blue'")
    (refused,) = site.up().obstacles
    assert refused.block is Block.PREPARED
    assert "COMMIT PREPARED or ROLLBACK PREPARED 'of-blue'" in refused.hint
    site.execute("ROLLBACK PREPARED 'of-blue'")
    assert not site.up().obstacles


# --- what our role may see


@pytest.fixture
def role(database: Database) -> Iterator[Conninfo]:
    """An ordinary login, as the reference deployment's migrator: it acts as a group without a right to see others."""
    name = f"r_{secrets.token_hex(4)}"
    with connect(database.conninfo) as admin:
        admin.execute(f"CREATE ROLE {name}_owner NOLOGIN; CREATE ROLE {name} LOGIN NOINHERIT PASSWORD 'pw'".encode())
        admin.execute(f"GRANT {name}_owner TO {name}; ALTER ROLE {name} SET role = {name}_owner".encode())
    yield database.conninfo.but(user=name, password=Secret("pw"))
    with connect(database.conninfo) as admin:
        admin.execute(f"DROP OWNED BY {name}, {name}_owner; DROP ROLE {name}, {name}_owner".encode())


@pytest.mark.pg(15, 17, 18)
def test_a_role_that_sees_too_little_says_so_and_records_nothing(
    site: Site, role: Conninfo, clients: ExitStack
) -> None:
    own_role, act_as = role.user, f"{role.user}_owner"
    with site.connect() as admin:
        own.install(admin, users=[own_role, act_as])
    clients.enter_context(site.connect("app@blue"))
    with connect(role) as connection:
        seen = releases.observe(connection, {}, gap=GAP)
        assert seen.looks[PRIMARY].hidden == 1
        assert seen.looks[PRIMARY].role == own_role
        assert seen.observed[PRIMARY].since is None
        assert not seen.sightings
        site.execute(f"GRANT pg_read_all_stats TO {own_role}")
    with connect(role) as connection:
        seen = releases.observe(connection, {}, gap=GAP)
        assert dict(seen.looks[PRIMARY].sessions) == {"app@blue": 1}
        assert seen.looks[PRIMARY].hidden == 0
        assert seen.observed[PRIMARY].since is not None
        (user,) = connection.execute("SELECT current_user").fetchone() or ("",)
        assert user == act_as  # as before the look


def test_a_watcher_looks_again_and_again_and_tells_what_changes(site: Site, clients: ExitStack) -> None:
    clients.enter_context(site.connect("app@blue"))
    told: list[str] = []

    class Told:
        def step(self, text: str) -> None:
            told.append(text)

        def count(self, text: str, done: int, total: int) -> None:
            return

    target = Target(site.folder, site.connect, Settings(service="app", release="green"), progress=Told())
    watch(target, every_s=0.05, for_s=0.2)
    assert told == ["connected: app@blue (old)"]
    with site.connect() as admin:
        assert (admin.execute("SELECT count(*) FROM dbsec.release_samples").fetchone() or (0,))[0] >= 3


def test_a_role_that_may_only_read_looks_and_records_nothing(site: Site, role: Conninfo) -> None:
    group = f"{role.user}_owner"
    with site.connect() as admin:
        own.install(admin)
        admin.execute(
            f"GRANT USAGE ON SCHEMA dbsec TO {group}; GRANT SELECT ON ALL TABLES IN SCHEMA dbsec TO {group}".encode()
        )
        admin.execute(f"GRANT pg_read_all_stats TO {role.user}".encode())
    with connect(role) as connection:
        seen = releases.observe(connection, {}, gap=GAP)
    assert seen.looks[PRIMARY].hidden == 0
    assert seen.observed[PRIMARY].since is None
