"""Roles: the service gives up superuser, owners do not log in, and privileged work is on record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from dbsec.demo.baseline import LEGACY
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.evidence import Control, Drill, Observation, Outcome
from dbsec.roles import Model, Retired, RolesTarget, apply, audit_log, exhibit, matrix, plan, retire, set_password
from dbsec.roles import drills as attacks

_OWNER = "app_owner"

MODEL = Control(
    "ROL-MODEL",
    "The roles of the server are those of one reviewed file",
    "rights that were granted by hand, in a hurry, are never taken back",
    ("OWASP A05:2021", "NIST SP 800-53 AC-2", "NIST SP 800-53 AC-6(7)"),
)


def drills(stage: Stage) -> Sequence[Drill]:
    """Attack as the service and as whoever changes the schema."""
    target = RolesTarget(
        service=lambda: stage.login("service"),
        migrator=lambda: stage.login("migrator"),
        admin=lambda: stage.login("admin"),
        server_log=stage.server_log,
    )
    return attacks(target)


def harden(stage: Stage) -> Iterator[Seen]:
    """Apply db/roles.toml, move service, migrator and standby to their own roles, and retire the old login."""
    model = Model.load(stage.deployment / "db/roles.toml")
    with stage.admin() as admin:
        changes = apply(admin, plan(admin, model))
        for name in (name for name, role in model.roles.items() if role.can_login):
            set_password(admin, name, stage.password(name))
        audit_log.apply(admin, audit_log.plan(admin, leave=[LEGACY]))
    _move(stage)
    with stage.admin() as admin:
        retired = retire(admin, LEGACY, heir=_OWNER)
        yield MODEL, "plan again after the change", _settled(admin, model, changes, retired)


def _move(stage: Stage) -> None:
    """Give each client the login that is its own; the service does not notice."""
    as_found = stage.login("service")
    stage.reconnect_service(as_found.but(user="app_gateway", password=stage.password("app_gateway")))
    stage.logins["migrator"] = as_found.but(user="app_migrator", password=stage.password("app_migrator"))
    standby = stage.login("standby").but(user="app_backup", password=stage.password("app_backup"))
    stage.lab.standby.follow(standby)
    stage.logins["standby"] = standby


def _settled(admin: psycopg.Connection[Any], model: Model, changes: int, retired: Retired) -> Observation:
    left = len(list(plan(admin, model)))
    return Observation(
        Outcome.PASS if left == 0 and retired.still_owned == 0 else Outcome.FAIL,
        f"{changes} changes in one transaction, then none left; '{retired.role}' is retired with "
        f"{retired.sessions_ended} sessions and owns nothing",
        {"changes": changes, "left": left, "sessions_ended": retired.sessions_ended, "owned": retired.still_owned},
        [exhibit(model), matrix(model)],
    )


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
