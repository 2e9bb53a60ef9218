"""db/migrations from end to end as app_migrator, under the guards, beside a client of the old release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec.backfill.limits import ThrottleLimits
from dbsec.backfill.throttle import Throttle
from dbsec.migrations.runner import planning
from dbsec.migrations.runner.down import down
from dbsec.migrations.runner.obstacle import Block
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect, own
from dbsec.roles.accounts import set_password
from dbsec.roles.desired import Model
from dbsec.roles.diff import apply, plan
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

pytestmark = pytest.mark.pg(15, 17, 18)

ROOT = Path(__file__).resolve().parents[2]
MIGRATIONS = ROOT / "db" / "migrations"
PASSWORD = Secret("a-password-of-a-test-login")
USERS = 2500
A_DAY = """
INSERT INTO dbsec.release_samples (server, sampled_at)
SELECT 'primary', now() - i * interval '5 min' FROM generate_series(1, 300) i;
INSERT INTO dbsec.release_sightings (server, application_name, sessions) VALUES ('primary', 'app@green', 3)
"""


def _deployed(cluster: Cluster) -> tuple[Conninfo, Conninfo]:
    """Make the reference deployment; returns its superuser and app_migrator."""
    app = cluster.create_database("app")
    with connect(app) as admin:
        admin.execute((ROOT / "app" / "schema.sql").read_bytes())
        admin.execute("INSERT INTO app.tenants VALUES (DEFAULT, 'acme', 'Acme', sha256('k'))")
        admin.execute(
            "INSERT INTO app.users (tenant_id, name, email, phone)"
            " SELECT t.id, 'n', ' User' || i || '@Example.COM', '+' || i FROM app.tenants t, generate_series(1, %s) i",
            [USERS],
        )
        apply(admin, plan(admin, Model.load(ROOT / "db" / "roles.toml")))
        set_password(admin, "app_migrator", PASSWORD)
        own.install(admin, users=["app_migrator"])
        admin.execute((MIGRATIONS / "guardrails.sql").read_bytes())
    return app, app.but(user="app_migrator", password=PASSWORD)


def _target(login: Conninfo) -> Target:
    def reach() -> psycopg.Connection[Any]:
        return connect(login)

    limits = ThrottleLimits(max_transaction_s=None)
    settings = Settings(service="app", release="green")
    return Target(MIGRATIONS, reach, settings, throttled=lambda job: Throttle(limits, reach, table=job.table))


def test_the_migrator_runs_all_three_and_the_contract_waits_for_the_old_release(
    cluster_factory: Callable[..., Cluster],
) -> None:
    admin_of, login = _deployed(cluster_factory())
    target = _target(login)
    planned = planning.plan(target, Asked())
    assert [one.migration.number for one in planned.migrations] == [1, 2, 3]
    first = up(target, Asked())
    assert [one.migration.number for one in first.applied] == [1, 2]
    assert {one.block for one in first.obstacles} == {Block.NOT_OBSERVED}
    assert first.obstacles[0].unknown
    with connect(admin_of) as admin:
        left = admin.execute("SELECT count(*) FROM app.users WHERE email_normalized <> lower(btrim(email))").fetchone()
        assert left == (0,)
        admin.execute("GRANT pg_read_all_stats TO app_migrator")
        admin.execute(A_DAY.encode())
    with connect(admin_of, application_name="app@blue"):
        assert {one.block for one in up(target, Asked()).obstacles} == {Block.OLD_RELEASE}
    with connect(admin_of) as admin:
        admin.execute("DELETE FROM dbsec.release_sightings WHERE application_name = 'app@blue'")
        admin.execute("SET session_replication_role = replica")  # past the trigger
        admin.execute("UPDATE app.users SET email_normalized = 'stale' WHERE phone = '+7'")
    (refused,) = up(target, Asked()).obstacles
    assert refused.block is Block.NOT_VERIFIED
    assert "1 rows are not what it makes of them now" in refused.message
    with connect(admin_of) as admin:
        admin.execute("UPDATE app.users SET email_normalized = lower(btrim(email)) WHERE phone = '+7'")
    last = up(target, Asked())
    assert not last.obstacles
    assert [one.migration.number for one in last.applied] == [3]
    back = down(target, Asked(to=0))
    assert [one.block for one in back.obstacles] == [Block.ROLL_FORWARD]
    for to in (2, 0):
        back = down(target, Asked(to=to, force="the release was withdrawn"))
        assert not back.obstacles
    with connect(admin_of) as admin:
        shape = "SELECT FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attname = 'email_normalized'"
        assert admin.execute(shape.encode()).fetchone() is None
        assert admin.execute("SELECT count(*) FROM dbsec.backfills").fetchone() == (0,)
        roles = [change for change in plan(admin, Model.load(ROOT / "db" / "roles.toml")) if "dbsec" in str(change)]
        assert not roles
    again = up(target, Asked(to=2))
    assert [one.migration.number for one in again.applied] == [1, 2]
