"""A standby's clients are seen there alone, and a physical clone is a canary although it has production's identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec import retry
from dbsec.errors import ConnectError
from dbsec.lab import ports
from dbsec.migrations.runner import planning
from dbsec.migrations.runner.canary import rehearse, unfit
from dbsec.migrations.runner.obstacle import Block
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.runner.watching import watch
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect, own
from dbsec.pg.instance import Instance
from dbsec.testing.clusters import Cluster

STANDBY = "env:STANDBY_DSN"
A_DAY = """
INSERT INTO dbsec.release_samples (server, sampled_at)
SELECT server, now() - i * interval '5 min'
  FROM generate_series(1, 300) i, (VALUES ('primary'), ('env:STANDBY_DSN')) s(server);
INSERT INTO dbsec.release_sightings (server, application_name, sessions) VALUES ('primary', 'app@green', 3)
"""


@pytest.fixture
def server(cluster_factory: Callable[..., Cluster]) -> Cluster:
    return cluster_factory()


@pytest.fixture
def primary(server: Cluster) -> Conninfo:
    conninfo = server.create_database("app")
    with connect(conninfo) as admin:
        admin.execute("CREATE SCHEMA app; CREATE TABLE app.users (id bigint PRIMARY KEY, phone text)")
        own.install(admin)
        admin.execute(A_DAY.encode())
    return conninfo


@pytest.fixture
def standby(server: Cluster, primary: Conninfo) -> Iterator[Instance]:
    data = server.instance.data.parent / "standby"
    made = Instance(server.instance.binaries, data, ports.free(1)[0], data.with_suffix(".log"), server.account)
    made.clone(server.admin, slot="standby1")
    made.start()
    yield made
    made.destroy()


def test_a_standby_is_looked_at_and_once_promoted_is_a_canary(
    primary: Conninfo, standby: Instance, tmp_path: Path
) -> None:
    (tmp_path / "001_drop.sql").write_text("-- dbsec: phase contract\nALTER TABLE app.users DROP COLUMN phone;\n")
    there = primary.but(port=standby.port)

    def at_primary() -> psycopg.Connection[Any]:
        return connect(primary)

    def at_standby() -> psycopg.Connection[Any]:
        return connect(there)

    def target(**settings: Any) -> Target:
        chosen = Settings(service="app", release="green", **settings)
        others = {STANDBY: at_standby} if settings else {}
        return Target(tmp_path, at_primary, chosen, others=others)

    with closing(at_primary()) as admin:
        streams = "SELECT count(*) = 1 FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"
        retry.wait_until(lambda: admin.execute(streams.encode()).fetchone() == (True,), within_s=20, what=streams)
    (unseen,) = up(target(), Asked()).obstacles
    assert unseen.unknown
    assert "1 more standby streams from this server" in unseen.message
    with connect(there, application_name="app@blue"):
        (old,) = up(target(observed=(STANDBY,)), Asked()).obstacles
    assert old.block is Block.OLD_RELEASE
    assert f"'app@blue' has 1 session now at '{STANDBY}'" in old.message
    assert [one.message for one in unfit(at_primary, at_standby)] == [
        "the canary is a standby, on which nothing can be run"
    ]
    with closing(at_standby()) as admin:
        admin.execute("SELECT pg_promote()")
    with closing(at_primary()) as one, closing(at_standby()) as other:
        identity = "SELECT (pg_control_system()).system_identifier, oid FROM pg_database WHERE datname = 'app'"
        assert one.execute(identity.encode()).fetchone() == other.execute(identity.encode()).fetchone()
    assert not rehearse(target(), at_standby, Asked()).obstacles
    with closing(at_primary()) as one, closing(at_standby()) as other:
        count = "SELECT count(*) FROM dbsec.migrations"
        assert (one.execute(count.encode()).fetchone(), other.execute(count.encode()).fetchone()) == ((0,), (1,))


def test_a_standby_is_named_by_all_that_would_write(primary: Conninfo, standby: Instance, tmp_path: Path) -> None:
    (tmp_path / "001_x.sql").write_text("-- dbsec: phase expand\nALTER TABLE app.users ADD COLUMN x text;\n")
    there = primary.but(port=standby.port)
    target = Target(tmp_path, lambda: connect(there), Settings())
    (found,) = planning.plan(target, Asked()).obstacles
    assert (found.block, found.unknown) == (Block.READ_ONLY, True)
    for act in (lambda: up(target, Asked()), lambda: watch(target, every_s=1, for_s=0)):
        with pytest.raises(ConnectError, match="is a standby") as caught:
            act()
        assert "primary" in caught.value.hint
