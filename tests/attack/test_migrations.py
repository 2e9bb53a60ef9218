"""The drills of safe migrations, on a real server: as found, under guard and runner, and with each taken away."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dbsec.errors import ApplyError
from dbsec.evidence import Outcome
from dbsec.lab.deployment import deployment_folder
from dbsec.migrations.drill import Deploy, MigrationTarget, drills
from dbsec.migrations.guard import Policy, install
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect, own

SCHEMA = deployment_folder() / "app" / "schema.sql"
POLICY = {"max_table_size": "1MB", "protected": {"table": ["app.orders"]}}


def by_hand(conninfo: Conninfo) -> Deploy:
    def deploy(_: str, text: str) -> None:
        with connect(conninfo) as session:
            session.execute(text.encode())

    return deploy


def by_runner(conninfo: Conninfo, folder: Path) -> Deploy:
    """Run it as the only migration of a folder, whatever is known of others."""

    def deploy(name: str, text: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / f"001_{name}").write_text(text)
        try:
            done = up(Target(folder, lambda: connect(conninfo), Settings()), Asked(force=""))
        finally:
            shutil.rmtree(folder)
        if done.obstacles:
            raise ApplyError(done.obstacles[0].message)

    return deploy


@pytest.fixture
def attacked(database: Any) -> Iterator[Callable[..., dict[str, Outcome]]]:
    with connect(database.conninfo) as admin:
        admin.execute(SCHEMA.read_bytes())

    def run(*, deploy: Deploy, only: str = "") -> dict[str, Outcome]:
        here: Callable[[], Conninfo] = lambda: database.conninfo  # noqa: E731
        target = MigrationTarget(here, here, here, deploy)
        return {drill.name: drill.attack().outcome for drill in drills(target) if only in drill.control.id}

    yield run
    with connect(database.conninfo) as admin:
        assert admin.execute("SELECT to_regclass('app.dbsec_drill_twin') IS NULL").fetchone() == (True,)


def hardened(conninfo: Conninfo) -> None:
    with connect(conninfo) as admin:
        own.install(admin)
        install(admin, Policy.of(POLICY, where="the test"))


@contextmanager
def mode(conninfo: Conninfo, guard: str, mode: str) -> Iterator[None]:
    with connect(conninfo) as admin:
        admin.execute("UPDATE dbsec_guard.guards SET mode = %s WHERE name = %s", [mode, guard])
        yield
        admin.execute("UPDATE dbsec_guard.guards SET mode = 'enforce' WHERE name = %s", [guard])


@pytest.mark.pg(15, 17, 18)
def test_each_attack_succeeds_as_found_and_is_refused_by_guard_and_runner(
    attacked: Any, database: Any, tmp_path: Path
) -> None:
    assert set(attacked(deploy=by_hand(database.conninfo)).values()) == {Outcome.FAIL}
    hardened(database.conninfo)
    assert set(attacked(deploy=by_runner(database.conninfo, tmp_path / "folder")).values()) == {Outcome.PASS}


@pytest.mark.parametrize("taken", ["off", "observe"])
def test_a_guard_that_is_taken_away_is_found(attacked: Any, database: Any, taken: str) -> None:
    hardened(database.conninfo)
    for guard in ("rewrite", "index", "drop", "definer"):
        with mode(database.conninfo, guard, taken):
            seen = attacked(deploy=by_hand(database.conninfo), only=f"GUARD-{guard.upper()}")
            assert set(seen.values()) == {Outcome.FAIL}, guard


def test_a_deployment_by_hand_is_found_under_the_guard_too(attacked: Any, database: Any) -> None:
    hardened(database.conninfo)
    assert attacked(deploy=by_hand(database.conninfo), only="MIG-QUEUE") == {
        "add a column while a report holds the table": Outcome.FAIL
    }
