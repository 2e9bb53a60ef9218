"""Roles: the service gives up superuser, owners do not log in, and privileged work is on record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbsec import roles
from dbsec.demo.baseline import LEGACY
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.evidence import Drill
from dbsec.roles import audit_log, drill

_LOGINS = ("app_gateway", "app_migrator", "app_backup", "app_bi")


def drills(stage: Stage) -> Sequence[Drill]:
    """Attack as the service and as whoever changes the schema."""
    target = drill.RolesTarget(
        service=lambda: stage.login("service"),
        migrator=lambda: stage.login("migrator"),
        admin=lambda: stage.login("admin"),
        server_log=stage.server_log,
    )
    return drill.drills(target)


def harden(stage: Stage) -> Iterator[Seen]:
    """Apply db/roles.toml, move service, migrator and standby to their own roles, and retire the old login."""
    model = roles.Model.load(stage.deployment / "db/roles.toml")
    with stage.admin() as admin:
        roles.apply(admin, roles.plan(admin, model))
        for name in _LOGINS:
            roles.set_password(admin, name, stage.password(name))
        audit_log.apply(admin, audit_log.plan(admin, model))
    as_found = stage.login("service")
    stage.reconnect_service(as_found.but(user="app_gateway", password=stage.password("app_gateway")))
    stage.logins["migrator"] = as_found.but(user="app_migrator", password=stage.password("app_migrator"))
    standby = stage.login("standby").but(user="app_backup", password=stage.password("app_backup"))
    stage.lab.standby.follow(standby)
    stage.logins["standby"] = standby
    with stage.admin() as admin:
        roles.retire(admin, LEGACY)


CHAPTER = Chapter(
    name="roles",
    order=20,
    title="Least privilege",
    summary=(
        "Owners cannot log in, the service may read and write rows and no more, the migrator changes the schema and "
        "is on record. The old superuser login is retired."
    ),
    drills=drills,
    harden=harden,
)
